"""What an admin does with people: invite, remove, promote. Each act is written to the audit log."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from choir.config import OidcEntry
from choir.errors import StartError
from choir.hypervisor.life import STOP_GRACE
from choir.hypervisor.origins import Origins
from choir.hypervisor.people.limits import PersonalLimits
from choir.hypervisor.sandbox import Sandbox
from choir.hypervisor.sessions import Sessions, digest
from choir.hypervisor.supervisor import Supervisor
from choir.storage.people import Invitation, People

INVITATION_SECONDS = 7 * 24 * 3600.0
FREE_SECONDS = 60.0
"""How long a removal waits for what else is being done to the homes."""

_COMES_BACK = (
    "A person whom `allow` or `admins` of [oidc] in choir.toml lets in can come back by the identity provider, with a "
    "new account: to keep them out, change those, or their account at the provider."
)


@dataclass(frozen=True)
class Admin:
    """Acts on one deployment's people."""

    people: People
    sessions: Sessions
    supervisor: Supervisor
    origins: Origins
    limits: PersonalLimits
    oidc: OidcEntry

    @property
    def removal_warning(self) -> str:
        """What whoever removes a person has to know, or ""."""
        return _COMES_BACK if self.oidc.issuer and (self.oidc.allow or self.oidc.admins) else ""

    @property
    def set_aside(self) -> Path:
        """Where the homes of the removed are."""
        return self.supervisor.state.root / "removed"

    def invite(self, actor: str, user: str, admin: bool) -> str:
        """The invitation's link; it is good for a week.

        Raises:
            StartError: ``user_exists``, ``user_name_invalid``, ``busy`` while a former user of this name is not put
                away yet.
        """
        if user in self.supervisor.users() and self.people.user(user) is None:
            raise StartError(
                "busy", f"What a former `{user}` had is not put away yet.", f"Finish it: choir user remove {user}"
            )
        secret = secrets.token_urlsafe(24)
        now = time.time()
        self.people.add_invitation(digest(secret), Invitation(user, admin, now + INVITATION_SECONDS, actor))
        self.people.note(now, actor, "invited", user, "as an admin" if admin else "")
        return f"{self.origins.public_url}/join?once={secret}"

    def set_admin(self, actor: str, user: str, admin: bool) -> None:
        """
        Raises:
            StartError: ``unknown_user``, ``last_admin``.
        """
        self.people.set_admin(user, admin)
        self.people.note(time.time(), actor, "made_admin" if admin else "made_member", user)

    async def withdraw(self, actor: str, user: str) -> None:
        """Make an invitation worth nothing.

        Raises:
            StartError: ``not_invited``.
        """
        if not self.people.withdraw(user):
            raise StartError("not_invited", f"There is no open invitation for `{user[:40]}`.", "See: choir user list")
        self.people.note(time.time(), actor, "withdrew_invitation", user)
        await self.limits.forget(user)

    async def remove(self, actor: str, user: str) -> list[str]:
        """End a user's sessions, tokens and sandboxes, and set their homes aside. Where those are now. Of whoever is
        only invited, the invitation is withdrawn.

        A later user of the same name gets a new home and nothing of the old one.

        Raises:
            StartError: ``unknown_user``, ``last_admin``, ``busy``; the last leaves the account closed and can be
                repeated.
        """
        if self.people.user(user) is None and self.people.is_invited(user, time.time()):
            await self.withdraw(actor, user)
            return []
        theirs = [each for each in self.supervisor.sandboxes.values() if each.user == user]
        if self.people.user(user) is not None or not theirs:  # else an earlier removal came no further
            self.sessions.close(self.people.remove_user(user))
            self.people.note(time.time(), actor, "removed", user)
        for sandbox in theirs:
            self.supervisor.stop(sandbox)
        await self.limits.forget(user)
        kept = []
        for sandbox in theirs:
            await self._bring_to_rest(sandbox)
            with sandbox.occupy("Its person was removed."):
                await self.supervisor.standby.discard(sandbox)
                path = await asyncio.to_thread(self._set_aside, sandbox)
                self.supervisor.records.forget(sandbox)
            kept += [path] if path else []
        return kept

    async def _bring_to_rest(self, sandbox: Sandbox) -> None:
        """Stopped, and nothing done to its files. What was being done may have started it again.

        Raises:
            StartError: ``busy`` for too long.
        """
        for _ in range(3):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FREE_SECONDS):
                    await sandbox.free()
            self.supervisor.stop(sandbox)
            await sandbox.settled(STOP_GRACE * 3)
            await sandbox.ended()
            if not sandbox.occupied:
                return
        raise StartError("busy", sandbox.occupied, "Their account is closed. Remove them again when that is done.")

    def _set_aside(self, sandbox: Sandbox) -> str:
        home = self.supervisor.records.home_path(sandbox)
        self.set_aside.mkdir(mode=0o700, exist_ok=True)
        target = self.set_aside / f"{sandbox.home}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        try:
            os.rename(home, target)
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise StartError("workspace_unusable", f"Cannot set {home} aside: {error.strerror}.") from error
        return str(target)

    def overview(self) -> list[dict[str, Any]]:
        """Every user and open invitation, for a list."""
        now = time.time()
        sessions = self.sessions.listed()
        found: list[dict[str, Any]] = [
            {
                "name": user.name,
                "admin": user.admin,
                "state": "active",
                "passkeys": len(self.people.passkeys(user.name)),
                "sessions": sum(each.user == user.name for each in sessions),
                "since": user.created,
            }
            for user in self.people.users()
        ]
        found += [
            {"name": each.user, "admin": each.admin, "state": "invited", "passkeys": 0, "sessions": 0, "since": None}
            for each in self.people.invitations(now)
        ]
        return found
