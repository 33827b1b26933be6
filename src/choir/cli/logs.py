"""``choir logs``: what hypervisor, gateway and sandboxes wrote, in one order, joined by ids."""

from __future__ import annotations

import argparse
import collections
import contextlib
import heapq
import json
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from choir.app import log_sources
from choir.app.log_entries import Entry, Selection, since
from choir.deploy import services
from choir.errors import ChoirError
from choir.paths import State, default_state

DEFAULT_SINCE = "24h"
TAIL = 10
"""Entries that ``--follow`` begins with when nothing else was said."""
POLL_SECONDS = 0.3

Source = log_sources.Files | log_sources.Journal


def logs(arguments: argparse.Namespace) -> int:
    """
    Raises:
        ChoirError: ``unknown_id``: no line has it; ``since_invalid``, ``id_too_short``, ``journal_unreadable``.
    """
    where, units = _deployment(arguments.state)
    asked = arguments.since or ("" if arguments.id else DEFAULT_SINCE)
    start = since(asked, time.time()) if asked else ""
    chosen = Selection(arguments.id or "", arguments.user or "", arguments.level, _owners(where))
    if arguments.id or arguments.user:
        with _sources(where, units) as sources:
            for found in _merged(sources, start):
                chosen.learn(found)
    with _sources(where, units) as sources:
        wanted: Iterator[Entry] = (
            found for found in _merged(sources, start) if found.at >= start and chosen.wants(found)
        )
        if arguments.follow and not (arguments.since or arguments.id):
            wanted = iter(collections.deque(wanted, TAIL))
        number = 0
        for number, found in enumerate(wanted, 1):  # noqa: B007 - the last number is what counts
            _print(found, arguments.json)
        if arguments.follow:
            _follow(where, sources, chosen, arguments.json)
    if not number:
        _nothing(arguments.id, where, start)
    return 0


def _deployment(state: Path | None) -> tuple[State, tuple[str, ...]]:
    """The state folder, and systemd's units when they are what runs on it."""
    shown = services.show(services.UNITS)
    units_state = services.state_of(shown)
    if units_state and (state is None or str(state.absolute()) == units_state):
        return State(Path(units_state)), tuple(shown)
    return State(state.absolute()) if state else default_state(), ()


@contextlib.contextmanager
def _sources(state: State, units: tuple[str, ...]) -> Iterator[list[Source]]:
    sources: list[Source] = [log_sources.Files(path) for path in log_sources.files(state)]
    if units:
        sources.append(log_sources.Journal(units))
    try:
        yield sources
    finally:
        for source in sources:
            source.close()


def _merged(sources: list[Source], start: str) -> Iterator[Entry]:
    return heapq.merge(*(source.read(start) for source in sources), key=lambda found: found.at)


def _owners(state: State) -> dict[str, str]:
    """Persons by the label of their sandboxes; {} when the registry cannot tell."""
    if not state.registry.exists():
        return {}
    try:
        uri = f"{state.registry.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=5.0)) as database:
            return {str(label): str(user) for label, user in database.execute("SELECT label, user FROM sandboxes")}
    except sqlite3.Error:
        return {}


def _follow(state: State, sources: list[Source], chosen: Selection, as_json: bool) -> None:
    """Until interrupted."""
    for source in sources:
        if isinstance(source, log_sources.Journal):
            source.follow()
    while True:
        known = {source.path for source in sources if isinstance(source, log_sources.Files)}
        sources += [log_sources.Files(path) for path in log_sources.files(state) if path not in known]
        for found in sorted(_all_new(sources), key=lambda entry: entry.at):
            chosen.learn(found)
            if chosen.wants(found):
                _print(found, as_json)
        time.sleep(POLL_SECONDS)


def _all_new(sources: list[Source]) -> Iterator[Entry]:
    for source in sources:
        yield from source.read()


def _print(found: Entry, as_json: bool) -> None:
    print(json.dumps(found.as_dict(), ensure_ascii=False) if as_json else found.line(), flush=True)


def _nothing(name: str | None, state: State, start: str) -> None:
    up = services.up_of(state)
    if up is not None and up.get("log_files") is False:
        print("choir: this `choir up` writes its log where it was started, not into files.", file=sys.stderr)
    if name:
        raise ChoirError("unknown_id", f"No line has the id {name}.", "choir usage lists calls, with their sandboxes.")
    print(f"choir: nothing of that since {start[:19].replace('T', ' ')} UTC in {state.logs}.", file=sys.stderr)
