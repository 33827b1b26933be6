"""The gateway's usage records as they come: to whoever watches a sandbox, and as a sign of work."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

from choir.channel import Message
from choir.errors import ChoirError
from choir.hypervisor.leases import Gateway

BACKLOG = 100
"""Records a reader may be behind; then the oldest is dropped, since it can be asked for."""


class UsageFeed:
    """Records by sandbox id. ``run`` keeps it fed."""

    def __init__(self, gateway: Gateway) -> None:
        self.last_call: dict[str, float] = {}
        """Unix time of each sandbox id's latest record."""
        self._gateway = gateway
        self._readers: dict[str, set[asyncio.Queue[Message]]] = {}

    async def run(self) -> None:
        """Never ends; asks for records again whenever the gateway was connected to again."""
        async for event in self._gateway.events():
            if event.get("event") == "connected":
                with contextlib.suppress(ChoirError):  # lost again: the next `connected` comes
                    await self._gateway.subscribe()
            elif event.get("event") == "usage":
                self._take(event["record"])

    @contextlib.contextmanager
    def reading(self, sandbox_id: str) -> Iterator[asyncio.Queue[Message]]:
        """The records of one sandbox from now on."""
        queue: asyncio.Queue[Message] = asyncio.Queue(BACKLOG)
        readers = self._readers.setdefault(sandbox_id, set())
        readers.add(queue)
        try:
            yield queue
        finally:
            readers.discard(queue)
            if not readers:
                self._readers.pop(sandbox_id, None)

    def forget(self, sandbox_id: str) -> None:
        """Of a sandbox that has ended."""
        self.last_call.pop(sandbox_id, None)

    def _take(self, record: Message) -> None:
        sandbox_id = str(record.get("sandbox_id"))
        self.last_call[sandbox_id] = time.time()
        for queue in self._readers.get(sandbox_id, ()):
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(record)
