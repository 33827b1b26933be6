"""The client of the gateway's control socket; the protocol is in ``choir.contract``."""

from __future__ import annotations

import _socket
import asyncio
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

from choir.channel import Channel, ChannelClosed, Message, connect
from choir.errors import ChoirError
from choir.inside import LEASE_SECONDS
from choir.paths import State

ANSWER_SECONDS = 10.0
FIRST_BACK_OFF = 0.05
LONGEST_BACK_OFF = 2.0


def _checked(answer: Message) -> Message:
    if answer.get("ok"):
        return answer
    raise ChoirError(
        str(answer.get("reason", "control_failed")), str(answer.get("message", "")), str(answer.get("hint", ""))
    )


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        socket.close(descriptor)


class GatewayControl:
    """A connection to the gateway's control socket that is made on first use and made again when lost.

    One question is under way at a time, so answers need no ids. Bound to the event loop that first uses it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._channel: Channel | None = None
        self._reader: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._answer: asyncio.Future[Message] | None = None
        self._listeners: set[asyncio.Queue[Message | None]] = set()

    async def attach(
        self, sandbox_id: str, user_id: str, role: str, listener: _socket.socket, lease_s: float = LEASE_SECONDS
    ) -> None:
        """Hand the sandbox's listener over: from now on the gateway answers its calls."""
        await self._ask(
            {"op": "attach", "sandbox_id": sandbox_id, "user_id": user_id, "role": role, "lease_s": lease_s},
            [listener.fileno()],
        )

    async def renew(
        self, sandbox_ids: Iterable[str], lease_s: float = LEASE_SECONDS, warm: int | None = None
    ) -> list[str]:
        """Extend the leases; the ids that the gateway does not know and wants attached again.

        Args:
            warm: how many sandboxes stand ready, for its metrics; None: not for us to say.
        """
        told = {} if warm is None else {"warm": warm}
        answer = await self._ask({"op": "renew", "sandbox_ids": list(sandbox_ids), "lease_s": lease_s, **told})
        return list(answer.get("unknown", ()))

    async def detach(self, sandbox_id: str) -> None:
        """End the lease: the sandbox's token is dead at once."""
        await self._ask({"op": "detach", "sandbox_id": sandbox_id})

    async def authority(self, sandbox_id: str) -> str:
        """The certificate, PEM, with which a sandbox can check the TLS side of its listener; before it is attached."""
        answer = await self._ask({"op": "authority", "sandbox_id": sandbox_id})
        return str(answer["certificate"])

    async def status(self) -> Message:
        """``{"pid", "providers": [ProviderStatus as dict], "sandboxes"}``."""
        return await self._ask({"op": "status"})

    async def reload(self) -> Message:
        return await self._ask({"op": "reload"})

    async def subscribe(self) -> None:
        """Ask for ``usage`` events too; needed again after every ``connected`` event."""
        await self._ask({"op": "subscribe"})

    async def events(self) -> AsyncIterator[Message]:
        """What the gateway says unasked, and ``{"event": "connected"}`` at each (re)connection. Never ends."""
        queue: asyncio.Queue[Message | None] = asyncio.Queue()
        self._listeners.add(queue)
        back_off = FIRST_BACK_OFF
        try:
            while True:
                try:
                    fresh = self._channel is not None
                    self._connect()
                except ChoirError:
                    await asyncio.sleep(back_off)
                    back_off = min(back_off * 2, LONGEST_BACK_OFF)
                    continue
                back_off = FIRST_BACK_OFF
                if fresh:  # it was connected before this listener came
                    yield {"event": "connected"}
                while (event := await queue.get()) is not None:
                    yield event
        finally:
            self._listeners.discard(queue)

    async def close(self) -> None:
        """Let go of the connection; it is made again when used again."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        self._lose()

    def _connect(self) -> Channel:
        if self._channel is None:
            try:
                self._channel = connect(str(self.path))
            except ChannelClosed:
                raise _unreachable() from None
            self._channel.sock.setblocking(False)
            self._reader = asyncio.get_running_loop().create_task(self._read(self._channel))
            self._tell({"event": "connected"})
        return self._channel

    async def _ask(self, message: Message, descriptors: Iterable[int] = ()) -> Message:
        """
        Raises:
            ChoirError: ``gateway_unreachable``, ``gateway_silent`` or the gateway's own reason.
        """
        async with self._turn:
            channel = self._connect()
            self._answer = asyncio.get_running_loop().create_future()
            try:
                channel.send(message, descriptors)
                async with asyncio.timeout(ANSWER_SECONDS):
                    return _checked(await self._answer)
            except (ChannelClosed, BlockingIOError):
                self._lose()
                raise _unreachable() from None
            except (TimeoutError, asyncio.CancelledError) as error:
                self._lose()  # a late answer must not be taken for the next question's
                if isinstance(error, asyncio.CancelledError):
                    raise
                raise ChoirError("gateway_silent", f"The gateway did not answer in {ANSWER_SECONDS:g} s.") from None
            finally:
                self._answer = None

    async def _read(self, channel: Channel) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                message, descriptors = await channel.receive_async(loop)
            except ChannelClosed:
                if channel is self._channel:
                    self._lose()
                return
            _close(descriptors)
            if "event" in message:
                self._tell(message)
            elif self._answer is not None and not self._answer.done():
                self._answer.set_result(message)

    def _tell(self, event: Message | None) -> None:
        for queue in self._listeners:
            queue.put_nowait(event)

    def _lose(self) -> None:
        channel, self._channel = self._channel, None
        reader, self._reader = self._reader, None
        if reader is not None and reader is not asyncio.current_task():
            reader.cancel()
        if channel is None:
            return
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ChannelClosed())
        # The reader must have let go of the descriptor before its number can be used again.
        asyncio.get_running_loop().remove_reader(channel.sock)
        channel.close()
        self._tell(None)


def running_gateways(state: State) -> Iterator[Path]:
    """The control sockets of the gateways that run: that of ``choir up``, and those of ``choir run`` without it."""
    for path in [state.gateway_socket, *sorted(state.run.glob(f"*/{state.gateway_socket.name}"))]:
        try:
            connect(str(path)).close()
        except ChannelClosed:
            continue
        yield path


def _unreachable() -> ChoirError:
    return ChoirError(
        "gateway_unreachable", "The provider gateway does not answer.", "It is started again by itself; see its log."
    )
