"""uvicorn's WebSocket, which gives its connection away once the handshake is judged.

The application finds it in the scope's extensions as ``UPGRADE`` and calls ``hand_over`` instead of sending
``websocket.accept``.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol, cast

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

UPGRADE = "choir.upgrade"


class Successor(Protocol):
    """An ``asyncio.Protocol`` that tells ``Upgrade.connection_lost`` of its end, too."""

    def shutdown(self) -> None:
        """The server ends."""


class Upgrade(WebSocketsSansIOProtocol):
    _successor: Successor | None = None

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if not self.handshake_complete:  # not refused
            cast("dict[str, Any]", self.scope["extensions"])[UPGRADE] = self
            self.transport.pause_reading()  # what comes next is not for us

    def hand_over(self, successor: Successor, subprotocol: str | None) -> asyncio.Transport:
        """Agree to the handshake; from now on ``successor`` hears what comes.

        Raises:
            ClientDisconnected: the browser has gone.
        """
        if self.disconnected or self.transport.is_closing():
            raise ClientDisconnected
        self._successor = successor
        self.handshake_complete = True
        # Something: uvicorn closes a connection whose application is done, unless it waits for a farewell.
        self.close_timer = self.loop.call_soon(lambda: None)  # type: ignore[assignment]
        if subprotocol:
            self.response.headers["Sec-WebSocket-Protocol"] = subprotocol
        self.conn.send_response(self.response)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.set_protocol(successor)  # type: ignore[arg-type]
        self.transport.resume_reading()
        return self.transport

    def shutdown(self) -> None:
        if self._successor is not None:
            self._successor.shutdown()
        else:
            super().shutdown()
