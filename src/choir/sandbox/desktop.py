"""The desktop's backend inside the sandbox: raw ASGI on uvicorn's protocols, few imports, no timer when idle.

Everything but the page itself is imported and opened when it is first asked for: a sandbox is to start at once.

===========================  ==================================================================================
route
===========================  ==================================================================================
``GET /``                    the page
``GET /static/NAME``         its scripts and styles
``WS /api/desktop``          the windows and the conversation, live: ``choir.sandbox.live``
``WS /api/terminal/ID``      a window's shell: ``choir.sandbox.terminals``
``/api/files/...``           ``choir.sandbox.files_api``
``/api/memory/...``          ``choir.sandbox.memory.http_api``
===========================  ==================================================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from choir import logs
from choir.sandbox import assets
from choir.sandbox.database import database_path

if TYPE_CHECKING:
    from choir.sandbox.actor import ThreadActor
    from choir.sandbox.agent.service import AgentService
    from choir.sandbox.event_store import EventStore
    from choir.sandbox.files import Files
    from choir.sandbox.live import Live
    from choir.sandbox.terminals import Terminals
    from choir.sandbox.websocket import DirectWebSocket
    from choir.sandbox.windows import Windows

MAX_MESSAGE_BYTES = 1024 * 1024
DRAIN_SECONDS = 1.0
NO_SUCH_PLACE = 4404
_SOON = (
    "uvicorn.config", "uvicorn.protocols.http.httptools_impl", "uvicorn.server", "choir.sandbox.websocket",
    "choir.sandbox.agent.recollection", "choir.sandbox.live",
)  # fmt: skip

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def get_ready() -> None:
    """Import what ``serve``, and the first page that is opened, will ask for. Starts, opens and reads nothing else."""
    for name in _SOON:
        with contextlib.suppress(ImportError):  # whoever needs it will say so
            importlib.import_module(name)


def serve(
    sockets: list[socket.socket], on_ready: Callable[[], None], accepted: Callable[[], list[int]] = lambda: []
) -> None:
    """Serve the desktop on listening ``sockets`` until SIGTERM or SIGINT; calls ``on_ready`` when it answers.

    Args:
        accepted: called once, then; descriptors of connections to take over (``choir.sandbox.doorman``).
    """
    asyncio.run(_serve(sockets, on_ready, accepted))


async def _serve(sockets: list[socket.socket], on_ready: Callable[[], None], accepted: Callable[[], list[int]]) -> None:
    from uvicorn.config import Config
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    from uvicorn.server import ServerState

    logs.take_standard_logging("sandbox", {"sandbox_id": os.environ.get("CHOIR_SANDBOX_ID", "")})
    desktop = Desktop(dict(os.environ), os.getcwd())
    config = Config(
        desktop,
        http=HttpToolsProtocol,
        ws=_web_socket,  # type: ignore[arg-type]  # called like the class it returns
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        lifespan="off",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        date_header=False,
    )
    config.load()
    # uvicorn.Server would wake up ten times a second; its protocol alone does not.
    state = ServerState()
    loop = asyncio.get_running_loop()

    def protocol() -> HttpToolsProtocol:
        return HttpToolsProtocol(config=config, server_state=state, app_state={})

    waiting = [socket.socket(fileno=descriptor) for descriptor in accepted()]
    servers = []
    for sock in sockets:
        sock.setblocking(False)
        servers.append(await loop.create_server(protocol, sock=sock))
    for sock in waiting:
        sock.setblocking(False)
        await loop.connect_accepted_socket(protocol, sock)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    on_ready()
    await stop.wait()
    for server in servers:
        server.close()
    for connection in list(state.connections):
        connection.shutdown()
    await desktop.close()
    if state.tasks:
        _, late = await asyncio.wait(state.tasks, timeout=DRAIN_SECONDS)
        for task in late:
            task.cancel()


def _web_socket(**given: Any) -> DirectWebSocket:
    from choir.sandbox.websocket import DirectWebSocket

    return DirectWebSocket(**given)


class Desktop:
    """The ASGI application, and what it opens on first use.

    Args:
        environment: the sandbox's own (``choir.contract``).
        folder: what Files shows.
    """

    def __init__(self, environment: Mapping[str, str], folder: str) -> None:
        self._environment = environment
        self._folder = folder
        self._database = database_path(environment["DATABASE_URL"])
        self._store: EventStore | None = None
        self._agent: AgentService | None = None
        self._windows: Windows | None = None
        self._memory: ThreadActor | None = None
        self._terminals: Terminals | None = None
        self._files: Files | None = None
        self._live: Live | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if scope.get("client") and path.startswith("/api/") and not path.startswith("/api/memory/"):
            await self._refuse(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif path.startswith("/api/files/"):
            from choir.sandbox.files_api import FilesApi

            await FilesApi(self.files())(scope, receive, send)
        elif path.startswith("/api/memory/"):
            from choir.sandbox.memory.http_api import MemoryApi

            await MemoryApi(self.memory())(scope, receive, send)
        elif scope["method"] not in ("GET", "HEAD"):
            await assets.answer(send, 405, b"text/plain", b"method not allowed\n")
        elif path == "/":
            await assets.page(send)
        elif path.startswith("/static/"):
            await assets.file(send, path.removeprefix("/static/"), dict(scope["headers"]).get(b"accept-encoding", b""))
        else:
            await assets.answer(send, 404, b"text/plain", b"not found\n")

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Over the loopback come an agent's commands, which are kept from all but the memory (``agent.separation``)."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await assets.answer(send, 403, b"text/plain", b"only the memory is answered here\n")

    async def close(self) -> None:
        """End the shells and the run, and store what is to be stored."""
        if self._terminals is not None:
            await self._terminals.stop()
        if self._agent is not None:
            await self._agent.close()
        for actor in (self._store, self._memory):
            if actor is not None:
                await actor.stop()
        if self._files is not None:
            self._files.close()

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == "/api/desktop":
            await self.live().serve(receive, send)
            return
        name = path.removeprefix("/api/terminal/")
        known = name != path and any(name == each.id for each in await self.windows().layout())
        await receive()
        await send({"type": "websocket.accept"})  # also when it is not known, else the page would not see the code
        if known:
            from choir.sandbox.websocket import DIRECT

            await self.terminals().serve(name, scope["extensions"][DIRECT])
        else:
            await send({"type": "websocket.close", "code": NO_SUCH_PLACE})

    def live(self) -> Live:
        if self._live is None:
            from choir.sandbox.live import Live

            self._live = Live(self.agent(), self.store(), self.windows(), self._close_terminal)
        return self._live

    def store(self) -> EventStore:
        if self._store is None:
            from choir.sandbox.event_store import EventStore

            self._store = EventStore(self._database)
            self._store.start()
        return self._store

    def agent(self) -> AgentService:
        if self._agent is None:
            from choir.sandbox.agent.recollection import Recollection
            from choir.sandbox.agent.service import AgentService

            state = os.path.dirname(self._database)
            self._agent = AgentService(self.store(), Recollection(self.memory), self._environment, state)
        return self._agent

    def windows(self) -> Windows:
        if self._windows is None:
            from choir.sandbox.windows import Windows

            self._windows = Windows(self.store())
        return self._windows

    def memory(self) -> ThreadActor:
        if self._memory is None:
            from choir.sandbox.memory.actor import memory_actor

            self._memory = memory_actor(self._database)
            self._memory.start()
        return self._memory

    def terminals(self) -> Terminals:
        if self._terminals is None:
            from choir.sandbox.terminals import Terminals

            self._terminals = Terminals(self._environment)
            self._terminals.start()
        return self._terminals

    def files(self) -> Files:
        if self._files is None:
            from choir.sandbox.files import Files

            self._files = Files(self._folder)
        return self._files

    async def _close_terminal(self, name: str) -> None:
        if self._terminals is not None:
            await self._terminals.close(name)
