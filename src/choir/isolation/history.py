"""What happened to a started sandbox so far, for any number of readers: what ``Running`` is in all backends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable

from choir.errors import ChoirError, IsolationError, KeylessError, StartError
from choir.isolation.contract import EndedEarly, Event, Exited, Phase, PhaseReached

_KEYLESS = ("credential_", "descriptor_inherited")
_ISOLATION = frozenset((
    "user_namespaces_unavailable", "seccomp_unavailable", "proc_unavailable", "root_without_mounts",
    "folder_not_mappable", "launcher_failed", "listener_refused",
))  # fmt: skip


def start_error(exited: Exited) -> ChoirError:
    """The exception for a sandbox that ended before it was ready."""
    if exited.reason.startswith(_KEYLESS):
        kind: type[ChoirError] = KeylessError
    else:
        kind = IsolationError if exited.reason in _ISOLATION else StartError
    return kind(exited.reason or "exited_at_start", exited.message, exited.hint)


class History:
    """Events in order. Make it in a running event loop.

    Args:
        deadline: ``loop.time()`` by which it must be ready.
    """

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._events: list[Event] = []
        self._exited: Exited | None = None
        self._refusal: ChoirError | None = None
        self._closed = False
        self._news = asyncio.Event()

    @property
    def open(self) -> bool:
        """Whether there is still something to tell it."""
        return self._exited is None and not self._closed

    def poll(self) -> Exited | None:
        return self._exited

    def refuse(self, error: ChoirError) -> None:
        """Its end will have this reason."""
        self._refusal = error

    async def events(self) -> AsyncIterator[Event]:
        index = 0
        while True:
            while index < len(self._events):
                yield self._events[index]
                index += 1
            if not self.open:
                return
            await self._news.wait()

    async def wait(self) -> Exited:
        async for event in self.events():
            if isinstance(event, Exited):
                return event
        raise StartError("not_running", "The sandbox was let go of before it ended.")

    async def reach(self, phase: Phase) -> None:
        """Until ``phase``.

        Raises:
            StartError, KeylessError, IsolationError: it ended or ran out of time first.
        """
        await self._in_time(self._first(phase))

    async def _in_time(self, coming: Awaitable[Exited | None]) -> None:
        """``reach``, of something that may be an end."""
        try:
            async with asyncio.timeout_at(self._deadline):
                exited = await coming
        except TimeoutError:
            last = next((event.phase for event in reversed(self._events) if isinstance(event, PhaseReached)), "none")
            self._give_up(f"The sandbox was not ready in time; the last phase it reached is {last}.")
            exited = await self.wait()
        if exited is not None:
            phases = tuple(event for event in self._events if isinstance(event, PhaseReached))
            raise (self._refusal or start_error(exited)) from EndedEarly(exited, phases)
        if self._refusal is not None:
            raise self._refusal

    async def _first(self, phase: Phase) -> Exited | None:
        async for event in self.events():
            if isinstance(event, Exited):
                return event
            if event.phase == phase:
                return None
        raise StartError("not_running", "The sandbox was let go of before it was ready.")

    def _give_up(self, message: str) -> None:
        """End it, with reason ``start_timeout``."""
        raise NotImplementedError

    def _let_be(self) -> None:
        """Nobody is to hear more."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _publish(self, event: Event) -> None:
        self._events.append(event)
        if isinstance(event, Exited):
            self._exited = event
        self._wake()
