"""Providers that break every rule, by a script of bytes, pauses and resets."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

STALL, RESET, CLOSE, HALF = "stall", "reset", "close", "half"
Step = bytes | float | Literal["stall", "reset", "close", "half"] | Callable[[], Iterable[bytes]]
"""Bytes to send, seconds to wait, nothing more ever, a reset, an end, an end of sending, or bytes without end."""


@dataclass(frozen=True, slots=True)
class Lie:
    """
    Attributes:
        steps: after the last one the connection is kept for the next request.
        early: begins before the request's body was read.
    """

    steps: tuple[Step, ...]
    early: bool = False


class Liar:
    """Plays the lie whose name is the first part of the request's path; counts connections and requests of each."""

    def __init__(self, lies: dict[str, Lie]) -> None:
        self.lies = lies
        self.requests: dict[str, int] = {}
        self.connections = 0
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._thread.start()
        assert self._started.wait(10)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks or {asyncio.create_task(asyncio.sleep(0))})

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    name = head.split(b"/", 2)[1].decode()
                    lie = self.lies[name]
                    self.requests[name] = self.requests.get(name, 0) + 1
                    length = re.search(rb"(?i)content-length: (\d+)", head)
                    if length is not None and not lie.early:
                        await reader.readexactly(int(length[1]))
                    for step in lie.steps:
                        if not await self._do(step, reader, writer):
                            return
        finally:
            writer.transport.abort()

    async def _do(self, step: Step, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        if isinstance(step, bytes):
            writer.write(step)
            await writer.drain()
        elif isinstance(step, float):
            await asyncio.sleep(step)
        elif callable(step):
            for piece in step():
                writer.write(piece)
                await writer.drain()
        elif step == STALL:
            while await reader.read(65536):
                pass
            return False
        elif step == HALF:
            writer.write_eof()
        elif step == CLOSE:
            writer.close()
            await writer.wait_closed()
            return False
        else:
            await asyncio.sleep(0.05)  # what was sent before shall arrive
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        return True
