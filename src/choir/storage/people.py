"""Who may use this deployment and how they prove it: users, invitations, passkeys, recovery codes, API tokens, and the
audit log. In the registry's file; every secret as a SHA-256 hash only."""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from choir.config import UserEntry
from choir.errors import StartError
from choir.storage.database import Database

COMMAND_LINE = "the command line"
"""An actor: whoever may use the control socket."""
USER_NAME = re.compile(r"[a-z][a-z0-9._-]{0,31}\Z")


@dataclass(frozen=True)
class User:
    name: str
    admin: bool
    created: float


@dataclass(frozen=True)
class Invitation:
    user: str
    admin: bool
    expires: float
    invited_by: str


@dataclass(frozen=True)
class Passkey:
    """``id`` is the credential id, base64url; ``sign_count`` what the authenticator said last."""

    id: str
    user: str
    public_key: bytes
    sign_count: int
    name: str
    created: float
    used: float | None


@dataclass(frozen=True)
class ApiToken:
    """``id`` is public; ``scope`` is ``read``, ``control`` or ``admin``."""

    id: str
    user: str
    name: str
    scope: str
    created: float
    expires: float
    used: float | None


@dataclass(frozen=True)
class AuditEntry:
    """``actor`` is a user, ``command line`` or ``choir``."""

    seq: int
    at: float
    actor: str
    act: str
    target: str
    detail: str


