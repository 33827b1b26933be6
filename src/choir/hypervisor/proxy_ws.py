"""WebSockets to a sandbox's desktop (RFC 6455): a handshake with each side, then a tunnel between them."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import Receive, Scope
from uvicorn.protocols.utils import ClientDisconnected
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from choir.hypervisor.headers import to_sandbox_websocket
from choir.hypervisor.proxy_http import DesktopUnreachable, Upstream, target
from choir.hypervisor.tunnel import AWAY, ENDED, POLICY, Tunnel, code
from choir.hypervisor.upgrade import UPGRADE, Upgrade

_MAX_HEAD = 32 * 1024
_END_OF_HEAD = b"\r\n\r\n"


async def forward_websocket(upstream: Upstream, scope: Scope, receive: Receive) -> None:
    """Relay one WebSocket until either side closes it.

    Raises:
        DesktopUnreachable: the browser has not been answered yet.
        CancelledError: after telling both sides.
    """
    await receive()  # websocket.connect
    upgrade: Upgrade = scope["extensions"][UPGRADE]
    try:
        desktop = await _shake_hands(upstream, scope)
    except (OSError, TimeoutError, ValueError, InvalidHandshake) as error:
        raise DesktopUnreachable from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if not upstream.ended or (task is not None and task.uncancel() > 0):
            raise
        raise DesktopUnreachable from None
    tunnel = Tunnel(upstream.touch)
    tunnel.browser.predecessor = upgrade
    try:
        browser = upgrade.hand_over(tunnel.browser, desktop.conn.subprotocol)
    except ClientDisconnected:
        desktop.transport.abort()
        return
    tunnel.begin(browser, desktop.transport, desktop.said)
    try:
        await tunnel.over.wait()
    except asyncio.CancelledError:
        tunnel.end(code(ENDED if upstream.ended else POLICY), code(AWAY))
        raise


async def _shake_hands(upstream: Upstream, scope: Scope) -> _Handshake:
    """
    Raises:
        OSError, TimeoutError, ValueError, InvalidHandshake: the desktop does not agree.
    """
    subprotocols = [Subprotocol(each) for each in scope["subprotocols"]] or None
    conn = ClientProtocol(parse_uri("ws://desktop/"), subprotocols=subprotocols)
    request = conn.connect()
    request.path = target(scope)
    del request.headers["Host"]
    for name, value in to_sandbox_websocket(scope["headers"]):
        request.headers[name.decode("latin-1")] = value.decode("latin-1")
    conn.send_request(request)
    handshake = await upstream.connect(lambda: _Handshake(conn))
    try:
        await handshake.done
    except BaseException:
        handshake.transport.abort()
        raise
    return handshake


class _Handshake(asyncio.Protocol):
    """Our side of it. ``said`` is what came after the desktop's answer."""

    transport: asyncio.Transport

    def __init__(self, conn: ClientProtocol) -> None:
        self.conn = conn
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.said = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        transport.write(b"".join(self.conn.data_to_send()))

    def data_received(self, data: bytes) -> None:
        self.said += data
        if self.done.done():
            return
        head, end, rest = self.said.partition(_END_OF_HEAD)
        if end:
            self.said = rest
            self._judge(head + end)
        elif len(self.said) > _MAX_HEAD:
            self._settle(ValueError("no end of the head"))

    def _judge(self, head: bytes) -> None:
        self.conn.receive_data(head)
        self.conn.events_received()
        opened = self.conn.state is State.OPEN  # else it may be that the rest of a refusal is to come
        self._settle(None if opened else self.conn.handshake_exc or ValueError("not upgraded"))

    def _settle(self, error: Exception | None) -> None:
        with contextlib.suppress(asyncio.InvalidStateError):
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle(exc or ConnectionResetError("gone before it answered"))
