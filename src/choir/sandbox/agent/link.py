"""Between the agent service and the process of one run: a stream socket, one JSON object a line, both ways.

To the run: one request (``run.Request``), then ``{"answer": NUMBER, "value" | "error"}``. From the run: ``{"kind",
"data"}`` for an event (``events``, without ``run``), ``{"ask": NUMBER, "what", …}`` for what only the service can
reach, and last ``{"end": KIND, "data"}``.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import Mapping
from typing import Any

LINE_BYTES = 16 * 1024 * 1024


class Link:
    """The run's end. ``open`` it in a running event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    @classmethod
    async def open(cls, sock: socket.socket) -> Link:
        return cls(*await asyncio.open_unix_connection(sock=sock, limit=LINE_BYTES))

    async def tell(self, kind: str, **data: Any) -> None:
        await self._send({"kind": kind, "data": data})

    async def end(self, kind: str, **data: Any) -> None:
        await self._send({"end": kind, "data": data})

    async def ask(self, what: str, **fields: Any) -> Any:
        """
        Raises:
            RuntimeError: the service's refusal, as a sentence.
        """
        number = next(self._numbers)
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            await self._send({"ask": number, "what": what, **fields})
            return await waiting
        finally:
            del self._waiting[number]

    async def hear(self) -> None:
        """Take answers until the service hangs up."""
        while line := await self._reader.readline():
            answer = json.loads(line)
            waiting = self._waiting.get(answer["answer"])
            if waiting is None or waiting.done():
                continue
            if "error" in answer:
                waiting.set_exception(RuntimeError(answer["error"]))
            else:
                waiting.set_result(answer["value"])

    async def _send(self, message: Mapping[str, Any]) -> None:
        self._writer.write(encoded(message))
        await self._writer.drain()


def encoded(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"
