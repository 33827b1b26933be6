"""Raw bytes both ways after a WebSocket upgrade (RFC 6455; the frames are not looked at)."""

from __future__ import annotations

import asyncio
from typing import Protocol


class TunnelOwner(Protocol):
    def tunnel_passed(self, upward: bool, size: int) -> None: ...
    def tunnel_ended(self) -> None: ...


class TunnelEnd(asyncio.Protocol):
    """One side of a tunnel; what it receives is written to ``peer``."""

    __slots__ = ("_owner", "_transport", "_upward", "peer")

    def __init__(self, transport: asyncio.Transport, owner: TunnelOwner, upward: bool) -> None:
        self._transport = transport
        self._owner = owner
        self._upward = upward
        self.peer: TunnelEnd | None = None

    def data_received(self, data: bytes) -> None:
        if self.peer is not None:
            self._owner.tunnel_passed(self._upward, len(data))
            self.peer.send(data)

    def send(self, data: bytes) -> None:
        self._transport.write(data)

    def pause_writing(self) -> None:
        if self.peer is not None and not self.peer._transport.is_closing():
            self.peer._transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and not self.peer._transport.is_closing():
            self.peer._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        peer, self.peer = self.peer, None
        if peer is not None:
            peer.peer = None
            peer.close()
            self._owner.tunnel_ended()

    def close(self) -> None:
        """What was written is still sent."""
        self._transport.close()


def join(down: asyncio.Transport, up: asyncio.Transport, owner: TunnelOwner) -> tuple[TunnelEnd, TunnelEnd]:
    """Make a tunnel of two transports; their old protocols hear no more of them."""
    down_end, up_end = TunnelEnd(down, owner, True), TunnelEnd(up, owner, False)
    down_end.peer, up_end.peer = up_end, down_end
    down.set_protocol(down_end)
    up.set_protocol(up_end)
    return down_end, up_end
