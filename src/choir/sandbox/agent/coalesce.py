"""Small pieces of text put together before they are written down: many a second arrive, few commits are enough."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from choir.sandbox.agent.events import OUTPUT, TEXT

SECONDS = 0.05
CHARACTERS = 4096


class Coalescer:
    """Passes events on in their order; ``run_text``, and ``tool_output`` of one call, of up to ``SECONDS`` as one.

    Args:
        append: writes one event down.
    """

    def __init__(self, append: Callable[[str, dict[str, Any]], Awaitable[None]]) -> None:
        self._append = append
        self._kind = ""
        self._data: dict[str, Any] = {}
        self._timer: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self.text = ""
        """All of the answer so far."""

    async def add(self, kind: str, data: dict[str, Any]) -> None:
        if kind == TEXT:
            self.text += data["text"]
        async with self._turn:
            if kind not in (TEXT, OUTPUT):
                await self._flush()
                await self._append(kind, data)
                return
            if (kind, data.get("call")) != (self._kind, self._data.get("call")):
                await self._flush()
                self._kind, self._data = kind, dict(data)
            else:
                self._data["text"] += data["text"]
            if len(self._data["text"]) >= CHARACTERS:
                await self._flush()
            elif self._timer is None:
                self._timer = asyncio.create_task(self._later())

    async def flush(self) -> None:
        """Write down what is held back."""
        async with self._turn:
            await self._flush()

    async def _later(self) -> None:
        await asyncio.sleep(SECONDS)
        self._timer = None  # from here on it is not cancelled: what is being written is being written
        await self.flush()

    async def _flush(self) -> None:
        if self._timer is not None and self._timer is not asyncio.current_task():
            self._timer.cancel()
            self._timer = None
        if self._kind:
            kind, data, self._kind, self._data = self._kind, self._data, "", {}
            await self._append(kind, data)