class People:
    """On an open registry. All methods raise what ``Database.guard`` says.

    Args:
        database: of ``choir.storage.registry.Registry``.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._db = database.connection
        self._guard = database.guard

    # ------------------------------------------------------------------ users and invitations

    def users(self) -> list[User]:
        with self._guard():
            rows = self._db.execute("SELECT name, admin, created FROM users ORDER BY name")
            return [User(name, bool(admin), created) for name, admin, created in rows]

    def user(self, name: str) -> User | None:
        with self._guard():
            row = self._db.execute("SELECT name, admin, created FROM users WHERE name = ?", (name,)).fetchone()
        return User(row[0], bool(row[1]), row[2]) if row else None

    def add_user(self, name: str, admin: bool, now: float) -> None:
        """
        Raises:
            StartError: ``user_exists``, ``user_name_invalid``.
        """
        check_user_name(name)
        with self._guard(), self._database.durable() as db:
            added = db.execute("INSERT OR IGNORE INTO users VALUES (?, ?, ?)", (name, int(admin), now)).rowcount
        if not added:
            raise StartError("user_exists", f"There is a user `{name}` already.")

    def set_admin(self, name: str, admin: bool) -> None:
        """
        Raises:
            StartError: ``unknown_user``, ``last_admin``.
        """
        with self._guard(), self._database.durable() as db:
            self._not_the_last_admin(name, admin)
            found = db.execute("UPDATE users SET admin = ? WHERE name = ?", (int(admin), name)).rowcount
            if not found:
                raise unknown_user(name)

    def remove_user(self, name: str) -> list[str]:
        """Forget a user and everything that proves to be them. The hashes of the sessions that ended.

        Raises:
            StartError: ``unknown_user``, ``last_admin``.
        """
        with self._guard(), self._database.durable() as db:
            self._not_the_last_admin(name, False)
            if not db.execute("DELETE FROM users WHERE name = ?", (name,)).rowcount:
                raise unknown_user(name)
            for table in ("links", "invitations", "passkeys", "recovery_codes", "identities", "api_tokens", "limits"):
                db.execute(f"DELETE FROM {table} WHERE user = ?", (name,))  # noqa: S608 - names of our own
            rows = db.execute("DELETE FROM sessions WHERE user = ? RETURNING hash", (name,))
            return [str(row[0]) for row in rows]

    def limits(self) -> dict[str, UserEntry]:
        """What admins set, by user."""
        with self._guard():
            rows = self._db.execute("SELECT user, entry FROM limits ORDER BY user").fetchall()
        return {user: msgspec.json.decode(entry, type=UserEntry) for user, entry in rows}

    def set_limits(self, user: str, entry: UserEntry) -> None:
        """In place of the old ones."""
        with self._guard(), self._database.durable() as db:
            db.execute("DELETE FROM limits WHERE user = ?", (user,))
            if entry != UserEntry():
                db.execute("INSERT INTO limits VALUES (?, ?)", (user, msgspec.json.encode(entry).decode()))

    def _not_the_last_admin(self, name: str, admin: bool) -> None:
        others = self._db.execute("SELECT count(*) FROM users WHERE admin AND name != ?", (name,)).fetchone()[0]
        if not admin and not others and self._db.execute("SELECT 1 FROM users WHERE name = ?", (name,)).fetchone():
            raise StartError("last_admin", f"`{name}` is the last admin.", "Make somebody else an admin first.")

    def add_invitation(self, digest: str, invitation: Invitation) -> None:
        """
        Raises:
            StartError: ``user_exists``, ``user_name_invalid``.
        """
        check_user_name(invitation.user)
        with self._guard(), self._database.durable() as db:
            if db.execute("SELECT 1 FROM users WHERE name = ?", (invitation.user,)).fetchone():
                raise StartError(
                    "user_exists",
                    f"There is a user `{invitation.user}` already.",
                    f"To let them in again: choir login {invitation.user}",
                )
            db.execute("DELETE FROM invitations WHERE user = ?", (invitation.user,))  # the newest counts
            db.execute(
                "INSERT INTO invitations VALUES (?, ?, ?, ?, ?)",
                (digest, invitation.user, int(invitation.admin), invitation.expires, invitation.invited_by),
            )

    def invitation(self, digest: str, now: float) -> Invitation | None:
        """What an invitation is for; looking does not use it up."""
        with self._guard():
            row = self._db.execute(
                "SELECT user, admin, expires, invited_by FROM invitations WHERE hash = ? AND expires > ?", (digest, now)
            ).fetchone()
        return Invitation(row[0], bool(row[1]), row[2], row[3]) if row else None

    def invitations(self, now: float) -> list[Invitation]:
        with self._guard():
            self._db.execute("DELETE FROM invitations WHERE expires <= ?", (now,))
            rows = self._db.execute("SELECT user, admin, expires, invited_by FROM invitations ORDER BY user")
            return [Invitation(user, bool(admin), expires, by) for user, admin, expires, by in rows]

    def is_invited(self, name: str, now: float) -> bool:
        with self._guard():
            row = self._db.execute("SELECT 1 FROM invitations WHERE user = ? AND expires > ?", (name, now)).fetchone()
        return row is not None

    def withdraw(self, name: str) -> bool:
        """Forget an invitation, and the limits that waited for its user. False when nobody is invited by this name,
        or they have come."""
        with self._guard(), self._database.durable() as db:
            if db.execute("SELECT 1 FROM users WHERE name = ?", (name,)).fetchone():
                return False
            found = db.execute("DELETE FROM invitations WHERE user = ?", (name,)).rowcount
            kept = db.execute("DELETE FROM limits WHERE user = ?", (name,)).rowcount
        return bool(found or kept)

    def spoken_for(self) -> set[str]:
        """Names that nobody new may choose: users, the invited, and those whose limits wait for them."""
        with self._guard():
            rows = self._db.execute(
                "SELECT name FROM users UNION SELECT user FROM invitations UNION SELECT user FROM limits"
            )
            return {str(row[0]) for row in rows}

    def accept(self, digest: str, now: float) -> Invitation | None:
        """Use an invitation up and make its user, both or neither; None when it is not there any more."""
        with self._guard(), self._database.durable() as db:
            row = db.execute(
                "DELETE FROM invitations WHERE hash = ? AND expires > ? RETURNING user, admin, expires, invited_by",
                (digest, now),
            ).fetchone()
            if row is None:
                return None
            added = db.execute("INSERT OR IGNORE INTO users VALUES (?, ?, ?)", (row[0], row[1], now)).rowcount
        return Invitation(row[0], bool(row[1]), row[2], row[3]) if added else None

    # ------------------------------------------------------------------ passkeys and recovery codes

    def add_passkey(self, passkey: Passkey) -> None:
        """
        Raises:
            StartError: ``passkey_exists``.
        """
        with self._guard(), self._database.durable() as db:
            added = db.execute(
                "INSERT OR IGNORE INTO passkeys VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    *(passkey.id, passkey.user, passkey.public_key, passkey.sign_count),
                    *(passkey.name, passkey.created, passkey.used),
                ),
            ).rowcount
        if not added:
            raise StartError("passkey_exists", "This passkey is known already.")

    def passkey(self, credential_id: str) -> Passkey | None:
        with self._guard():
            row = self._db.execute("SELECT * FROM passkeys WHERE id = ?", (credential_id,)).fetchone()
        return Passkey(*row) if row else None

    def passkeys(self, user: str) -> list[Passkey]:
        with self._guard():
            rows = self._db.execute("SELECT * FROM passkeys WHERE user = ? ORDER BY created", (user,))
            return [Passkey(*row) for row in rows]

    def passkey_used(self, credential_id: str, sign_count: int, now: float) -> None:
        with self._guard():
            self._db.execute(
                "UPDATE passkeys SET sign_count = ?, used = ? WHERE id = ?", (sign_count, now, credential_id)
            )

    def drop_passkey(self, user: str, credential_id: str) -> bool:
        with self._guard(), self._database.durable() as db:
            return bool(db.execute("DELETE FROM passkeys WHERE id = ? AND user = ?", (credential_id, user)).rowcount)

    def set_recovery_codes(self, user: str, digests: list[str]) -> None:
        """In place of the old ones."""
        with self._guard(), self._database.durable() as db:
            db.execute("DELETE FROM recovery_codes WHERE user = ?", (user,))
            db.executemany("INSERT INTO recovery_codes VALUES (?, ?)", [(digest, user) for digest in digests])

    def recovery_codes(self, user: str) -> int:
        """How many are left."""
        with self._guard():
            row = self._db.execute("SELECT count(*) FROM recovery_codes WHERE user = ?", (user,)).fetchone()
        return int(row[0])

    def take_recovery_code(self, digest: str) -> str | None:
        """The code's user, once."""
        with self._guard(), self._database.durable() as db:
            row = db.execute("DELETE FROM recovery_codes WHERE hash = ? RETURNING user", (digest,)).fetchone()
        return str(row[0]) if row else None

    # ------------------------------------------------------------------ identities of an identity provider

    def identity(self, issuer: str, subject: str) -> str | None:
        """The user whom an OIDC subject is."""
        with self._guard():
            row = self._db.execute(
                "SELECT user FROM identities WHERE issuer = ? AND subject = ?", (issuer, subject)
            ).fetchone()
        return str(row[0]) if row else None

    def add_identity(self, issuer: str, subject: str, user: str) -> None:
        with self._guard():
            self._db.execute("INSERT INTO identities VALUES (?, ?, ?)", (issuer, subject, user))

    # ------------------------------------------------------------------ API tokens

    def add_api_token(self, token: ApiToken, digest: str) -> None:
        with self._guard(), self._database.durable() as db:
            db.execute(
                "INSERT INTO api_tokens VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
                (token.id, digest, token.user, token.name, token.scope, token.created, token.expires),
            )

    def api_token(self, digest: str, now: float) -> ApiToken | None:
        """The token with this hash, unless it has expired; notes that it was used."""
        with self._guard():
            row = self._db.execute(
                "UPDATE api_tokens SET used = ?1 WHERE hash = ?2 AND expires > ?1 "
                "RETURNING id, user, name, scope, created, expires, used",
                (now, digest),
            ).fetchone()
        return ApiToken(*row) if row else None

    def api_tokens(self, user: str, now: float) -> list[ApiToken]:
        with self._guard():
            self._db.execute("DELETE FROM api_tokens WHERE expires <= ?", (now,))
            rows = self._db.execute(
                "SELECT id, user, name, scope, created, expires, used FROM api_tokens WHERE user = ? ORDER BY created",
                (user,),
            )
            return [ApiToken(*row) for row in rows]

    def drop_api_token(self, user: str, token_id: str) -> bool:
        with self._guard(), self._database.durable() as db:
            return bool(db.execute("DELETE FROM api_tokens WHERE id = ? AND user = ?", (token_id, user)).rowcount)

    # ------------------------------------------------------------------ audit

    def note(self, now: float, actor: str, act: str, target: str = "", detail: str = "") -> None:
        """Write down that somebody did something."""
        with self._guard():
            self._db.execute(
                "INSERT INTO audit (at, actor, act, target, detail) VALUES (?, ?, ?, ?, ?)",
                (now, actor, act, target, detail),
            )

    def audit(self, limit: int, before: int | None = None) -> list[AuditEntry]:
        """The newest first; ``before`` is a ``seq`` to go on from."""
        with self._guard():
            rows = self._db.execute(
                "SELECT seq, at, actor, act, target, detail FROM audit WHERE seq < ? ORDER BY seq DESC LIMIT ?",
                (before if before is not None else 2**62, limit),
            )
            return [AuditEntry(*row) for row in rows]


def check_user_name(name: str) -> None:
    """
    Raises:
        StartError: ``user_name_invalid``.
    """
    if not USER_NAME.match(name):
        raise StartError(
            "user_name_invalid",
            f"`{name[:40]}` cannot be a user's name.",
            "Lower-case letters, digits, dots, dashes and underscores, a letter first, at most 32.",
        )


def unknown_user(name: str) -> StartError:
    return StartError("unknown_user", f"There is no user `{name[:40]}`.", "See: choir user list")
