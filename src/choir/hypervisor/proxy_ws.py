"""WebSockets to a sandbox's desktop: messages both ways, each waiting for the other side to take them (RFC 6455)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import aiohttp
from starlette.types import Message, Receive, Scope, Send

from choir.hypervisor.headers import to_sandbox_websocket
from choir.hypervisor.proxy_http import DesktopUnreachable, Upstream, target

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
ENDED = 1012
"""Close code "service restart": the sandbox is gone, asking again may help."""
POLICY = 1008
"""Close code "policy violation": the session was ended."""
AWAY = 1001
CLOSE_SECONDS = 2.0


async def forward_websocket(upstream: Upstream, scope: Scope, receive: Receive, send: Send) -> None:
    """Relay one WebSocket until either side closes it.

    Raises:
        DesktopUnreachable: the browser has not been answered yet.
        CancelledError: after telling both sides.
    """
    await receive()  # websocket.connect
    headers = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in to_sandbox_websocket(scope["headers"])]
    try:
        desktop = await upstream.session.ws_connect(
            target(scope),
            protocols=scope["subprotocols"],
            headers=headers,
            max_msg_size=MAX_MESSAGE_BYTES,
            timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
        )
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise DesktopUnreachable from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if not upstream.ended or (task is not None and task.uncancel() > 0):
            raise
        raise DesktopUnreachable from None
    code = ENDED
    try:
        await send({"type": "websocket.accept", "subprotocol": desktop.protocol, "headers": []})
        code = await _relay(upstream, desktop, receive, send)
    except asyncio.CancelledError:
        code = ENDED if upstream.ended else POLICY
        raise
    finally:
        with contextlib.suppress(Exception):
            await asyncio.shield(_close_both(desktop, send, code))


async def _relay(upstream: Upstream, desktop: aiohttp.ClientWebSocketResponse, receive: Receive, send: Send) -> int:
    """The close code of whoever closed first."""
    tasks = [
        asyncio.create_task(_to_desktop(desktop, receive, upstream.touch)),
        asyncio.create_task(_to_browser(desktop, send)),
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        task = done.pop()
        return ENDED if task.exception() else task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _to_desktop(desktop: aiohttp.ClientWebSocketResponse, receive: Receive, touch: Callable[[], None]) -> int:
    while True:
        message: Message = await receive()
        if message["type"] == "websocket.disconnect":
            return {1005: 1000, 1006: AWAY}.get(message.get("code", 1005), int(message.get("code", 1000)))
        touch()
        if message.get("text") is not None:
            await desktop.send_str(message["text"])
        else:
            await desktop.send_bytes(message["bytes"])


async def _to_browser(desktop: aiohttp.ClientWebSocketResponse, send: Send) -> int:
    while True:
        message = await desktop.receive()
        if message.type is aiohttp.WSMsgType.TEXT:
            await send({"type": "websocket.send", "text": message.data})
        elif message.type is aiohttp.WSMsgType.BINARY:
            await send({"type": "websocket.send", "bytes": message.data})
        else:
            # 1005 and 1006 are received, never sent (RFC 6455 section 7.4.1): no code, no goodbye.
            return {None: ENDED, 1005: 1000, 1006: ENDED}.get(desktop.close_code, desktop.close_code or ENDED)


async def _close_both(desktop: aiohttp.ClientWebSocketResponse, send: Send, code: int) -> None:
    with contextlib.suppress(Exception):
        await send({"type": "websocket.close", "code": code})
    await desktop.close(code=AWAY if code in (POLICY, ENDED) else code)
