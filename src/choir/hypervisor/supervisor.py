"""Keeps sandboxes: one task per life, which starts, watches and ends it. Only a person's action starts one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import structlog

from choir import contract, ids, tokens
from choir.channel import Message
from choir.config import Config
from choir.contract import Role
from choir.errors import ChoirError, StartError
from choir.hypervisor.admission import admit
from choir.hypervisor.crash import exit_of, failure_of, with_exit
from choir.hypervisor.lifecycle import ALIVE, Event, EventName, Failure, Reached, Status, advance
from choir.hypervisor.progress import Watch
from choir.hypervisor.spec import build_spec, host_label
from choir.isolation.contract import Backend, PhaseReached, Running, SandboxSpec
from choir.paths import State
from choir.storage.registry import Registry, SandboxRow

T = TypeVar("T")

STOP_GRACE = 3.0
"""Seconds between asking a sandbox to end and killing it."""
RETRY_SECONDS = 0.1

_log = structlog.get_logger("choir.hypervisor")


class Gateway(Protocol):
    """What is needed of ``choir.control_client.GatewayControl``."""

    async def attach(
        self, sandbox_id: str, user_id: str, role: str, listener: socket.socket, lease_s: float = ...
    ) -> None: ...
    async def renew(self, sandbox_ids: Iterable[str], lease_s: float = ...) -> list[str]: ...
    async def detach(self, sandbox_id: str) -> None: ...
    async def status(self) -> Message: ...
    def events(self) -> AsyncIterator[Message]: ...


class Sandbox:
    """One (user, role): its host label, its status, and the running thing while there is one."""

    def __init__(self, label: str, user: str, role: Role, status: Status) -> None:
        self.label = label
        self.user = user
        self.role: Role = role
        self.status = status
        self.watch = Watch()
        self.running: Running | None = None
        self.attached = False
        self.stop_asked = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.at_end: list[Callable[[], Awaitable[None]]] = []
        """Called once when this life ends, before its descriptors are closed."""

    async def settled(self, seconds: float) -> Status:
        """The status once nothing more happens by itself, or after ``seconds``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    version = self.watch.version
                    if self.status.state not in ("starting", "stopping"):
                        break
                    await self.watch.after(version, None)
        return self.status


