"""uvicorn's WebSocket, whose messages can be had as they come and answered at once: no queue, no task in between.

The application accepts it as any other, then finds it in the scope's extensions as ``DIRECT`` and calls ``direct``.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request
from websockets.protocol import State

from choir.frames import BINARY, TEXT, BadFrames, Frames, masked, message_frame

DIRECT = "choir.direct"
_BUFFER = 16 * 1024


class Listener(Protocol):
    def message(self, message: bytes | str) -> None: ...

    def room(self) -> None:
        """There is room for more to be sent, after ``writable`` was not set."""

    def gone(self) -> None:
        """The connection is no more."""


class DirectWebSocket(WebSocketsSansIOProtocol):
    _listener: Listener | None = None
    _spoken = False
    """Something came after the handshake."""

    def data_received(self, data: bytes) -> None:
        self._spoken = self.handshake_initiated
        super().data_received(data)

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if not self.handshake_complete:  # not refused
            cast("dict[str, Any]", self.scope["extensions"])[DIRECT] = self

    def direct(self, listener: Listener) -> None:
        """From now on ``listener`` hears what comes, and ``receive`` nothing but the end."""
        self._listener = listener
        if self.disconnected:
            listener.gone()
            return
        self.transport.set_protocol(_Reader(self, self._spoken))
        waiting, self.queue = self.queue, asyncio.Queue()
        while not waiting.empty():
            event = waiting.get_nowait()
            if event["type"] == "websocket.receive":
                data = event.get("bytes")
                listener.message(event.get("text") or "" if data is None else data)
            else:
                self.queue.put_nowait(event)
        if self.read_paused:
            self.read_paused = False
            self.resume_reading()

    def heard(self, message: bytes) -> None:
        """A message that was read without ``conn``."""
        if self._listener is not None and self.conn.state is State.OPEN:
            self._listener.message(message)

    def tell(self, message: bytes | str) -> None:
        """Send it, unless the other side has said farewell."""
        if self.conn.state is not State.OPEN or self.transport.is_closing():
            return
        if isinstance(message, bytes):
            self.transport.write(message_frame(BINARY, message))
        else:
            self.transport.write(message_frame(TEXT, message.encode()))

    def pause_reading(self) -> None:
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def send_receive_event_to_app(self) -> None:
        if self._listener is None:
            super().send_receive_event_to_app()
            return
        data, self.frames = b"".join(self.frames), []
        if self.close_sent:
            return
        if self.curr_msg_data_type == "bytes":
            self._listener.message(data)
            return
        try:
            text = data.decode()
        except UnicodeDecodeError:
            self.conn.send_close(1007)
            self.handle_parser_exception()
        else:
            self._listener.message(text)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._listener is not None:
            self._listener.room()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._listener is not None:
            self._listener.gone()


class _Reader(asyncio.BufferedProtocol):
    """Reads into one buffer for all of the connection's life: asyncio's own way asks for 256 KiB from the kernel, and
    gives them back, for every key.

    Args:
        within: whether what comes may begin within a frame.
    """

    def __init__(self, socket: DirectWebSocket, within: bool) -> None:
        self._buffer = memoryview(bytearray(_BUFFER))
        self._socket = socket
        self._frames = None if within else Frames(masked=True, max_bytes=socket.config.ws_max_size)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self._buffer[:nbytes])
        if self._frames is not None:
            if self._frames.is_small_message(data) and data[0] & 0x0F == BINARY:  # a key: not worth a whole parser
                self._socket.heard(masked(data[6:], data[2:6]))
                return
            try:
                self._frames.feed(data)
            except BadFrames:
                self._frames = None  # the parser will say so
        self._socket.data_received(data)

    def pause_writing(self) -> None:
        self._socket.pause_writing()

    def resume_writing(self) -> None:
        self._socket.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._socket.connection_lost(exc)
