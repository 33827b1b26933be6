"""One life of a sandbox, from its start or adoption to its end, raced against being asked to stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog

from choir import tokens
from choir.config import Config
from choir.errors import ChoirError, KeylessError, StartError
from choir.hypervisor.crash import exit_of, failure_from, failure_of, log_since, phases_of
from choir.hypervisor.leases import Leases, patiently
from choir.hypervisor.lifecycle import Failure, Reached
from choir.hypervisor.records import Records
from choir.hypervisor.sandbox import Sandbox
from choir.hypervisor.spec import build_spec
from choir.inside import wants_tls
from choir.isolation.contract import Backend, PhaseReached, Prepared, Running, SandboxSpec

T = TypeVar("T")

STOP_GRACE = 3.0
"""Seconds between asking a sandbox to end and killing it."""
CANCEL_SECONDS = 2.0
"""How long a start that was cancelled may take to get to where it can be stopped."""

_log = structlog.get_logger("choir.hypervisor")


@dataclass(frozen=True)
class Ending:
    """How a life ended. ``failure`` is None when it was asked to; ``crashed``: it had been ready."""

    failure: Failure | None
    crashed: bool = False


class Lives:
    """Makes lives of sandboxes.

    Args:
        environment: host variables that every sandbox gets.
    """

    def __init__(
        self,
        *,
        config: Config,
        records: Records,
        backend: Backend,
        leases: Leases,
        token_key: bytes,
        environment: Mapping[str, str],
    ) -> None:
        self._config = config
        self._records = records
        self._backend = backend
        self._leases = leases
        self._token_key = token_key
        self._environment = dict(environment)

    async def live(self, sandbox: Sandbox, begin: Awaitable[None]) -> Ending:
        """One life from ``begin`` (``start`` or ``go_on``) on; when this returns nothing of it is left."""
        log = self._records.log_path(sandbox)
        logged = _size(log)
        try:
            failure = await self._until_end(sandbox, begin)
            return Ending(failure, crashed=failure is not None)
        except ChoirError as error:
            for phase in phases_of(error):
                self._records.move(sandbox, "phase", reached=Reached(phase.phase, phase.at))
            ended = exit_of(error) or (sandbox.running.poll() if sandbox.running else None)
            return Ending(failure_from(error, ended, log_since(log, logged)))
        except Exception:
            _log.exception("sandbox_task_failed", sandbox_id=sandbox.status.sandbox_id)
            return Ending(Failure(reason="internal_error", message="Choir made a mistake; its log has the details."))
        finally:
            await self._release(sandbox)

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
            was_ready = sandbox.status.phase == "ready"
            exited = await sandbox.running.stop(STOP_GRACE)
            if was_ready and exited.signal == signal.SIGKILL:
                killed = f"It did not end within {STOP_GRACE:g} s of being asked to, so it was killed."
                sandbox.stop_note = f"{sandbox.stop_note} {killed}".strip()
        return None

    async def start(self, sandbox: Sandbox, prepared: Prepared | None = None) -> None:
        """From ``prepared``, if it is any good, else from nothing."""
        async with self._deadline(sandbox):
            try:
                spec = await self.spec(sandbox, sandbox.status.sandbox_id)
            except BaseException:
                if prepared is not None:
                    prepared.abandon()
                raise
            if prepared is None or not await self._claim(sandbox, prepared, spec):
                await self._begin(sandbox, self._backend.start(spec))

    async def _claim(self, sandbox: Sandbox, prepared: Prepared, spec: SandboxSpec) -> bool:
        """Whether it became ready. A credential is the person's to know of; whatever else was wrong is not."""
        try:
            await self._begin(sandbox, prepared.start(spec))
        except ChoirError as error:
            await self._leases.detach(sandbox)
            sandbox.running = None
            await prepared.discard()
            if isinstance(error, KeylessError):
                raise
            _log.warning("standby_not_used", sandbox_id=spec.sandbox_id, reason=error.reason, message=error.message)
            return False
        return True

    async def _begin(self, sandbox: Sandbox, begun: Coroutine[Any, Any, Running]) -> None:
        starting = asyncio.create_task(begun)
        try:
            sandbox.running = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # What is half made is better stopped than let go of: a keeper would wait for whoever comes back.
            done, _ = await asyncio.wait([starting], timeout=CANCEL_SECONDS)
            if done and starting.exception() is None:
                sandbox.running = starting.result()
            starting.cancel()
            raise
        await self._become_ready(sandbox, sandbox.running)

    async def go_on(self, sandbox: Sandbox, running: Running) -> None:
        """An adopted one's part of its life."""
        async with self._deadline(sandbox):
            await self._become_ready(sandbox, running)

    async def _become_ready(self, sandbox: Sandbox, running: Running) -> None:
        following = asyncio.create_task(self._follow(sandbox, running))
        try:
            await self._leases.attach(sandbox)
            await running.wait_ready()
            await following
        finally:
            following.cancel()
        self._records.move(sandbox, "ready")

    @contextlib.asynccontextmanager
    async def _deadline(self, sandbox: Sandbox) -> AsyncIterator[None]:
        seconds = self._config.sandbox.start_timeout
        try:
            async with asyncio.timeout(seconds):
                yield
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

    async def _follow(self, sandbox: Sandbox, running: Running) -> None:
        async for event in running.events():
            if not isinstance(event, PhaseReached):
                return
            self._records.move(sandbox, "phase", reached=Reached(event.phase, event.at))
            if event.phase == "ready":
                return

    async def _release(self, sandbox: Sandbox) -> None:
        running, sandbox.running = sandbox.running, None
        closers, sandbox.at_end = sandbox.at_end, []
        if running is not None and running.poll() is None:
            await running.stop(0)
        for close in closers:
            await close()
        await self._leases.detach(sandbox)
        keeper_socket = self._records.keeper_socket(sandbox)
        if running is not None:
            running.close()
            keeper_socket.unlink(missing_ok=True)  # a killed keeper leaves it
        elif keeper_socket.exists():
            await self.end_stray(keeper_socket)

    async def end_stray(self, keeper_socket: Path) -> None:
        """End a sandbox that nobody has hold of: half made, or unknown after a write that failed."""
        with contextlib.suppress(ChoirError, OSError):
            running = await self._backend.adopt(keeper_socket)
            _log.warning("stray_sandbox_ended", sandbox_id=keeper_socket.stem)
            await running.stop(0)
            running.close()

    async def spec(self, sandbox: Sandbox, sandbox_id: str) -> SandboxSpec:
        """What it is to be in a life with this id, as things are now; makes its home.

        Raises:
            StartError: as ``build_spec``.
        """
        status = await patiently(self._leases.gateway.status)
        enabled = {provider["name"] for provider in status["providers"] if provider["enabled"]}
        providers = [provider for name, provider in self._config.providers.items() if name in enabled]
        authority = ""
        if wants_tls(providers):
            authority = await patiently(lambda: self._leases.gateway.authority(sandbox_id))
        return build_spec(
            self._config,
            providers,
            sandbox_id=sandbox_id,
            user=sandbox.user,
            role=sandbox.role,
            token=tokens.sign(self._token_key, sandbox_id),
            environment=self._environment,
            home=self._records.home_path(sandbox),
            host_uid=self._records.host_uid(sandbox),
            log=self._records.log_path(sandbox),
            ca_certificate=authority,
        )


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


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
