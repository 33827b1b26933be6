"""Sandboxes that stand ready for people who are likely to come (``likely`` says who).

Each is its person's own from the beginning and held before it could do anything; a start takes it if there is one
(``take``), and starts from nothing if there is none, or it does not fit any more. It is no running sandbox: it has no
record, no lease and no way in. Making one gives way to every start of a real one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from choir import ids
from choir.contract import Role
from choir.errors import ChoirError
from choir.hypervisor.lifecycle import ALIVE
from choir.hypervisor.likely import Seat, is_short, likely
from choir.hypervisor.records import Records
from choir.hypervisor.sandbox import Sandbox
from choir.isolation.contract import Backend, Prepared, SandboxSpec
from choir.storage.registry import Registry

CALM = 0.5
"""Seconds between something happening and looking who may come next."""
LOOK = 60.0
"""Seconds until the next look when nothing happens."""
OLDEST = 3600.0
"""Seconds after which one is made anew: what has silently gone wrong with it goes no further."""
RETRY = 60.0
"""Seconds until one that could not be made, or died, is made again."""

_log = structlog.get_logger("choir.hypervisor")

MakeSpec = Callable[[Sandbox, str], Awaitable[SandboxSpec]]
"""Told the sandbox id."""


@dataclass(frozen=True)
class _Slot:
    prepared: Prepared
    made: float
    watching: asyncio.Task[None]


class Standby:
    """
    Args:
        limit: how many; 0: none.
    """

    def __init__(
        self, *, records: Records, registry: Registry, backend: Backend, make_spec: MakeSpec, limit: int
    ) -> None:
        self._records = records
        self._registry = registry
        self._backend = backend
        self._make_spec = make_spec
        self._limit = limit
        self._slots: dict[str, _Slot] = {}
        """By the sandbox's label."""
        self._making: tuple[str, asyncio.Task[Prepared]] | None = None
        self._turn = asyncio.Lock()
        """Of whoever makes one."""
        self._not_before: dict[str, float] = {}
        """Monotonic seconds."""

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, sandbox: Sandbox) -> bool:
        return sandbox.label in self._slots

    def wake(self) -> None:
        """Somebody may be coming."""
        self._records.watch.changed()

    async def keep(self) -> None:
        """Have the right ones. Returns at once when there are to be none, else never."""
        watch = self._records.watch
        try:
            while self._limit > 0:
                await asyncio.sleep(CALM)
                version = watch.version
                try:
                    await self._look()
                except Exception:
                    _log.exception("standby_failed")
                await watch.after(version, LOOK)
        finally:
            await self.close()

    def take(self, sandbox: Sandbox) -> Prepared | None:
        """What stands ready for this start, which is the caller's from now on."""
        if self._making is not None:
            self._making[1].cancel()
        slot = self._slots.pop(sandbox.label, None)
        if slot is None:
            return None
        slot.watching.cancel()
        return slot.prepared

    async def discard(self, sandbox: Sandbox) -> None:
        """Nothing stands ready for it when this returns: something is to be done to its home."""
        if self._making is not None and self._making[0] == sandbox.label:
            self._making[1].cancel()
            async with self._turn:
                pass
        await self._drop(sandbox.label)

    async def close(self) -> None:
        """End all of them."""
        if self._making is not None:
            self._making[1].cancel()
        await asyncio.gather(*(self._drop(label) for label in list(self._slots)))

    async def _look(self) -> None:
        wanted = [] if _memory_is_short() else self._wanted()
        await self._tidy(wanted)
        for user, role in wanted:
            if any(sandbox.status.state == "starting" for sandbox in self._records.sandboxes.values()):
                return  # its end is news
            await self._fill(self._records.seat(user, role))

    def _wanted(self) -> list[tuple[str, Role]]:
        seen: dict[str, float] = {}
        for session in self._registry.sessions(time.time()):
            seen[session.user] = max(seen.get(session.user, 0.0), session.used, session.created)
        return likely((_seat(each) for each in self._records.sandboxes.values()), seen, self._limit)

    async def _tidy(self, wanted: list[tuple[str, Role]]) -> None:
        """Let go of what is too old, or for somebody who is not likely to come any more."""
        now = time.monotonic()
        for label, slot in list(self._slots.items()):
            sandbox = self._records.sandboxes.get(label)
            if sandbox is None or (sandbox.user, sandbox.role) not in wanted or now - slot.made > OLDEST:
                await self._drop(label)

    async def _fill(self, sandbox: Sandbox) -> None:
        label, now = sandbox.label, time.monotonic()
        if label in self._slots or self._not_before.get(label, now) > now or _is_taken(sandbox):
            return
        async with self._turn:
            making = asyncio.create_task(self._prepare(sandbox))
            self._making = (label, making)
            try:
                await asyncio.wait([making])
                await self._made(sandbox, making)
            finally:
                making.cancel()
                self._making = None

    async def _made(self, sandbox: Sandbox, making: asyncio.Task[Prepared]) -> None:
        if making.cancelled():
            return
        error = making.exception()
        if error is not None:
            self._failed(sandbox.label, error)
        elif _is_taken(sandbox) or self._records.sandboxes.get(sandbox.label) is not sandbox:
            await making.result().discard()
        else:
            prepared = making.result()
            watching = asyncio.create_task(self._watch(sandbox.label, prepared))
            self._slots[sandbox.label] = _Slot(prepared, time.monotonic(), watching)

    async def _prepare(self, sandbox: Sandbox) -> Prepared:
        return await self._backend.prepare(await self._make_spec(sandbox, ids.new_id()))

    def _failed(self, label: str, error: BaseException) -> None:
        self._not_before[label] = time.monotonic() + RETRY
        if not isinstance(error, ChoirError):
            raise error
        if error.reason == "prepare_unsupported":
            self._limit = 0
            return
        _log.warning("standby_failed", reason=error.reason, message=error.message)

    async def _watch(self, label: str, prepared: Prepared) -> None:
        exited = await prepared.wait()
        _log.warning("standby_ended", reason=exited.reason, message=exited.message)
        self._not_before[label] = time.monotonic() + RETRY
        del self._slots[label]
        await prepared.discard()

    async def _drop(self, label: str) -> None:
        slot = self._slots.pop(label, None)
        if slot is not None:
            slot.watching.cancel()
            await slot.prepared.discard()


def _seat(sandbox: Sandbox) -> Seat:
    status = sandbox.status
    return Seat(sandbox.user, sandbox.role, status.state, status.since, sandbox.last_input, bool(status.retry_at))


def _is_taken(sandbox: Sandbox) -> bool:
    """Whether it lives, or its home is being worked on."""
    return (
        sandbox.status.state in ALIVE
        or bool(sandbox.occupied)
        or (sandbox.task is not None and not sandbox.task.done())
    )


def _memory_is_short() -> bool:
    with open("/proc/meminfo") as file:
        return is_short(file.read())
