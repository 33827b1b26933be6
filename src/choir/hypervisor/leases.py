"""The sandboxes' leases at the gateway: kept while they run, made again by a gateway that came back, ended at once."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Protocol, TypeVar

import structlog

from choir import inside
from choir.channel import Message
from choir.errors import ChoirError
from choir.hypervisor.sandbox import Sandbox

T = TypeVar("T")

RETRY_SECONDS = 0.1

_log = structlog.get_logger("choir.hypervisor")


class Gateway(Protocol):
    """What is needed of ``choir.control_client.GatewayControl``."""

    async def attach(
        self, sandbox_id: str, user_id: str, role: str, listener: socket.socket, lease_s: float = ...
    ) -> None: ...
    async def renew(self, sandbox_ids: Iterable[str], lease_s: float = ..., warm: int | None = ...) -> list[str]: ...
    async def detach(self, sandbox_id: str) -> None: ...
    async def authority(self, sandbox_id: str) -> str: ...
    async def status(self) -> Message: ...
    async def subscribe(self) -> None: ...
    def events(self) -> AsyncIterator[Message]: ...


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """``call``, again while the gateway is being restarted; the caller has the deadline."""
    while True:
        try:
            return await call()
        except ChoirError as error:
            if error.reason not in ("gateway_unreachable", "gateway_silent"):
                raise
        await asyncio.sleep(RETRY_SECONDS)


class Leases:
    """The leases of ``sandboxes`` (by label), which may grow."""

    def __init__(self, gateway: Gateway, sandboxes: Mapping[str, Sandbox]) -> None:
        self.gateway = gateway
        self._sandboxes = sandboxes
        self.warm: Callable[[], int] = lambda: 0
        """How many stand ready."""
        self._told_warm = 0

    async def attach(self, sandbox: Sandbox) -> None:
        """Hand its listener to the gateway, patiently."""
        await patiently(lambda: self._attach(sandbox))

    async def detach(self, sandbox: Sandbox) -> None:
        """End its lease, if it has one."""
        attached, sandbox.attached = sandbox.attached, False
        if attached:
            with contextlib.suppress(ChoirError):  # a gateway that is away has no lease either
                await self.gateway.detach(sandbox.status.sandbox_id)

    async def renew(self) -> None:
        """Extend all leases; attach again what the gateway does not know."""
        leased = {box.status.sandbox_id: box for box in self._sandboxes.values() if box.attached}
        warm = self.warm()
        if not leased and warm == self._told_warm == 0:
            return
        try:
            unknown = await self.gateway.renew(list(leased), inside.LEASE_SECONDS, warm)
            self._told_warm = warm
            for sandbox_id in unknown:
                if leased[sandbox_id].running is not None:
                    await self._attach(leased[sandbox_id])
                    _log.info("sandbox_attached_again", sandbox_id=sandbox_id)
        except ChoirError as error:
            _log.warning("leases_not_renewed", reason=error.reason)

    async def keep(self) -> None:
        """Renew in time, and whenever the gateway was connected to again. Never ends."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._renew_in_time())
            tasks.create_task(self._renew_when_connected())

    async def _renew_in_time(self) -> None:
        while True:
            await asyncio.sleep(inside.RENEW_SECONDS)
            await self.renew()

    async def _renew_when_connected(self) -> None:
        async for event in self.gateway.events():
            if event.get("event") == "connected":
                await self.renew()

    async def _attach(self, sandbox: Sandbox) -> None:
        assert sandbox.running is not None
        await self.gateway.attach(
            sandbox.status.sandbox_id,
            sandbox.user,
            sandbox.role,
            sandbox.running.listener,
            lease_s=inside.LEASE_SECONDS,
        )
        sandbox.attached = True
