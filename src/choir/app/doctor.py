"""``choir doctor``: what is wrong with this deployment's disk, files and processes, and how to mend it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from choir import config as configuration
from choir.channel import ChannelClosed, connect
from choir.errors import ChoirError
from choir.paths import State
from choir.storage.salvage import damage, salvage

LOW_SPACE = 0.05
LOW_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True)
class Finding:
    """``ok`` or not; ``hint`` says what to do when not. ``repair`` names a database that ``--repair`` can mend."""

    name: str
    ok: bool
    message: str
    hint: str = ""
    repair: Path | None = None


def examine(config: Path | None, state: State) -> Iterator[Finding]:
    """Look at everything; changes nothing and never raises on what it finds."""
    yield _configuration(config)
    yield _folder(state.root)
    if not state.root.is_dir():
        return
    yield _space(state.root)
    running = is_running(state)
    for words, path in (("people and sandboxes", state.registry), ("usage", state.ledger)):
        yield _database(words, path, running)
    for path in (state.token_key, state.local_key):
        if path.exists():
            yield _key(path)
    yield from _journals(state)
    if running:
        for words, path in (("gateway", state.gateway_socket), ("hypervisor", state.hypervisor_socket)):
            yield _answers(words, path)
        yield from _isolation(state)
    else:
        yield Finding("running", True, "`choir up` is not running here.")


def repair(state: State, findings: list[Finding]) -> Iterator[Finding]:
    """Mend the databases among ``findings``.

    Raises:
        ChoirError: ``running``: they are in use.
    """
    if is_running(state):
        raise ChoirError("running", "`choir up` is running and has them open.", "Stop it first.")
    for finding in findings:
        if finding.repair is None:
            continue
        try:
            saved = salvage(finding.repair)
        except ChoirError as error:
            yield Finding(finding.name, False, error.message, error.hint)
        else:
            rows = ", ".join(f"{number:,} {table}" for table, number in saved.rows.items() if number)
            yield Finding(finding.name, True, f"Saved {rows or 'nothing'}. The damaged file is {saved.damaged}.")


def is_running(state: State) -> bool:
    """Whether a ``choir up`` holds this state folder."""
    try:
        descriptor = os.open(state.run / "up.lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _configuration(path: Path | None) -> Finding:
    try:
        loaded = configuration.load(path)
    except ChoirError as error:
        return Finding("configuration", False, error.message, error.hint)
    return Finding("configuration", True, f"{loaded.path or 'none, so the defaults'}")


def _folder(root: Path) -> Finding:
    try:
        found = root.stat()
    except OSError as error:
        return Finding("state folder", False, f"{root}: {error.strerror}.", "Choose it with --state DIR.")
    if not stat.S_ISDIR(found.st_mode):
        return Finding("state folder", False, f"{root} is no folder.", "Move it away.")
    if found.st_uid != os.geteuid():
        return Finding("state folder", False, f"{root} belongs to uid {found.st_uid}.", "Run this as that account.")
    if found.st_mode & 0o066:
        return Finding("state folder", False, f"{root} is open to others.", f"chmod 700 {root}")
    return Finding("state folder", True, str(root))


def _space(root: Path) -> Finding:
    info = os.statvfs(root)
    free, size = info.f_bavail * info.f_frsize, info.f_blocks * info.f_frsize
    words = f"{free / 1e9:,.1f} of {size / 1e9:,.1f} GB free"
    if free < min(LOW_BYTES, size * LOW_SPACE):
        return Finding(
            "disk space", False, words, "Free some, or delete old snapshots; calls are refused when it is full."
        )
    if info.f_files and info.f_favail < info.f_files * LOW_SPACE:
        return Finding("disk space", False, f"{words}, but only {info.f_favail:,} more files.", "Delete files.")
    return Finding("disk space", True, words)


def _database(words: str, path: Path, running: bool) -> Finding:
    if not path.exists():
        return Finding(words, True, "none yet")
    try:
        wrong = damage(path)
    except sqlite3.Error as error:
        wrong = str(error)
    if not wrong:
        return Finding(words, True, f"{path.name} is whole ({path.stat().st_size / 1e6:,.1f} MB)")
    stop = "Stop `choir up`, then run" if running else "Run"
    return Finding(words, False, f"{path} is damaged: {wrong[:200]}", f"{stop} choir doctor --repair.", path)


def _key(path: Path) -> Finding:
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077 or found.st_uid != os.geteuid():
        return Finding(path.name, False, f"{path} is not private.", "Delete it; a new one is made at the next start.")
    return Finding(path.name, True, "private")


def _journals(state: State) -> Iterator[Finding]:
    for path in sorted([*state.run.glob("usage.journal*"), *state.run.glob("*/usage.journal*")]):
        size = path.stat().st_size
        if size:
            yield Finding("usage journal", True, f"{path}: {size:,} bytes; the next gateway takes them over")


def _isolation(state: State) -> Iterator[Finding]:
    """What holds sandboxes here, as it was tried at the start."""
    with (
        contextlib.suppress(ChannelClosed, OSError),
        contextlib.closing(connect(str(state.hypervisor_socket))) as asked,
    ):
        asked.send({"op": "status"})
        yield Finding("isolation", True, str(asked.receive()[0].get("isolation")))


def _answers(words: str, path: Path) -> Finding:
    try:
        connect(str(path)).close()
    except (ChannelClosed, OSError):
        return Finding(words, False, f"does not answer at {path}.", "Look at its log; restart Choir.")
    return Finding(words, True, "answers")
