"""A started sandbox as seen through its keeper's channel; see ``choir.isolation.keeper`` for the messages."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from choir.channel import Channel, ChannelClosed, Message
from choir.errors import ChoirError, IsolationError, KeylessError, StartError
from choir.isolation.contract import Event, Exited, Phase, PhaseReached
from choir.isolation.listener import check_listener
from choir.isolation.strays import kill_strays

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


class KeptSandbox:
    """``choir.isolation.contract.Running``. Make it in a running event loop."""

    def __init__(
        self, channel: Channel, sandbox_id: str, deadline: float, keeper_socket: Path | None, mark: str
    ) -> None:
        """``deadline``: ``loop.time()`` by which it must be ready. ``mark``: the launcher's, "" when unknown."""
        self.sandbox_id = sandbox_id
        self.keeper_pid = 0
        self.pid = 0
        self.keeper_socket = keeper_socket
        self._mark = mark
        self._channel = channel
        self._deadline = deadline
        self._listener: socket.socket | None = None
        self._desktop = -1
        self._history: list[Event] = []
        self._exited: Exited | None = None
        self._refusal: ChoirError | None = None
        self._closed = False
        self._news = asyncio.Event()
        self._reader = asyncio.get_running_loop().create_task(self._read())

    @property
    def listener(self) -> socket.socket:
        if self._listener is None:
            raise StartError("not_running", "The sandbox has no listener: it has not started, or has ended.")
        return self._listener

    @property
    def desktop(self) -> str | None:
        return None if self._desktop < 0 else f"/proc/self/fd/{self._desktop}"

    def poll(self) -> Exited | None:
        return self._exited

    async def events(self) -> AsyncIterator[Event]:
        index = 0
        while True:
            while index < len(self._history):
                yield self._history[index]
                index += 1
            if self._exited is not None or self._closed:
                return
            await self._news.wait()

    async def wait(self) -> Exited:
        async for event in self.events():
            if isinstance(event, Exited):
                return event
        raise StartError("not_running", "The sandbox was let go of before it ended.")

    async def wait_ready(self) -> None:
        self._send({"op": "proceed"})
        await self.reach("ready")

    async def reach(self, phase: Phase) -> None:
        """Until ``phase``.

        Raises:
            StartError, KeylessError, IsolationError: it ended or ran out of time first.
        """
        try:
            async with asyncio.timeout_at(self._deadline):
                exited = await self._first(phase)
        except TimeoutError:
            last = next((event.phase for event in reversed(self._history) if isinstance(event, PhaseReached)), "none")
            message = f"The sandbox was not ready in time; the last phase it reached is {last}."
            self._send({"op": "stop", "grace": 0, "reason": "start_timeout", "message": message})
            exited = await self.wait()
        if self._refusal is not None:
            raise self._refusal
        if exited is not None:
            raise start_error(exited)

    async def _first(self, phase: Phase) -> Exited | None:
        async for event in self.events():
            if isinstance(event, Exited):
                return event
            if event.phase == phase:
                return None
        raise StartError("not_running", "The sandbox was let go of before it was ready.")

    async def adopted(self) -> bool:
        """Until what a keeper replays has arrived; False when it died instead. The sandbox may have ended meanwhile."""
        exited = await self._first("listener")
        return exited is None or self.keeper_pid != 0

    async def stop(self, grace: float = 5.0) -> Exited:
        self._send({"op": "stop", "grace": grace})
        return await self.wait()

    def resize(self, rows: int, columns: int) -> None:
        self._send({"op": "resize", "rows": rows, "columns": columns})

    def close(self) -> None:
        self._closed = True
        self._reader.cancel()
        self._channel.close()
        self._let_go()
        self._wake()

    def _let_go(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._desktop >= 0:
            os.close(self._desktop)
            self._desktop = -1

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _publish(self, event: Event) -> None:
        self._history.append(event)
        if isinstance(event, Exited):
            self._exited = event
            self._let_go()
        self._wake()

    def _send(self, message: Message) -> None:
        if self._exited is None and not self._closed:
            with contextlib.suppress(ChannelClosed):  # its end is seen by the reader
                self._channel.send(message)

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._exited is None:
                message, descriptors = await self._channel.receive_async(loop)
                self._take(message, descriptors)
        except ChannelClosed:
            if self._mark:
                kill_strays(self._mark)
            self._publish(
                Exited(None, None, "keeper_died", "The sandbox's keeper died, and the sandbox with it.", "", "")
            )

    def _take(self, message: Message, descriptors: list[int]) -> None:
        match message["event"]:
            case "hello":
                self.keeper_pid, self.pid, self._mark = message["keeper_pid"], message["pid"], message["mark"]
            case "phase":
                if message["phase"] == "listener" and descriptors:
                    self._take_listener(message, descriptors)
                self._publish(PhaseReached(message["phase"], message["at"]))
            case "exited":
                self._publish(
                    Exited(
                        code=message["code"],
                        signal=message["signal"],
                        reason=message["reason"],
                        message=message["message"],
                        hint=message["hint"],
                        log_tail=message["log_tail"],
                    )
                )

    def _take_listener(self, message: Message, descriptors: list[int]) -> None:
        self._listener = socket.socket(fileno=descriptors[0])
        self._listener.setblocking(False)
        if len(descriptors) > 1:
            self._desktop = descriptors[1]
        try:
            check_listener(self._listener, message["first_pid"])
        except IsolationError as error:
            self._refusal = error
            self._send({"op": "stop", "grace": 0, "reason": error.reason, "message": error.message})
