"""``choir upgrade`` and ``choir rollback``: from one version of a server to another, and back."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from choir.deploy import rehearsal, services, wheel
from choir.deploy.journal import Entry, Journal
from choir.deploy.machine import Machine
from choir.deploy.upgrade import Upgrade
from choir.errors import ChoirError, UsageError
from choir.installation import Installation, find


def upgrade(arguments: argparse.Namespace) -> int:
    """
    Raises:
        ChoirError: as ``choir.deploy.upgrade``; the version in force is a whole one all the same.
    """
    installation = _installation()
    seen = wheel.look(arguments.wheel) if arguments.wheel else None
    journal, said = Journal(installation), _Said(arguments.json)
    with journal.held(), _told_of_a_break():
        done = _resumed(installation, journal, arguments, said)
        if seen is None:
            if done is None and not said.steps:
                raise UsageError("no_wheel", "Nothing was broken off.", "To upgrade: choir upgrade WHEEL")
            return _ended(done, said, installation)
        if done is not None:
            if installation.in_force() == seen.version:
                return _ended(done, said, installation)
            raise ChoirError(
                "other_change_ended",
                f"The broken-off {done.kind} from {done.old} to {done.new} is ended; {seen.version} was not begun.",
                "Run it again.",
            )
        deployment = services.find(installation, arguments.state, arguments.config)
        machine = Machine(installation, deployment, arguments.find_links)
        said.told("check", f"{seen.path.name}, {', '.join(machine.check(seen))}")
        if arguments.dry_run:
            return _plan(machine, seen, said)
        return _ended(_procedure(installation, journal, machine, said).upgrade(seen), said, installation)


def rollback(arguments: argparse.Namespace) -> int:
    """
    Raises:
        ChoirError: as ``choir.deploy.upgrade``.
    """
    installation = _installation()
    journal, said = Journal(installation), _Said(arguments.json)
    with journal.held(), _told_of_a_break():
        done = _resumed(installation, journal, arguments, said)
        if done is not None and done.kind == "rollback":
            return _ended(done, said, installation)
        deployment = services.find(installation, arguments.state, arguments.config)
        procedure = _procedure(installation, journal, Machine(installation, deployment), said)
        if not arguments.dry_run:
            return _ended(procedure.rollback(arguments.restore_data), said, installation)
        entry = procedure.plan_rollback()
        for loss in procedure.losses(entry) or ["stays as it is"]:
            said.told("data", loss)
        said.told("switch", f"{installation.link} → versions/{entry.old}")
        said.told("restart", services.described(deployment))
        return said.end({"from": entry.new, "to": entry.old}, "Nothing was changed.")


class _Said:
    """Steps as they come for a person, or all of them at the end for a program."""

    def __init__(self, as_json: bool) -> None:
        self.steps: list[dict[str, str]] = []
        self._as_json = as_json
        self._live = not as_json and sys.stdout.isatty()

    def told(self, step: str, words: str) -> None:
        if words:
            self.steps.append({"step": step, "message": words})
        if self._live:
            print(f"\r\033[K  {step:9} {words or '…'}", end="\n" if words else "", flush=True)
        elif words and not self._as_json:
            print(f"  {step:9} {words}", flush=True)

    def end(self, known: dict[str, str | None], words: str) -> int:
        print(json.dumps({**known, "steps": self.steps}) if self._as_json else words)
        return 0


def _installation() -> Installation:
    found = find()
    if found is None:
        raise ChoirError(
            "not_side_by_side",
            f"This Choir, in {sys.prefix}, stands alone: there is no folder of versions and no link to switch.",
            "Install it as PREFIX/versions/VERSION with the link PREFIX/current: see docs/operate.md.",
        )
    return found


def _procedure(installation: Installation, journal: Journal, machine: Machine, said: _Said) -> Upgrade:
    return Upgrade(installation, journal, machine, rehearsal.own_schema(), said.told)


def _resumed(installation: Installation, journal: Journal, arguments: argparse.Namespace, said: _Said) -> Entry | None:
    entry = journal.record.under_way
    if entry is None:
        return None
    if arguments.dry_run:
        raise ChoirError(
            "upgrade_under_way",
            f"The {entry.kind} from {entry.old} to {entry.new} was broken off at `{entry.step}`.",
            "`choir upgrade` ends it.",
        )
    return _procedure(installation, journal, Machine(installation, entry.deployment), said).resume()


def _plan(machine: Machine, seen: wheel.Wheel, said: _Said) -> int:
    installation, deployment = machine.installation, machine.deployment
    old = installation.in_force()
    said.told("install", f"{seen.path.name} into {installation.environment(seen.version)}")
    said.told("rehearse", f"{seen.version} judges the configuration and takes over copies of the databases")
    said.told("backup", f"people, usage and homes into {machine.state.root / 'backups'}")
    said.told("switch", f"{installation.link}: versions/{old} → versions/{seen.version}")
    said.told("restart", services.described(deployment))
    said.told("verify", f"`choir verify` and `choir doctor`; what did not fail before sends it back to {old}")
    return said.end({"from": old, "to": seen.version}, "Nothing was changed.")


def _ended(entry: Entry | None, said: _Said, installation: Installation) -> int:
    now = installation.in_force()
    if entry is None:
        return said.end({"from": now, "to": now}, f"{now} is in force.")
    if entry.kind == "rollback":
        return said.end({"from": entry.new, "to": entry.old}, f"{now} is in force again.")
    words = f"{now} is in force. `choir rollback` goes back to {entry.old}."
    return said.end({"from": entry.old, "to": entry.new, "backup": entry.backup}, words)


@contextmanager
def _told_of_a_break() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        print("\nchoir: broken off; `choir upgrade` goes on, or back.", file=sys.stderr)
        raise
