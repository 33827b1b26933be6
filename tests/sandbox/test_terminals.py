"""A page that cannot take what it is told: what waits for it, and what of that it is told in the end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from choir.sandbox.terminals import Terminals


class Socket:
    """Implements what is asked of a ``choir.sandbox.websocket.DirectWebSocket``; never has room unless told so."""

    def __init__(self) -> None:
        self.writable = asyncio.Event()
        self.told: asyncio.Queue[Any] = asyncio.Queue()
        self.listener: Any = None

    def direct(self, listener: Any) -> None:
        self.listener = listener

    def tell(self, message: bytes | str) -> None:
        self.told.put_nowait(message if isinstance(message, bytes) else json.loads(message))
        self.writable.clear()

    def room(self) -> None:
        self.writable.set()
        self.listener.room()

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def test_what_there_is_no_room_for_comes_when_there_is() -> None:
    async def main() -> None:
        terminals = Terminals({"PATH": "/usr/bin:/bin", "HOME": "/"})
        terminals.start()
        one, other = Socket(), Socket()
        serving = [asyncio.create_task(terminals.serve("t", each)) for each in (one, other)]  # type: ignore[arg-type]
        other.writable.set()
        assert (await other.told.get())["type"] == "hello"
        other.room()
        for columns in (90, 100):
            message = {"type": "resize", "columns": columns, "rows": 30}
            other.listener.message(json.dumps(message))
        other.listener.message(b"echo it''self\n")
        said = b""
        while b"itself\r\n" not in said:
            data = await other.told.get()
            said += data if isinstance(data, bytes) else b""
            other.room()
        assert one.told.empty()
        one.room()
        assert (await one.told.get())["type"] == "hello"
        one.room()
        assert await one.told.get() == {"type": "size", "columns": 100, "rows": 30}
        shown = b""
        while b"itself\r\n" not in shown:
            one.room()
            shown += await one.told.get()
        for each in (one, other):
            each.listener.gone()
        await asyncio.gather(*serving)
        await terminals.stop()

    asyncio.run(asyncio.wait_for(main(), 30))
