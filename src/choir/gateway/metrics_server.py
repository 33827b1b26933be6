"""``GET /metrics`` on a unix socket that only this user and root may use, e.g.
``curl --unix-socket RUN/metrics.sock http://localhost/metrics``."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from choir.channel import peer_credentials
from choir.gateway.metrics import CONTENT_TYPE

SECONDS = 5.0
"""A scraper has so long to ask and to read."""
MAX_HEAD = 8192  # bytes
MAX_SCRAPERS = 16


class MetricsServer:
    """One answer a connection."""

    def __init__(self, path: Path, render: Callable[[], bytes]) -> None:
        self._path = path
        self._render = render
        self._server: asyncio.Server | None = None
        self._open = 0

    async def start(self) -> None:
        """
        Raises:
            OSError: the socket cannot be made.
        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)  # of a worker that died
        self._server = await asyncio.start_unix_server(self._serve, self._path, limit=MAX_HEAD)
        os.chmod(self._path, 0o600)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            _, uid, _ = peer_credentials(writer.get_extra_info("socket"))
            if uid in (0, os.geteuid()) and self._open <= MAX_SCRAPERS:
                async with asyncio.timeout(SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._answer(head.split(b"\r\n", 1)[0].split()))
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self._open -= 1
            writer.close()

    def _answer(self, line: list[bytes]) -> bytes:
        if line[:2] != [b"GET", b"/metrics"]:
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        body = self._render()
        return b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (
            *(CONTENT_TYPE, len(body), body),
        )

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
