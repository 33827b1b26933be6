"""Keeps sandboxes: one task per life, which starts, watches and ends it.

Only a person's action starts one, except that one which crashed is started again a few times (``restart``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping

import msgspec
import structlog

from choir import ids
from choir.config import Config
from choir.contract import Role
from choir.errors import ChoirError, StartError
from choir.hypervisor.admission import RETRY_AFTER_SECONDS, admit
from choir.hypervisor.freeze import thaw
from choir.hypervisor.leases import Gateway, Leases
from choir.hypervisor.life import Lives
from choir.hypervisor.lifecycle import ALIVE, Failure
from choir.hypervisor.records import Records
from choir.hypervisor.restart import after_crash, loop_hint
from choir.hypervisor.sandbox import Sandbox
from choir.hypervisor.standby import Standby
from choir.isolation.contract import Backend
from choir.paths import State
from choir.storage.registry import Registry

_log = structlog.get_logger("choir.hypervisor")


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
    ) -> None:
        """
        Args:
            environment: host variables that every sandbox gets.
        """
        self.state = state
        self.config = config
        self.backend = backend
        self.records = Records(state, registry)
        self.leases = Leases(gateway, self.records.sandboxes)
        self._lives = Lives(
            config=config,
            records=self.records,
            backend=backend,
            leases=self.leases,
            token_key=token_key,
            environment=environment,
        )
        self.standby = Standby(
            records=self.records,
            registry=registry,
            backend=backend,
            make_spec=self._lives.spec,
            limit=config.sandbox.warm,
        )
        self.leases.warm = self.standby.__len__
        self._preparing: asyncio.Task[None] | None = None
        self._leasing: asyncio.Task[None] | None = None
        self.closing = False
        """Set when nothing starts any more and streams come to their end."""

    async def begin(self) -> None:
        """Take over what lives from before, end what nobody knows, and keep every lease from now on."""
        found = self.records.load()
        await asyncio.gather(*(self._adopt(sandbox) for sandbox in found if sandbox.status.state in ALIVE))
        known = {sandbox.status.sandbox_id for sandbox in found if sandbox.running is not None}
        strays = [path for path in self.state.run.glob("*.keeper") if path.stem not in known]
        await asyncio.gather(*(self._lives.end_stray(path) for path in strays))
        for sandbox in found:
            if sandbox.status.retry_at:
                self._retry_in(sandbox, max(0.0, sandbox.status.retry_at - time.time()))
        self._leasing = asyncio.create_task(self.leases.keep())
        self._preparing = asyncio.create_task(self.standby.keep())

    def begin_to_close(self) -> None:
        """Wake whoever follows a sandbox, to see ``closing``."""
        self.closing = True
        for sandbox in self.sandboxes.values():
            sandbox.watch.changed()

    async def close(self) -> None:
        """Stop every sandbox and wait for its end; none starts any more."""
        self.begin_to_close()
        background = [task for task in (self._leasing, self._preparing) if task is not None]
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        for sandbox in self.sandboxes.values():
            self.stop(sandbox)
        lives = [sandbox.task for sandbox in self.sandboxes.values() if sandbox.task is not None]
        await asyncio.gather(*lives, return_exceptions=True)

    @property
    def sandboxes(self) -> dict[str, Sandbox]:
        """By label."""
        return self.records.sandboxes

    def seat(self, user: str, role: Role) -> Sandbox:
        """The sandbox of ``user`` in ``role``, started or not."""
        return self.records.seat(user, role)

    def users(self) -> set[str]:
        """Who has a sandbox, started or not."""
        return {sandbox.user for sandbox in self.sandboxes.values()}

    def start(self, sandbox: Sandbox) -> None:
        """Begin a new life; nothing happens when one is under way.

        Raises:
            StartError: ``too_many_starting``, ``busy``, ``closing``, or ``stopping`` while the last life has not ended
                yet.
        """
        if sandbox.status.state in ("starting", "ready"):
            return
        if self.closing:
            raise StartError("closing", "Choir itself is stopping.", "Start it again with `choir up`.")
        if sandbox.occupied:
            raise StartError("busy", sandbox.occupied, "Try again when that is done.")
        if sandbox.task is not None and not sandbox.task.done():
            raise StartError("stopping", "The sandbox is still stopping.", "Try again in a few seconds.")
        admit(sum(other.status.state == "starting" for other in self.sandboxes.values()))
        self._forget_retry(sandbox)
        sandbox.stop_asked, sandbox.stop_note = asyncio.Event(), ""
        prepared = self.standby.take(sandbox)
        self.records.move(sandbox, "start", sandbox_id=prepared.sandbox_id if prepared else ids.new_id())
        sandbox.task = asyncio.create_task(self._live(sandbox, self._lives.start(sandbox, prepared)))

    def stop(self, sandbox: Sandbox, note: str = "") -> None:
        """Ask for the end, in whatever state it is; ``sandbox.settled`` waits for it.

        Args:
            note: a sentence on why, when it was not the person who asked.
        """
        self._forget_retry(sandbox)
        if not sandbox.stop_asked.is_set():
            sandbox.stop_note = note
        self.records.move(sandbox, "stop")
        sandbox.stop_asked.set()

    async def _live(self, sandbox: Sandbox, begin: Awaitable[None]) -> None:
        ending = await self._lives.live(sandbox, begin)
        if ending.failure is None:
            self.records.move(sandbox, "ended", note=sandbox.stop_note)
        elif ending.crashed and not sandbox.stop_asked.is_set():
            self._crashed(sandbox, ending.failure)
        else:
            self.records.move(sandbox, "failed", failure=ending.failure)

    # After a crash.

    def _crashed(self, sandbox: Sandbox, failure: Failure) -> None:
        now = time.time()
        crashes, wait = after_crash(sandbox.status.crashes, now)
        if wait is None:
            failure = msgspec.structs.replace(failure, hint=f"{loop_hint(len(crashes))} {failure.hint}")
        self.records.move(
            sandbox, "failed", failure=failure, crashes=crashes, retry_at=0.0 if wait is None else now + wait
        )
        if wait is not None:
            self._retry_in(sandbox, wait)

    def _retry_in(self, sandbox: Sandbox, seconds: float) -> None:
        sandbox.retry = asyncio.get_running_loop().call_later(seconds, self._retry, sandbox)

    def _retry(self, sandbox: Sandbox) -> None:
        try:
            self.start(sandbox)
        except StartError:  # too many at once, or its files are being worked on
            self._retry_in(sandbox, RETRY_AFTER_SECONDS)

    def _forget_retry(self, sandbox: Sandbox) -> None:
        if sandbox.retry is not None:
            sandbox.retry.cancel()
            sandbox.retry = None

    # From before.

    async def _adopt(self, sandbox: Sandbox) -> None:
        sandbox_id = sandbox.status.sandbox_id
        stopping = sandbox.status.state == "stopping"
        sandbox.attached = True  # for all we know: the gateway may have outlived the last hypervisor
        try:
            sandbox.running = await self.backend.adopt(self.records.keeper_socket(sandbox))
        except (ChoirError, OSError) as error:
            _log.info("sandbox_not_adopted", sandbox_id=sandbox_id, reason=getattr(error, "reason", str(error)))
            failure = Failure(
                reason="lost", message="The sandbox ended while the hypervisor was away.", hint="Start it again."
            )
            if isinstance(error, ChoirError) and error.reason == "keeper_silent":
                failure = Failure(reason=error.reason, message=error.message, hint="Start it again.")
            self.records.keeper_socket(sandbox).unlink(missing_ok=True)
            await self.leases.detach(sandbox)
            self.records.move(sandbox, "ended" if stopping else "failed", failure=None if stopping else failure)
            return
        _log.info("sandbox_adopted", sandbox_id=sandbox_id)
        thaw(sandbox.running.pid)  # in case it was being copied
        if stopping:
            sandbox.stop_asked.set()
        sandbox.task = asyncio.create_task(self._live(sandbox, self._lives.go_on(sandbox, sandbox.running)))
