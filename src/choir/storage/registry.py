"""The registry: who may use this deployment and what became of each sandbox. One SQLite file, read at start, written
at each change. Links, sessions and tickets are kept as SHA-256 hashes only."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from choir.errors import StartError

HOST_UID_BASE = 1_900_000_000
HOST_UID_LIMIT = 2_000_000_000

VERSION = 1
"""Of the schema (``PRAGMA user_version``)."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS users (name TEXT PRIMARY KEY, admin INTEGER NOT NULL, created REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS host_uids (owner TEXT PRIMARY KEY, uid INTEGER NOT NULL UNIQUE) STRICT;
CREATE TABLE IF NOT EXISTS links (hash TEXT PRIMARY KEY, user TEXT NOT NULL, expires REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS sessions (
  hash TEXT PRIMARY KEY, user TEXT NOT NULL, label TEXT NOT NULL, parent TEXT NOT NULL,
  created REAL NOT NULL, expires REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS sessions_by_parent ON sessions (parent);
CREATE TABLE IF NOT EXISTS sandboxes (
  label TEXT PRIMARY KEY, user TEXT NOT NULL, role TEXT NOT NULL, home TEXT NOT NULL, status TEXT NOT NULL,
  UNIQUE (user, role)
) STRICT;
"""


@dataclass(frozen=True)
class SessionRow:
    """``label`` is the sandbox host the session is for, "" for the hypervisor's own pages; ``parent`` the hash of the
    session it came from."""

    hash: str
    user: str
    label: str
    parent: str
    created: float
    expires: float


@dataclass(frozen=True)
class SandboxRow:
    """``home`` is the name of its folder in ``State.homes``, ``status`` the hypervisor's own JSON."""

    label: str
    user: str
    role: str
    home: str
    status: str


class Registry:
    """Opened per call site; several processes may have it open (WAL). ``close`` when done.

    Raises:
        StartError: ``registry_unusable`` or ``no_space``, here and from every method; here ``registry_version``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._guard():
            self._db = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
            os.chmod(path, 0o600)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version not in (0, VERSION):
                self._db.close()
                raise StartError(
                    "registry_version",
                    f"{path} was written by another version of Choir.",
                    "Use that version, or move it away.",
                )
            self._db.executescript(f"{_SCHEMA} PRAGMA user_version = {VERSION};")

    def close(self) -> None:
        self._db.close()

    def ensure_user(self, name: str, admin: bool, now: float) -> None:
        with self._guard():
            self._db.execute("INSERT OR IGNORE INTO users VALUES (?, ?, ?)", (name, int(admin), now))

    def host_uid(self, owner: str) -> int:
        """The unprivileged host uid that belongs to ``owner`` for ever; a new one the first time."""
        with self._guard(), self._write():
            row = self._db.execute("SELECT uid FROM host_uids WHERE owner = ?", (owner,)).fetchone()
            if row:
                return int(row[0])
            taken = {int(uid) for (uid,) in self._db.execute("SELECT uid FROM host_uids")}
            uid = first_free_uid(taken, subordinate_ranges())
            self._db.execute("INSERT INTO host_uids VALUES (?, ?)", (owner, uid))
            return uid

    def add_link(self, digest: str, user: str, expires: float) -> None:
        with self._guard():
            self._db.execute("INSERT INTO links VALUES (?, ?, ?)", (digest, user, expires))

    def take_link(self, digest: str, now: float) -> str | None:
        """The link's user, once; None when it was used, has expired or never was."""
        with self._guard():
            self._db.execute("DELETE FROM links WHERE expires <= ?", (now,))
            row = self._db.execute("DELETE FROM links WHERE hash = ? RETURNING user", (digest,)).fetchone()
        return str(row[0]) if row else None

    def add_session(self, row: SessionRow) -> None:
        with self._guard():
            self._db.execute(
                "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?)",
                (row.hash, row.user, row.label, row.parent, row.created, row.expires),
            )

    def session(self, digest: str, now: float) -> SessionRow | None:
        with self._guard():
            row = self._db.execute("SELECT * FROM sessions WHERE hash = ? AND expires > ?", (digest, now)).fetchone()
        return SessionRow(*row) if row else None

    def sessions(self, now: float) -> list[SessionRow]:
        """The signed-in browsers (not the sessions that came from them), newest first."""
        with self._guard():
            self._db.execute("DELETE FROM sessions WHERE expires <= ?", (now,))
            rows = self._db.execute("SELECT * FROM sessions WHERE parent = '' ORDER BY created DESC")
            return [SessionRow(*row) for row in rows]

    def drop_session(self, digest: str) -> list[str]:
        """End a session and those that came from it; the hashes that ended."""
        with self._guard():
            rows = self._db.execute("DELETE FROM sessions WHERE hash = ?1 OR parent = ?1 RETURNING hash", (digest,))
            return [str(row[0]) for row in rows]

    def sandboxes(self) -> list[SandboxRow]:
        with self._guard():
            return [SandboxRow(*row) for row in self._db.execute("SELECT * FROM sandboxes ORDER BY label")]

    def put_sandbox(self, row: SandboxRow) -> None:
        """Add it, or change its status; its home changes by ``exchange_homes`` only."""
        with self._guard():
            self._db.execute(
                "INSERT INTO sandboxes VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (label) DO UPDATE SET status = excluded.status",
                (row.label, row.user, row.role, row.home, row.status),
            )

    def exchange_homes(self, label: str, other: str) -> None:
        """Give each of two sandboxes the home of the other: both or neither, also when the machine fails."""
        with self._guard(), self._write():
            homes = dict(self._db.execute("SELECT label, home FROM sandboxes WHERE label IN (?, ?)", (label, other)))
            for one, two in ((label, other), (other, label)):
                self._db.execute("UPDATE sandboxes SET home = ? WHERE label = ?", (homes[two], one))

    @contextlib.contextmanager
    def _write(self) -> Iterator[None]:
        """What must be on the disk before anybody acts on it."""
        self._db.execute("PRAGMA synchronous = FULL")
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        finally:
            self._db.execute("PRAGMA synchronous = NORMAL")

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if "full" in str(error) or getattr(error, "errno", None) in (28, 122):
                raise StartError("no_space", f"No space left for {self.path}.", "Free some disk space.") from error
            raise StartError("registry_unusable", f"Cannot use {self.path}: {error}.") from error


def subordinate_ranges(path: str = "/etc/subuid") -> list[range]:
    """The uid ranges that the host gives to user namespaces (subuid(5)); a sandbox's uid must be in none of them."""
    ranges = []
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                fields = line.strip().split(":")
                if len(fields) == 3 and fields[1].isdigit() and fields[2].isdigit():
                    ranges.append(range(int(fields[1]), int(fields[1]) + int(fields[2])))
    except FileNotFoundError:
        pass
    return ranges


def first_free_uid(taken: set[int], excluded: list[range]) -> int:
    """The lowest uid from HOST_UID_BASE on that is neither taken nor in an excluded range.

    Raises:
        StartError: ``no_free_uid``.
    """
    uid = HOST_UID_BASE
    while uid < HOST_UID_LIMIT:
        inside = next((ids for ids in excluded if uid in ids), None)
        if inside is not None:
            uid = inside.stop
        elif uid in taken:
            uid += 1
        else:
            return uid
    raise StartError("no_free_uid", "No host uid is left for another user.", "See /etc/subuid.")
