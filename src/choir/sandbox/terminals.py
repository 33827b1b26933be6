"""The terminals of a desktop, by their window's id: an actor that opens and ends them, and the WebSocket to one.

``WS /api/terminal/ID``: binary messages are what the shell shows and what is typed. Text messages are JSON. Out:
``{"type": "hello", "columns", "rows", "replay"}`` first (``replay`` bytes of what follows were shown before),
``size`` when another page changed it, ``{"type": "exit", "code"}``, ``{"type": "refused", "note"}``. In:
``{"type": "resize", "columns", "rows"}``, ``{"type": "seen", "bytes"}`` (as they are drawn), ``again`` (a new shell
after the last one's end).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from choir.errors import ChoirError
from choir.sandbox.actor import Actor, Message
from choir.sandbox.terminal import Terminal, TerminalError, View, shell_environment, shell_path

MAX_TERMINALS = 16
TRY_AGAIN_LATER = 1013
GONE = 4404
"""Close code: no window has this terminal."""

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Attach(Message[Terminal]):
    """The terminal of that name, begun when there is none."""

    name: str


@dataclass(frozen=True, slots=True)
class Renew(Message[Terminal]):
    """A new shell in place of one that has ended."""

    name: str


@dataclass(frozen=True, slots=True)
class Close(Message[None]):
    name: str


class _Owner:
    """Owns the shells: when the actor fails, or ends, they end."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._terminals: dict[str, Terminal] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def handle(self, message: Message[Any]) -> Any:
        match message:
            case Attach(name):
                return self._terminals.get(name) or self._begin(name)
            case Renew(name):
                present = self._terminals.get(name)
                if present is not None and present.code is None:
                    return present
                await self._end(name)
                return self._begin(name)
            case Close(name):
                task = asyncio.create_task(self._end(name))  # patience for one is not to hold up the others
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)
                return None
        raise TerminalError("unknown_message", f"The terminals take no {type(message).__name__}.")

    def _begin(self, name: str) -> Terminal:
        if len(self._terminals) >= MAX_TERMINALS:
            raise TerminalError("terminal_unavailable", f"{MAX_TERMINALS} terminals are the most. Close one first.")
        terminal = self._terminals[name] = Terminal([shell_path(), "-i"], shell_environment(self._environment))
        return terminal

    async def _end(self, name: str) -> None:
        terminal = self._terminals.pop(name, None)
        if terminal is not None:
            await terminal.close()

    async def close(self) -> None:
        await asyncio.gather(*(terminal.close() for terminal in self._terminals.values()), *self._ending)
        self._terminals.clear()


class Terminals:
    """``environment`` is the sandbox's own."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._actor = Actor("terminals", lambda: _Owner(environment))
        self._pages: dict[str, set[_Page]] = {}

    def start(self) -> None:
        self._actor.start()

    async def stop(self) -> None:
        await self._actor.stop()

    async def close(self, name: str) -> None:
        """End a terminal and all that runs in it."""
        for page in self._pages.get(name, ()):
            page.gone = True
        await self._actor.ask(Close(name))

    async def serve(self, name: str, receive: Receive, send: Send) -> None:
        """One page's WebSocket to the terminal ``name``."""
        await receive()  # websocket.connect
        await send({"type": "websocket.accept"})
        page = _Page(send)
        pages = self._pages.setdefault(name, set())
        pages.add(page)
        ask: Message[Terminal] = Attach(name)
        try:
            while await self._show(ask, page, pages, receive):
                ask = Renew(name)
        finally:
            pages.discard(page)
            if not pages:
                self._pages.pop(name, None)

    async def _show(self, ask: Message[Terminal], page: _Page, pages: set[_Page], receive: Receive) -> bool:
        """One shell's time; True when the person wants another."""
        try:
            terminal = await self._actor.ask(ask)
        except ChoirError as error:
            await page.tell({"type": "refused", "note": error.message})
            await page.send({"type": "websocket.close", "code": TRY_AGAIN_LATER})
            return False
        with terminal.view() as view:
            columns, rows = terminal.size
            replay = terminal.scrollback.end - view.position
            await page.tell({"type": "hello", "columns": columns, "rows": rows, "replay": replay})
            showing = asyncio.create_task(page.show(terminal, view))
            try:
                while (message := await receive())["type"] != "websocket.disconnect":
                    typed = message.get("bytes")
                    if typed is not None:
                        await terminal.type(typed)
                    elif await self._obey(message.get("text") or "null", terminal, view, pages - {page}):
                        return True
            finally:
                showing.cancel()
                await asyncio.gather(showing, return_exceptions=True)
        return False

    async def _obey(self, text: str, terminal: Terminal, view: View, others: set[_Page]) -> bool:
        with contextlib.suppress(ValueError, TypeError, KeyError):  # of a page that is not ours
            message = json.loads(text)
            match message["type"]:
                case "resize":
                    size = int(message["columns"]), int(message["rows"])
                    if size != terminal.size:
                        terminal.resize(*size)
                        columns, rows = terminal.size
                        for page in others:
                            await page.tell({"type": "size", "columns": columns, "rows": rows})
                case "seen":
                    terminal.seen(view, int(message["bytes"]))
                case "again":
                    return terminal.code is not None
        return False


class _Page:
    def __init__(self, send: Send) -> None:
        self.send = send
        self.gone = False

    async def tell(self, message: Mapping[str, Any]) -> None:
        await self.send({"type": "websocket.send", "text": json.dumps(message)})

    async def show(self, terminal: Terminal, view: View) -> None:
        while data := await terminal.next(view):
            await self.send({"type": "websocket.send", "bytes": data})
        if self.gone:
            await self.send({"type": "websocket.close", "code": GONE})
        elif view.stalled:
            await self.send({"type": "websocket.close", "code": TRY_AGAIN_LATER})
        else:
            await self.tell({"type": "exit", "code": terminal.code})
