"""Limits that admins set for people: kept in the registry, written for the gateway, put in force at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog

from choir import user_limits
from choir.config import Config, UserEntry
from choir.control_client import GatewayControl
from choir.errors import ChoirError
from choir.storage.people import People, unknown_user
from choir.user_limits import FIELDS, plain

_AWAY = ("gateway_unreachable", "gateway_silent")
"""The gateway reads the file when it is back."""

_log = structlog.get_logger("choir.hypervisor")


@dataclass(frozen=True)
class Limit:
    """One field for one person, as text; "" is not set."""

    name: str
    own: str
    """Set by an admin."""
    configured: str
    """What counts without it."""
    fixed: bool
    """choir.toml's ``[users.NAME]`` says it, and wins."""


@dataclass(frozen=True)
class PersonalLimits:
    """
    Args:
        path: the file that the gateway reads.
        configured: reads choir.toml; blocking.
    """

    people: People
    gateway: GatewayControl
    path: Path
    configured: Callable[[], Config]
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def begin(self) -> None:
        """Bring the gateway's file in line with the registry, e.g. after a backup was put back.

        Raises:
            StartError: ``limits_unwritable``.
        """
        wanted = self.people.limits()
        try:
            if user_limits.read(self.path) == wanted:
                return
        except ChoirError:
            pass  # what cannot be read is written anew
        user_limits.write(self.path, wanted)
        try:
            await self.gateway.reload()
        except ChoirError as error:
            _log.warning("limits_not_in_force", reason=error.reason, message=error.message)

    async def of(self, user: str) -> list[Limit]:
        """
        Raises:
            StartError: ``unknown_user``.
            ConfigError: choir.toml is wrong now.
        """
        self._check_known(user)
        config = await asyncio.to_thread(self.configured)
        own = user_limits.words(self.people.limits().get(user, UserEntry()))
        first = user_limits.words(config.users.get(user, UserEntry()))
        general = msgspec.structs.asdict(config.limits)
        found = []
        for name in FIELDS:
            otherwise = "all" if name not in general else "none" if general[name] is None else plain(general[name])
            configured = first.get(name, otherwise)
            found.append(Limit(name, own.get(name, ""), configured, name in first))
        return found

    async def set(self, actor: str, user: str, words: Mapping[str, str]) -> None:
        """Change some of a person's limits (``choir.user_limits.parse``); calls from now on have them.

        Raises:
            StartError: ``unknown_user``, ``limits_unwritable``.
            ConfigError: ``limit_invalid``, or the gateway's reason: then nothing is changed.
        """
        config = await asyncio.to_thread(self.configured)
        async with self._turn:
            self._check_known(user)
            before = self.people.limits()
            present = before.get(user, UserEntry())
            entry = user_limits.parse(words, present, config.providers)
            if entry == present:
                return
            after = {**before, user: entry}
            if entry == UserEntry():
                del after[user]
            user_limits.write(self.path, after)
            try:
                await self.gateway.reload()
            except ChoirError as error:
                if error.reason not in _AWAY:
                    user_limits.write(self.path, before)
                    raise
            self.people.set_limits(user, entry)
            self.people.note(time.time(), actor, "set_limits", user, _told(present, entry))

    def _check_known(self, user: str) -> None:
        """Whoever is invited counts: their limits wait for the account.

        Raises:
            StartError: ``unknown_user``.
        """
        if self.people.user(user) is None and not self.people.is_invited(user, time.time()):
            raise unknown_user(user)

    async def forget(self, user: str) -> None:
        """After ``user`` was removed from the registry: for the next of that name nothing is set."""
        async with self._turn:
            if user in user_limits.read(self.path):
                user_limits.write(self.path, self.people.limits())
                try:
                    await self.gateway.reload()
                except ChoirError as error:
                    _log.warning("limits_not_in_force", reason=error.reason, message=error.message)


def _told(before: UserEntry, after: UserEntry) -> str:
    """What changed, for the audit log."""
    old, new = user_limits.words(before), user_limits.words(after)
    return ", ".join(f"{name}={new.get(name, '')}" for name in FIELDS if old.get(name) != new.get(name))[:500]
