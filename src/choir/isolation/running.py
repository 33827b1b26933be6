"""A started sandbox as seen through its keeper's channel; see ``choir.isolation.keeper`` for the messages."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Iterable
from pathlib import Path

from choir.channel import Channel, ChannelClosed, Message, peer_credentials
from choir.errors import IsolationError, StartError
from choir.isolation import cgroup
from choir.isolation.contract import Exited, PhaseReached
from choir.isolation.history import History
from choir.isolation.listener import check_listener
from choir.isolation.strays import kill_strays

_SILENCE = 5.0
"""Seconds after which a keeper that says nothing is taken to hang. A busy machine's may take a few."""


class KeptSandbox(History):
    """``choir.isolation.contract.Running``. Make it in a running event loop."""

    def __init__(
        self, channel: Channel, sandbox_id: str, deadline: float, keeper_socket: Path | None, mark: str
    ) -> None:
        """``deadline``: ``loop.time()`` by which it must be ready. ``mark``: the launcher's, "" when unknown."""
        super().__init__(deadline)
        self.sandbox_id = sandbox_id
        self.keeper_pid = 0
        self.pid = 0
        self.keeper_socket = keeper_socket
        self.limits: dict[str, str] = {}
        self._mark = mark
        self._held = False
        self._channel = channel
        self._listener: socket.socket | None = None
        self._desktop = -1
        self._reader = asyncio.get_running_loop().create_task(self._read())

    @property
    def listener(self) -> socket.socket:
        if self._listener is None:
            raise StartError("not_running", "The sandbox has no listener: it has not started, or has ended.")
        return self._listener

    @property
    def desktop(self) -> str | None:
        return None if self._desktop < 0 else f"/proc/self/fd/{self._desktop}"

    async def wait_ready(self) -> None:
        self._send({"op": "proceed"})
        await self.reach("ready")

    async def held(self) -> None:
        """Until the first process of one that is to be held waits for its plan.

        Raises:
            StartError, IsolationError: it ended or ran out of time first.
        """
        await self._in_time(self._standing())

    async def _standing(self) -> Exited | None:
        while self.open and not self._held:
            await self._news.wait()
        return self.poll()

    def claim(self, message: Message, descriptors: list[int], seconds: float) -> None:
        """Pass on what a held one is to be; it has so many seconds."""
        self.allow(seconds)
        self._send(message, descriptors)

    def allow(self, seconds: float) -> None:
        """It must be ready within ``seconds`` from now."""
        self._deadline = asyncio.get_running_loop().time() + seconds

    async def gone(self) -> None:
        """After the end: until its keeper has let go of everything, too. At most a few seconds."""
        if self._channel.fileno() < 0:
            return
        with contextlib.suppress(TimeoutError, ChannelClosed):
            async with asyncio.timeout(_SILENCE):
                while True:
                    await self._channel.receive_async(asyncio.get_running_loop())

    async def adopted(self) -> bool:
        """Until what a keeper replays has arrived; False when it died instead. The sandbox may have ended meanwhile.

        Raises:
            StartError: ``keeper_silent``; it was killed, and the sandbox with it.
        """
        try:
            async with asyncio.timeout(_SILENCE):
                exited = await self._first("listener")
        except TimeoutError:
            ended = "nothing there could be ended"
            if self._kill_keeper():
                await self.wait()
                ended = "it was ended, and the sandbox with it"
            message = f"The sandbox's keeper did not answer for {_SILENCE:g} s; {ended}."
            raise StartError("keeper_silent", message) from None
        return exited is None or self.keeper_pid != 0

    def _kill_keeper(self) -> bool:
        """It hangs, so nothing else is in charge of its sandbox. The kernel kills that, too (--die-with-parent)."""
        # Not its own word: that may never have come. Whoever made the other end of this channel is not gone, or the
        # channel would be closed; but it may not be a keeper.
        pid = self.keeper_pid or peer_credentials(self._channel.sock)[0]
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(pid)
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    if f"choir.isolation.keeper {self.sandbox_id}".encode() in file.read():
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                        return True
            finally:
                os.close(pidfd)
        return False

    def _give_up(self, message: str) -> None:
        self._send({"op": "stop", "grace": 0, "reason": "start_timeout", "message": message})

    async def stop(self, grace: float = 5.0) -> Exited:
        self._send({"op": "stop", "grace": grace})
        try:
            async with asyncio.timeout(grace + _SILENCE):
                return await self.wait()
        except TimeoutError:
            self._kill_keeper()
            return await self.wait()

    def resize(self, rows: int, columns: int) -> None:
        self._send({"op": "resize", "rows": rows, "columns": columns})

    def hand_over(self) -> list[int]:
        """Descriptors of the keeper's channel and of the listener, for a process that takes this sandbox over; the
        caller owns them. Nothing more is heard here: ``close`` it. Only before the sandbox was told to proceed.

        Raises:
            StartError: ``not_running``.
        """
        listener = self.listener
        self._stop_hearing()
        return [os.dup(self._channel.fileno()), os.dup(listener.fileno())]

    def abandon(self) -> None:
        """End it without waiting, and let go: nobody wants it any more."""
        self._send({"op": "stop", "grace": 0})
        self.close()

    def close(self) -> None:
        self._stop_hearing()
        self._channel.close()
        self._let_go()
        self._let_be()

    def _stop_hearing(self) -> None:
        self._reader.cancel()
        if self._channel.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())

    def _let_go(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._desktop >= 0:
            os.close(self._desktop)
            self._desktop = -1

    def _send(self, message: Message, descriptors: Iterable[int] = ()) -> None:
        if self.open:
            with contextlib.suppress(ChannelClosed):  # its end is seen by the reader
                self._channel.send(message, descriptors)

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self.poll() is None:
                message, descriptors = await self._channel.receive_async(loop)
                self._take(message, descriptors)
        except ChannelClosed:
            if self._mark:
                kill_strays(self._mark)
            cgroup.sweep(cgroup.places())
            self._let_go()
            self._publish(
                Exited(None, None, "keeper_died", "The sandbox's keeper died, and the sandbox with it.", "", "")
            )

    def _take(self, message: Message, descriptors: list[int]) -> None:
        match message["event"]:
            case "hello":
                self.keeper_pid, self.pid, self._mark = message["keeper_pid"], message["pid"], message["mark"]
                self.limits = message.get("limits", {})  # an older keeper does not say
            case "held":
                self._held = True
                self._wake()
            case "phase":
                if message["phase"] == "listener" and descriptors:
                    self._take_listener(message, descriptors)
                self._publish(PhaseReached(message["phase"], message["at"]))
            case "exited":
                self._let_go()
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
            self.refuse(error)
            self._send({"op": "stop", "grace": 0, "reason": error.reason, "message": error.message})