class Supervisor:
    """All sandboxes of this deployment. Used from one event loop."""

    def __init__(
        self,
        *,
        state: State,
        config: Config,
        registry: Registry,
        backend: Backend,
        gateway: Gateway,
        token_key: bytes,
        environment: Mapping[str, str],
        keeper_socket: Callable[[str], Path],
    ) -> None:
        """
        Args:
            environment: host variables that every sandbox gets.
            keeper_socket: where the keeper of a sandbox id listens.
        """
        self.state = state
        self.config = config
        self.registry = registry
        self.backend = backend
        self.gateway = gateway
        self.sandboxes: dict[str, Sandbox] = {}
        self._token_key = token_key
        self._environment = dict(environment)
        self._keeper_socket = keeper_socket
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        """Take over what lives from before, and keep every lease from now on."""
        for row in self.registry.sandboxes():
            status = msgspec.json.decode(row.status, type=Status)
            sandbox = Sandbox(row.label, row.user, row.role, status)  # type: ignore[arg-type]
            self.sandboxes[row.label] = sandbox
            if status.state in ALIVE:
                await self._adopt(sandbox)
        self._tasks = [asyncio.create_task(self._renew_leases()), asyncio.create_task(self._attach_again())]

    async def close(self) -> None:
        """Stop every sandbox and wait for its end."""
        for task in self._tasks:
            task.cancel()
        for sandbox in self.sandboxes.values():
            self.stop(sandbox)
        lives = [sandbox.task for sandbox in self.sandboxes.values() if sandbox.task is not None]
        await asyncio.gather(*self._tasks, *lives, return_exceptions=True)

    def seat(self, user: str, role: Role) -> Sandbox:
        """The sandbox of ``user`` in ``role``, started or not."""
        for sandbox in self.sandboxes.values():
            if (sandbox.user, sandbox.role) == (user, role):
                return sandbox
        sandbox = Sandbox(host_label(user, role, self.sandboxes), user, role, Status(since=time.time()))
        self._store(sandbox)
        self.sandboxes[sandbox.label] = sandbox
        return sandbox

    def start(self, sandbox: Sandbox) -> None:
        """Begin a new life; nothing happens when one is under way.

        Raises:
            StartError: ``too_many_starting``, or ``stopping`` while the last life has not ended yet.
        """
        state = sandbox.status.state
        if state in ("starting", "ready"):
            return
        if sandbox.task is not None and not sandbox.task.done():
            raise StartError("stopping", "The sandbox is still stopping.", "Try again in a few seconds.")
        admit(sum(other.status.state == "starting" for other in self.sandboxes.values()))
        sandbox.stop_asked = asyncio.Event()
        self._move(sandbox, "start", sandbox_id=ids.new_id())
        sandbox.task = asyncio.create_task(self._live(sandbox, self._start(sandbox)))

    def stop(self, sandbox: Sandbox) -> None:
        """Ask for the end, in whatever state it is; ``sandbox.settled`` waits for it."""
        self._move(sandbox, "stop")
        sandbox.stop_asked.set()

    # One life.

    async def _live(self, sandbox: Sandbox, begin: Awaitable[None]) -> None:
        failure: Failure | None = None
        try:
            failure = await self._until_end(sandbox, begin)
        except ChoirError as error:
            failure = Failure(reason=error.reason, message=error.message, hint=error.hint)
            failure = with_exit(failure, exit_of(error) or (sandbox.running.poll() if sandbox.running else None))
        except Exception:
            _log.exception("sandbox_task_failed", sandbox_id=sandbox.status.sandbox_id)
            failure = Failure(reason="internal_error", message="Choir made a mistake; its log has the details.")
        finally:
            await self._release(sandbox)
        self._move(sandbox, "ended" if failure is None else "failed", failure=failure)

    async def _until_end(self, sandbox: Sandbox, begin: Awaitable[None]) -> Failure | None:
        """Why it ended; None when that was asked for."""
        starting = asyncio.ensure_future(begin)
        if await _unless(sandbox.stop_asked, starting):
            starting.result()
            assert sandbox.running is not None
            waiting = asyncio.ensure_future(sandbox.running.wait())
            if await _unless(sandbox.stop_asked, waiting):
                return failure_of(waiting.result())
        if sandbox.running is not None:
            await sandbox.running.stop(STOP_GRACE)
        return None

    async def _start(self, sandbox: Sandbox) -> None:
        seconds = self.config.sandbox.start_timeout
        following: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(seconds):
                spec = await self._spec(sandbox)
                sandbox.running = await self.backend.start(spec)
                following = asyncio.create_task(self._follow(sandbox, sandbox.running))
                await self._patiently(lambda: self._attach(sandbox))
                await sandbox.running.wait_ready()
                await following
        except TimeoutError:
            exited = sandbox.running.poll() if sandbox.running else None
            if exited is not None and exited.reason:
                raise StartError(exited.reason, exited.message, exited.hint) from None
            raise StartError(
                "start_timeout",
                f"The sandbox was not ready after {seconds:g} s; the last phase it reached was "
                f"`{sandbox.status.phase or 'none'}`.",
                "A longer wait is `start_timeout` in the [sandbox] section of choir.toml.",
            ) from None
        finally:
            if following is not None:
                following.cancel()
        self._move(sandbox, "ready")

    async def _adopt(self, sandbox: Sandbox) -> None:
        sandbox_id = sandbox.status.sandbox_id
        try:
            sandbox.running = await self.backend.adopt(self._keeper_socket(sandbox_id))
            await sandbox.running.wait_ready()
        except ChoirError as error:
            _log.info("sandbox_not_adopted", sandbox_id=sandbox_id, reason=error.reason)
            failure = Failure(
                reason="lost", message="The sandbox ended while the hypervisor was away.", hint="Start it again."
            )
            stopped = sandbox.status.state == "stopping"
            await self._release(sandbox)
            self._move(sandbox, "ended" if stopped else "failed", failure=None if stopped else failure)
            return
        _log.info("sandbox_adopted", sandbox_id=sandbox_id)
        if sandbox.status.state == "stopping":
            sandbox.stop_asked.set()
        self._move(sandbox, "adopt")
        sandbox.task = asyncio.create_task(self._live(sandbox, self._patiently(lambda: self._attach(sandbox))))

    async def _release(self, sandbox: Sandbox) -> None:
        running, sandbox.running = sandbox.running, None
        attached, sandbox.attached = sandbox.attached, False
        closers, sandbox.at_end = sandbox.at_end, []
        if running is not None and running.poll() is None:
            await running.stop(0)
        for close in closers:
            await close()
        if attached:
            with contextlib.suppress(ChoirError):  # a gateway that is away has no lease either
                await self.gateway.detach(sandbox.status.sandbox_id)
        if running is not None:
            running.close()

    async def _follow(self, sandbox: Sandbox, running: Running) -> None:
        async for event in running.events():
            if not isinstance(event, PhaseReached):
                return
            self._move(sandbox, "phase", reached=Reached(event.phase, event.at))
            if event.phase == "ready":
                return

    async def _spec(self, sandbox: Sandbox) -> SandboxSpec:
        status = await self._patiently(self.gateway.status)
        enabled = {provider["name"] for provider in status["providers"] if provider["enabled"]}
        return build_spec(
            self.config,
            [provider for name, provider in self.config.providers.items() if name in enabled],
            sandbox_id=sandbox.status.sandbox_id,
            user=sandbox.user,
            role=sandbox.role,
            token=tokens.sign(self._token_key, sandbox.status.sandbox_id),
            environment=self._environment,
            home=self.state.homes / sandbox.label,
            host_uid=self.registry.host_uid(f"{sandbox.user}/{sandbox.role}") if os.geteuid() == 0 else None,
            log=self.log_path(sandbox),
        )

    def log_path(self, sandbox: Sandbox) -> Path:
        """Where its stdout and stderr go."""
        return self.state.logs / f"sandbox-{sandbox.label}.log"

    # Leases.

    async def _attach(self, sandbox: Sandbox) -> None:
        assert sandbox.running is not None
        await self.gateway.attach(
            sandbox.status.sandbox_id,
            sandbox.user,
            sandbox.role,
            sandbox.running.listener,
            lease_s=contract.LEASE_SECONDS,
        )
        sandbox.attached = True

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """``call``, again while the gateway is being restarted; the caller has the deadline."""
        while True:
            try:
                return await call()
            except ChoirError as error:
                if error.reason not in ("gateway_unreachable", "gateway_silent"):
                    raise
            await asyncio.sleep(RETRY_SECONDS)

    async def renew(self) -> None:
        """Extend all leases; attach again what the gateway does not know."""
        leased = {box.status.sandbox_id: box for box in self.sandboxes.values() if box.attached}
        if not leased:
            return
        try:
            for sandbox_id in await self.gateway.renew(list(leased), contract.LEASE_SECONDS):
                if leased[sandbox_id].running is not None:
                    await self._attach(leased[sandbox_id])
                    _log.info("sandbox_attached_again", sandbox_id=sandbox_id)
        except ChoirError as error:
            _log.warning("leases_not_renewed", reason=error.reason)

    async def _renew_leases(self) -> None:
        while True:
            await asyncio.sleep(contract.RENEW_SECONDS)
            await self.renew()

    async def _attach_again(self) -> None:
        async for event in self.gateway.events():
            if event.get("event") == "connected":
                await self.renew()

    # Status.

    def _move(
        self,
        sandbox: Sandbox,
        name: EventName,
        *,
        sandbox_id: str = "",
        reached: Reached | None = None,
        failure: Failure | None = None,
    ) -> None:
        before = sandbox.status
        event = Event(name=name, now=time.time(), sandbox_id=sandbox_id, reached=reached, failure=failure)
        sandbox.status = advance(before, event)
        if sandbox.status == before:
            return
        if sandbox.status.state != before.state:
            why = sandbox.status.failure.reason if sandbox.status.failure else ""
            _log.info("sandbox", sandbox_id=sandbox.status.sandbox_id, state=sandbox.status.state, reason=why)
        try:
            self._store(sandbox)
        except ChoirError as error:  # what happens, happens, even when it cannot be written down
            _log.error("registry_write_failed", reason=error.reason)
        sandbox.watch.changed()

    def _store(self, sandbox: Sandbox) -> None:
        status = msgspec.json.encode(sandbox.status).decode()
        self.registry.put_sandbox(SandboxRow(sandbox.label, sandbox.user, sandbox.role, status))


async def _unless(stop: asyncio.Event, task: asyncio.Future[T]) -> bool:
    """Wait for ``task``; when ``stop`` is set first, cancel it, wait for its end, and say False."""
    stopping = asyncio.ensure_future(stop.wait())
    waited: set[asyncio.Future[Any]] = {task, stopping}
    try:
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            return True
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return False
    finally:
        stopping.cancel()
        if not task.done():
            task.cancel()
