"""The registry: who may use this deployment and what became of each sandbox. One SQLite file, read at start, written
at each change. Links, sessions and tickets are kept as SHA-256 hashes only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from choir.errors import StartError
from choir.storage.database import Database

HOST_UID_BASE = 1_900_000_000
HOST_UID_LIMIT = 2_000_000_000

MIGRATIONS = (
    """
CREATE TABLE users (name TEXT PRIMARY KEY, admin INTEGER NOT NULL, created REAL NOT NULL) STRICT;
CREATE TABLE host_uids (owner TEXT PRIMARY KEY, uid INTEGER NOT NULL UNIQUE) STRICT;
CREATE TABLE links (hash TEXT PRIMARY KEY, user TEXT NOT NULL, expires REAL NOT NULL) STRICT;
CREATE TABLE sessions (
  hash TEXT PRIMARY KEY, user TEXT NOT NULL, label TEXT NOT NULL, parent TEXT NOT NULL,
  created REAL NOT NULL, expires REAL NOT NULL
) STRICT;
CREATE INDEX sessions_by_parent ON sessions (parent);
CREATE TABLE sandboxes (
  label TEXT PRIMARY KEY, user TEXT NOT NULL, role TEXT NOT NULL, home TEXT NOT NULL, status TEXT NOT NULL,
  UNIQUE (user, role)
) STRICT
""",
    """
ALTER TABLE sessions ADD COLUMN way TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN browser TEXT NOT NULL DEFAULT '';
CREATE TABLE invitations (
  hash TEXT PRIMARY KEY, user TEXT NOT NULL, admin INTEGER NOT NULL, expires REAL NOT NULL, invited_by TEXT NOT NULL
) STRICT;
CREATE TABLE passkeys (
  id TEXT PRIMARY KEY, user TEXT NOT NULL, public_key BLOB NOT NULL, sign_count INTEGER NOT NULL, name TEXT NOT NULL,
  created REAL NOT NULL, used REAL
) STRICT;
CREATE TABLE recovery_codes (hash TEXT PRIMARY KEY, user TEXT NOT NULL) STRICT;
CREATE TABLE identities (
  issuer TEXT NOT NULL, subject TEXT NOT NULL, user TEXT NOT NULL, PRIMARY KEY (issuer, subject)
) STRICT;
CREATE TABLE api_tokens (
  id TEXT PRIMARY KEY, hash TEXT NOT NULL UNIQUE, user TEXT NOT NULL, name TEXT NOT NULL, scope TEXT NOT NULL,
  created REAL NOT NULL, expires REAL NOT NULL, used REAL
) STRICT;
CREATE TABLE audit (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, actor TEXT NOT NULL, act TEXT NOT NULL,
  target TEXT NOT NULL, detail TEXT NOT NULL
) STRICT
""",
    """
CREATE TABLE limits (user TEXT PRIMARY KEY, entry TEXT NOT NULL) STRICT;
ALTER TABLE sessions ADD COLUMN used REAL NOT NULL DEFAULT 0
""",
)


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
    way: str = ""
    """How the person signed in: link, invitation, passkey, recovery_code, oidc, local."""
    browser: str = ""
    used: float = 0.0
    """About when it was used last, also under it (``Registry.session_used``)."""


@dataclass(frozen=True)
class SandboxRow:
    """``home`` is the name of its folder in ``State.homes``, ``status`` the hypervisor's own JSON."""

    label: str
    user: str
    role: str
    home: str
    status: str


class Registry:
    """What ``choir.storage.database.Database`` says of opening, closing and errors."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path, MIGRATIONS)
        self._db = self.database.connection
        self._guard = self.database.guard

    def close(self) -> None:
        self.database.close()

    def ensure_user(self, name: str, admin: bool, now: float) -> None:
        with self._guard():
            self._db.execute("INSERT OR IGNORE INTO users VALUES (?, ?, ?)", (name, int(admin), now))

    def host_uid(self, owner: str) -> int:
        """The unprivileged host uid that belongs to ``owner`` for ever; a new one the first time."""
        with self._guard(), self.database.durable():
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

    def link(self, digest: str, now: float) -> str | None:
        """The user of a link that still works; looking does not use it up."""
        with self._guard():
            row = self._db.execute("SELECT user FROM links WHERE hash = ? AND expires > ?", (digest, now)).fetchone()
        return str(row[0]) if row else None

    def take_link(self, digest: str, now: float) -> str | None:
        """The link's user, once; None when it was used, has expired or never was."""
        with self._guard():
            self._db.execute("DELETE FROM links WHERE expires <= ?", (now,))
            row = self._db.execute("DELETE FROM links WHERE hash = ? RETURNING user", (digest,)).fetchone()
        return str(row[0]) if row else None

    def add_session(self, row: SessionRow) -> None:
        with self._guard():
            self._db.execute(
                "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (row.hash, row.user, row.label, row.parent, row.created, row.expires, row.way, row.browser, row.used),
            )

    def session(self, digest: str, now: float) -> SessionRow | None:
        with self._guard():
            row = self._db.execute("SELECT * FROM sessions WHERE hash = ? AND expires > ?", (digest, now)).fetchone()
        return SessionRow(*row) if row else None

    def session_used(self, row: SessionRow, now: float) -> None:
        with self._guard():
            self._db.execute("UPDATE sessions SET used = ? WHERE hash IN (?, ?)", (now, row.hash, row.parent))

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

    def drop_sandbox(self, label: str) -> None:
        with self._guard(), self.database.durable():
            self._db.execute("DELETE FROM sandboxes WHERE label = ?", (label,))

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
        with self._guard(), self.database.durable():
            homes = dict(self._db.execute("SELECT label, home FROM sandboxes WHERE label IN (?, ?)", (label, other)))
            for one, two in ((label, other), (other, label)):
                self._db.execute("UPDATE sandboxes SET home = ? WHERE label = ?", (homes[two], one))


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
