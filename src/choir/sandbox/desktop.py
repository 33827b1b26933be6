"""The desktop's backend inside the sandbox: raw ASGI on uvicorn's protocols, few imports, no timer when idle.

===========================  ==================================================================================
route
===========================  ==================================================================================
``GET /``                    the page
``GET /static/NAME``         its scripts and styles
``WS /api/prompt``           out: ``Conversation.follow``'s events, ``refused``; in: ``{"type": "prompt", "text"}``,
                             ``stop``, ``clear``, ``warm``
``GET /api/events``          server-sent events: ``run`` with ``{"busy"}`` whenever that changes
===========================  ==================================================================================
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from choir.sandbox.agent_loop import AgentError, AgentLoop
from choir.sandbox.conversation import Conversation, Messages, database_path

STATIC = os.path.join(os.path.dirname(os.path.abspath(__file__)), "static")
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
MAX_MESSAGE_BYTES = 1024 * 1024
KEEPALIVE_SECONDS = 20.0
DRAIN_SECONDS = 1.0

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def serve(sockets: list[socket.socket], on_ready: Callable[[], None]) -> None:
    """Serve the desktop on listening ``sockets`` until SIGTERM or SIGINT; calls ``on_ready`` when it answers."""
    asyncio.run(_serve(sockets, on_ready))


async def _serve(sockets: list[socket.socket], on_ready: Callable[[], None]) -> None:
    from uvicorn.config import Config
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    from uvicorn.server import ServerState

    messages = Messages(database_path(os.environ["DATABASE_URL"]))
    desktop = Desktop(Conversation(messages, AgentLoop(os.environ)))
    config = Config(
        desktop,
        http=HttpToolsProtocol,
        ws="websockets-sansio",
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
    servers = []
    for sock in sockets:
        sock.setblocking(False)
        servers.append(
            await loop.create_server(
                lambda: HttpToolsProtocol(config=config, server_state=state, app_state={}), sock=sock
            )
        )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    on_ready()
    await stop.wait()
    for server in servers:
        server.close()
    for connection in list(state.connections):
        connection.shutdown()
    await desktop.conversation.close()
    if state.tasks:
        _, late = await asyncio.wait(state.tasks, timeout=DRAIN_SECONDS)
        for task in late:
            task.cancel()
    messages.close()


class Desktop:
    """The ASGI application."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if scope["type"] == "websocket":
            if path == "/api/prompt":
                await self._prompt(receive, send)
            else:
                await receive()
                await send({"type": "websocket.close", "code": 1000})
        elif scope["method"] not in ("GET", "HEAD"):
            await _answer(send, 405, "text/plain", b"method not allowed\n")
        elif path == "/":
            await _file(send, "desktop.html")
        elif path.startswith("/static/"):
            await _file(send, path.removeprefix("/static/"))
        elif path == "/api/events":
            await self._events(receive, send)
        else:
            await _answer(send, 404, "text/plain", b"not found\n")

    async def _prompt(self, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        await send({"type": "websocket.accept"})

        async def tell(event: object) -> None:
            await send({"type": "websocket.send", "text": json.dumps(event, separators=(",", ":"))})

        async def follow() -> None:
            with self.conversation.follow() as (first, following):
                await tell(first)
                while (event := await following())["type"] != "behind":
                    await tell(event)
            await send({"type": "websocket.close", "code": 1013})

        following = asyncio.create_task(follow())
        try:
            while (message := await receive())["type"] != "websocket.disconnect":
                try:
                    self._obey(json.loads(message.get("text") or "null"))
                except (AgentError, ValueError, TypeError, KeyError) as error:
                    note = str(error) if isinstance(error, AgentError) else "That was not understood."
                    await tell({"type": "refused", "note": note})
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    def _obey(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "prompt":
                self.conversation.prompt(str(message["text"]))
            case "stop":
                self.conversation.stop()
            case "clear":
                self.conversation.clear()
            case "warm":
                self.conversation.warm()
            case _:
                raise ValueError("unknown type")

    async def _events(self, receive: Receive, send: Send) -> None:
        following = asyncio.create_task(self._send_events(send))
        try:
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _send_events(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def tell(data: bytes) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": True})

        with self.conversation.follow() as (first, following):
            await tell(_run_event(first["busy"]))
            while True:
                try:
                    async with asyncio.timeout(KEEPALIVE_SECONDS):
                        event = await following()
                except TimeoutError:
                    await tell(b": still here\n\n")
                    continue
                if event["type"] == "message" and event["message"]["state"] == "running":
                    await tell(_run_event(True))
                elif event["type"] == "end":
                    await tell(_run_event(False))


def _run_event(busy: bool) -> bytes:
    return b"event: run\ndata: " + json.dumps({"busy": busy}).encode() + b"\n\n"


async def _answer(send: Send, status: int, kind: str, body: bytes) -> None:
    headers = [
        (b"content-type", kind.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-cache"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _file(send: Send, name: str) -> None:
    kind = TYPES.get(os.path.splitext(name)[1], "")
    body = _read(name) if kind and "/" not in name else None
    if body is None:
        await _answer(send, 404, "text/plain", b"not found\n")
    else:
        await _answer(send, 200, kind, body)


def _read(name: str) -> bytes | None:
    try:
        with open(os.path.join(STATIC, name), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
