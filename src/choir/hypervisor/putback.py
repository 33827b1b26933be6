"""The registry of before an upgrade, held ready until a ``choir up`` starts that can read it.

``hold`` is for ``choir rollback``, while the newer version may still run; ``release`` for a start, when nothing of the
deployment is open. What the newer version wrote is kept, as after ``choir restore`` (``choir.hypervisor.backup``).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import tarfile
from dataclasses import dataclass
from pathlib import Path

import msgspec

from choir.errors import ChoirError
from choir.hypervisor.backup import apply_staged, discard, kept_homes, replaced_name
from choir.paths import HELD, State


@dataclass(frozen=True)
class Lost:
    """What is in the registry now and was not before; ``users`` None: it cannot be told."""

    users: tuple[str, ...] | None
    entries: int
    """Of the audit log: what was done meanwhile."""

    def __str__(self) -> str:
        if self.users is None:
            return "accounts, sessions and limits changed since"
        people = f"the accounts of {', '.join(self.users)}" if self.users else "no account"
        return f"{people} and {self.entries} entries of the audit log, besides sessions and the state of sandboxes"


def version(registry: Path, still: bool = False) -> int:
    """The format it is in; 0: there is none yet.

    Args:
        still: it is a copy that nobody has open.

    Raises:
        ChoirError: ``registry_unusable``.
    """
    if not registry.exists():
        return 0
    try:
        with contextlib.closing(_open(registry, still)) as database:
            return int(database.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.Error as error:
        raise ChoirError("registry_unusable", f"Cannot read {registry}: {error}.", "See: choir doctor") from error


def copy_of_before(state: State, wanted: int, began: float, backup: Path | None) -> Path | None:
    """The best copy of the registry in the format ``wanted``: the one made just before it was changed, else the one in
    ``backup``, unpacked beside it. None: there is neither.

    Args:
        began: when the upgrade did, Unix seconds; an older copy is of another upgrade.
    """
    copy = state.registry.with_name(f"{state.registry.name}.v{wanted}")
    with contextlib.suppress(OSError, ChoirError):
        if copy.stat().st_mtime >= began and version(copy, still=True) == wanted:
            return copy
    unpacked = state.registry.with_name(f".{state.registry.name}.of-backup")
    if backup is None:
        return None
    try:
        with tarfile.open(backup) as archive:
            file = archive.extractfile(state.registry.name)
            if file is None:
                return None
            private = os.open(unpacked, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with open(private, "wb") as out:
                shutil.copyfileobj(file, out, 1 << 20)
        return unpacked if version(unpacked, still=True) == wanted else None
    except (OSError, tarfile.TarError, KeyError, ChoirError):
        return None


def lost(now: Path, before: Path) -> Lost:
    """What putting ``before`` back would take from what is there ``now``."""
    try:
        with contextlib.closing(_open(now)) as new, contextlib.closing(_open(before, still=True)) as old:
            names = [{str(name) for (name,) in each.execute("SELECT name FROM users")} for each in (new, old)]
            (last,) = old.execute("SELECT COALESCE(MAX(seq), 0) FROM audit").fetchone()
            (entries,) = new.execute("SELECT COUNT(*) FROM audit WHERE seq > ?", (last,)).fetchone()
    except sqlite3.Error:  # another format than ours
        return Lost(None, 0)
    return Lost(tuple(sorted(names[0] - names[1])), int(entries))


def hold(state: State, copy: Path) -> None:
    """Have the next start of ``choir up`` put ``copy`` in place of the registry.

    Raises:
        ChoirError: ``putback_failed``; nothing is held.
    """
    draft, held = state.root / f".{HELD}", state.root / HELD
    try:
        for folder in (draft, held):
            discard(folder)
        (draft / "homes").mkdir(mode=0o700, parents=True)
        private = os.open(draft / state.registry.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(copy, "rb") as file, open(private, "wb") as out:
            shutil.copyfileobj(file, out, 1 << 20)
            out.flush()
            os.fsync(out.fileno())
        os.sync()
        os.rename(draft, held)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise ChoirError("putback_failed", f"Cannot make {held}: {error.strerror}.") from error


def release(state: State) -> bool:
    """Hand what is held to ``backup.apply_staged``, and with it the homes that the older registry does not know: one
    that stayed would be given to the next person of that name. False when nothing is held.

    Raises:
        ChoirError: ``putback_failed``; it is held still.
    """
    held = state.root / HELD
    if not held.is_dir():
        return False
    try:
        with contextlib.closing(_open(held / state.registry.name, still=True)) as database:
            known = {str(home) for (home,) in database.execute("SELECT home FROM sandboxes")}
        aside = [home for home in kept_homes(state) if home not in known and not home.startswith("run-")]
        plan = {"replaced": replaced_name(state), "restored": [], "aside": aside}
        (held / "plan.json").write_bytes(msgspec.json.encode(plan))
        os.sync()
        discard(state.root / "restore")
        os.rename(held, state.root / "restore")
    except (OSError, sqlite3.Error) as error:
        raise ChoirError("putback_failed", f"Cannot put back {held}: {error}.") from error
    return True


def at_once(state: State) -> None:
    """Put back what is held, unless a ``choir up`` has the state folder: then its next start does."""
    descriptor = os.open(state.run / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if release(state):
            apply_staged(state)
    except BlockingIOError:
        return
    finally:
        os.close(descriptor)


def _open(path: Path, still: bool = False) -> sqlite3.Connection:
    # A copy in WAL mode would get files beside it, which an exchange of it had to mind.
    how = "mode=ro&immutable=1" if still else "mode=ro"
    return sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, timeout=10.0)
