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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from choir.errors import ChoirError
from choir.sandbox.actor import Actor, Message
from choir.sandbox.terminal import Terminal, TerminalError, View, shell_environment, shell_path

if TYPE_CHECKING:
    from choir.sandbox.websocket import DirectWebSocket

MAX_TERMINALS = 16
TRY_AGAIN_LATER = 1013
GONE = 4404
"""Close code: no window has this terminal."""


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
            page.window_closed = True
        await self._actor.ask(Close(name))

    async def serve(self, name: str, socket: DirectWebSocket) -> None:
        """One page's WebSocket to the terminal ``name``, accepted."""
        pages = self._pages.setdefault(name, set())
        page = _Page(socket, pages)
        pages.add(page)
        ask: Message[Terminal] = Attach(name)
        try:
            socket.direct(page)
            socket.pause_reading()  # until there is a shell
            while await self._show(ask, page):
                ask = Renew(name)
        finally:
            pages.discard(page)
            if not pages:
                self._pages.pop(name, None)

    async def _show(self, ask: Message[Terminal], page: _Page) -> bool:
        """One shell's time; True when the person wants another."""
        try:
            terminal = await self._actor.ask(ask)
        except ChoirError as error:
            page.tell({"type": "refused", "note": error.message})
            await page.close(TRY_AGAIN_LATER)
            return False
        with terminal.view(page.show) as view:
            return await page.attend(terminal, view)


class _Page:
    """One page that looks at a terminal: what is shown and typed passes in the turn of the loop in which it comes.

    Args:
        pages: all of the same terminal.
    """

    def __init__(self, socket: DirectWebSocket, pages: set[_Page]) -> None:
        self.window_closed = False
        self._socket = socket
        self._pages = pages
        self._terminal: Terminal | None = None
        self._view: View | None = None
        self._early: list[bytes | str] = []
        """What was said before there was a shell to hear it."""
        self._untold: dict[str, Mapping[str, Any]] = {}
        """Messages there was no room for, the last of each type."""
        self._shown = self._renew = self._lost = False
        self._turn = asyncio.Event()
        """Set when one of these three is."""

    async def attend(self, terminal: Terminal, view: View) -> bool:
        """Show a shell until the page has gone (False) or wants another one (True)."""
        self._shown = self._renew = False
        columns, rows = terminal.size
        replay = terminal.scrollback.end - view.position
        self.tell({"type": "hello", "columns": columns, "rows": rows, "replay": replay})
        self._terminal, self._view = terminal, view
        try:
            self.show()
            early, self._early = self._early, []
            for message in early:
                self.message(message)
            self._go_on()
            while not (self._shown or self._renew or self._lost):
                await self._wait()
            if self._lost:
                return False
            if self.window_closed or view.stalled:
                await self.close(GONE if self.window_closed else TRY_AGAIN_LATER)
                return False
            if self._shown:
                self.tell({"type": "exit", "code": terminal.code})
            while not (self._renew or self._lost):
                await self._wait()
        finally:
            self._terminal = self._view = None
            self._socket.pause_reading()
        return self._renew and not self._lost

    async def _wait(self) -> None:
        self._turn.clear()
        await self._turn.wait()

    async def close(self, code: int) -> None:
        self._socket.resume_reading()  # for the answer
        await self._socket.send({"type": "websocket.close", "code": code, "reason": ""})

    def tell(self, message: Mapping[str, Any]) -> None:
        if self._socket.writable.is_set():
            self._socket.tell(json.dumps(message))
        else:
            self._untold[message["type"]] = message

    def show(self) -> None:
        """What there is news of, as far as there is room for it."""
        terminal, view = self._terminal, self._view
        if terminal is None or view is None:
            return
        while self._socket.writable.is_set():
            data = terminal.take(view)
            if data:
                self._socket.tell(data)
                continue
            if view.stalled or terminal.over:
                self._shown = True
                self._turn.set()
            return

    def room(self) -> None:
        untold, self._untold = self._untold, {}
        for message in untold.values():
            self.tell(message)
        self.show()

    def message(self, message: bytes | str) -> None:
        terminal, view = self._terminal, self._view
        if terminal is None or view is None or self._renew:
            self._early.append(message)
        elif isinstance(message, bytes):
            terminal.type(message)
            if not terminal.when_room(self._go_on):
                self._socket.pause_reading()
        else:
            self._obey(message, terminal, view)

    def gone(self) -> None:
        self._lost = True
        self._turn.set()

    def _go_on(self) -> None:
        """Hear more, if there is somebody to hear it."""
        if self._terminal is not None and not self._renew and self._terminal.when_room(self._go_on):
            self._socket.resume_reading()

    def _obey(self, text: str, terminal: Terminal, view: View) -> None:
        with contextlib.suppress(ValueError, TypeError, KeyError):  # of a page that is not ours
            message = json.loads(text)
            match message["type"]:
                case "resize":
                    size = int(message["columns"]), int(message["rows"])
                    if size != terminal.size:
                        terminal.resize(*size)
                        columns, rows = terminal.size
                        for page in self._pages - {self}:
                            page.tell({"type": "size", "columns": columns, "rows": rows})
                case "seen":
                    terminal.seen(view, int(message["bytes"]))
                case "again":
                    self._renew = terminal.code is not None
                    self._turn.set()
