"""An event loop whose connections are in memory, so that a test decides what arrives when.

The transports behave as asyncio's and uvloop's do: ``connection_lost`` comes once and from the loop, ``close`` sends
what was written, ``abort`` does not, ``write`` after ``write_eof`` raises, a full buffer pauses the writer.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Callable
from typing import Any

HIGH, LOW = 64 * 1024, 16 * 1024  # bytes written that the other end has not taken


class Wire(asyncio.Transport):
    """The gateway's end of a connection; the methods below ``the other end`` are the test's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self._loop = loop
        self._protocol: Any = protocol
        self._arrived: deque[bytes | None] = deque()
        """What the protocol has not seen; None is the end."""
        self._unread = bytearray()
        """What the other end has not taken."""
        self._closing = self._lost = self._eof = self._reading_paused = self._writing_paused = False
        self.seen = bytearray()
        """All that the other end has taken."""
        self.takes = True
        """The other end takes whatever comes, at once."""
        self.ended = False
        """The other end sees the end of the connection."""
        loop.call_soon(protocol.connection_made, self)

    # ------------------------------------------------------------------ asyncio's

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._lost or self._closing:
            return
        self._unread += data
        if self.takes:
            self._take()
        elif len(self._unread) > HIGH and not self._writing_paused:
            self._writing_paused = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        self._eof = True
        self._finish()

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self._closing or self._lost

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._arrived.clear()
            self._finish()

    def abort(self) -> None:
        self._unread.clear()
        self._lose(None)

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            self._loop.call_soon(self._arrive)

    def is_reading(self) -> bool:
        return not self._reading_paused

    def get_write_buffer_size(self) -> int:
        return len(self._unread)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    # ------------------------------------------------------------------ the other end

    @property
    def open(self) -> bool:
        return not (self._lost or self._closing)

    def send(self, data: bytes) -> None:
        if data and self.open:
            self._arrived.append(data)
            self._loop.call_soon(self._arrive)

    def end(self) -> None:
        """An orderly end."""
        if self.open:
            self._arrived.append(None)
            self._loop.call_soon(self._arrive)
        self.take(True)

    def reset(self) -> None:
        self._unread.clear()
        self._lose(ConnectionResetError(errno.ECONNRESET, "reset"))

    def take(self, takes: bool) -> None:
        self.takes = takes
        if takes:
            self._loop.call_soon(self._take)

    # ------------------------------------------------------------------

    def _arrive(self) -> None:
        while self._arrived and self.open and not self._reading_paused:
            data = self._arrived.popleft()
            if data is None:
                if not self._protocol.eof_received():
                    self.close()
            elif isinstance(self._protocol, asyncio.BufferedProtocol):
                rest = memoryview(data)
                while rest:
                    buffer = self._protocol.get_buffer(len(rest))
                    size = min(len(buffer), len(rest))
                    buffer[:size] = rest[:size]
                    self._protocol.buffer_updated(size)
                    rest = rest[size:]
            else:
                self._protocol.data_received(data)

    def _take(self) -> None:
        if self._lost:
            return
        self.seen += self._unread
        self._unread.clear()
        if self._writing_paused:
            self._writing_paused = False
            self._protocol.resume_writing()
        self._finish()

    def _finish(self) -> None:
        if not self._unread:
            self.ended = self.ended or self._eof or self._closing
            if self._closing:
                self._lose(None)

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = self._closing = self.ended = True
            self._arrived.clear()
            self._loop.call_soon(lambda: self._protocol.connection_lost(error))


class Loop(asyncio.SelectorEventLoop):
    """``create_connection`` waits until the test accepts or refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[tuple[asyncio.Future[Wire], Callable[[], asyncio.BaseProtocol]]] = []
        self.accepted: list[Wire] = []
        self.accepts = False
        """Every connection, at once."""
        self.faults: list[str] = []
        self.set_exception_handler(lambda loop, context: self.faults.append(repr(context)))

    async def create_connection(self, protocol_factory: Any, *args: Any, **options: Any) -> Any:
        future: asyncio.Future[Wire] = self.create_future()
        self.waiting.append((future, protocol_factory))
        if self.accepts:
            self.accept()
        wire = await future
        await asyncio.sleep(0)  # ``connection_made`` comes first
        return wire, wire.get_protocol()

    def accept(self) -> None:
        """The connection that has waited longest."""
        future, factory = self.waiting.pop(0)
        if not future.done():
            wire = Wire(self, factory())
            self.accepted.append(wire)
            future.set_result(wire)

    def refuse(self) -> None:
        future, _ = self.waiting.pop(0)
        if not future.done():
            future.set_exception(ConnectionRefusedError(errno.ECONNREFUSED, "refused"))

    def settle(self) -> None:
        """Run until nothing is left to do but wait."""
        for _ in range(1000):
            self.call_soon(self.stop)
            self.run_forever()
            if not self._ready:  # type: ignore[attr-defined]
                return
        raise AssertionError("the loop never comes to rest")
