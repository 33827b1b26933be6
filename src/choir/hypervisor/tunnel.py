"""A browser's connection and a desktop's, joined after both have agreed to a WebSocket (RFC 6455): what one says is
written to the other in the same turn of the loop, each waiting for the other to take it.

Pings, pongs and farewells are between neighbours. A farewell is said where a frame ends; within one, the connection
just ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from choir.frames import CLOSE, PING, PONG, BadFrames, Control, Frames, control_frame

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
PING_SECONDS = 20.0
"""A browser that has said nothing, not even a pong, for so long after a ping is gone."""
FAREWELL_SECONDS = 5.0

AWAY = 1001
POLICY = 1008
"""Close code "policy violation": the session was ended."""
FAILED = 1011
ENDED = 1012
"""Close code "service restart": the sandbox is gone, asking again may help."""


def code(number: int) -> bytes:
    """What a close frame holds."""
    return number.to_bytes(2, "big")


class Tunnel:
    """
    Args:
        touch: called for what a person sends.
    """

    def __init__(self, touch: Callable[[], None]) -> None:
        self.touch = touch
        self.over = asyncio.Event()
        """Set when the farewell has begun."""
        self.browser = End(self, from_client=True)
        self.desktop = End(self, from_client=False)
        self.browser.peer, self.desktop.peer = self.desktop, self.browser
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._pinged = False

    def begin(self, browser: asyncio.Transport, desktop: asyncio.Transport, said: bytes) -> None:
        """Join them.

        Args:
            said: what the desktop has said since the handshake.
        """
        self.browser.transport, self.desktop.transport = browser, desktop
        desktop.set_protocol(self.desktop)
        self._timer = self._loop.call_later(PING_SECONDS, self._ping)
        self.desktop.data_received(said)
        if desktop.is_closing():  # already: it would not be told
            self.desktop.connection_lost(None)

    def end(self, to_browser: bytes, to_desktop: bytes) -> None:
        """Say farewell to both; what a close frame holds for each."""
        if self.over.is_set():
            return
        self.over.set()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(FAREWELL_SECONDS, self._abort)
        self.browser.say_farewell(to_browser)
        self.desktop.say_farewell(to_desktop)

    def lost(self, end: End) -> None:
        """Its connection is no more."""
        self.end(code(ENDED), code(AWAY))
        if self.browser.lost and self.desktop.lost and self._timer is not None:
            self._timer.cancel()

    def told(self, end: End, control: Control) -> None:
        if control.opcode == PING:
            end.tell(PONG, control.content)
        elif control.opcode == CLOSE:
            end.farewell_heard = True
            if self.over.is_set():
                end.transport.close()
            else:
                self.end(control.content, control.content)

    def _ping(self) -> None:
        if self._pinged and not self.browser.heard:
            self.end(code(FAILED), code(AWAY))
            self.browser.transport.abort()
            return
        self._pinged, self.browser.heard = True, False
        self.browser.tell(PING, b"")
        self._timer = self._loop.call_later(PING_SECONDS, self._ping)

    def _abort(self) -> None:
        for end in (self.browser, self.desktop):
            if not end.lost:
                end.transport.abort()


class End(asyncio.Protocol):
    """One side: what comes from it goes to ``peer``."""

    __slots__ = (
        "_full",
        "_later",
        "_to_server",
        "_touch",
        "_tunnel",
        "farewell_heard",
        "frames",
        "heard",
        "lost",
        "peer",
        "predecessor",
        "transport",
    )

    peer: End
    transport: asyncio.Transport

    def __init__(self, tunnel: Tunnel, from_client: bool) -> None:
        self.frames = Frames(from_client, MAX_MESSAGE_BYTES)
        self.heard = False
        self.farewell_heard = False
        self.lost = False
        self.predecessor: asyncio.Protocol | None = None
        """Told of the end of the connection, too."""
        self._tunnel = tunnel
        self._touch = tunnel.touch if from_client else None
        self._to_server = not from_client
        self._full = False
        self._later: dict[int, bytes] = {}
        """Control frames that wait for a frame's end, or for room: the last of each kind."""

    def data_received(self, data: bytes) -> None:
        self.heard = True
        try:
            self._pass_on(self.frames.feed(data))
        except BadFrames as bad:
            self._pass_on(bad.before)
            self.farewell_heard = True  # whatever it says now, it is not understood
            if self._to_server:
                self._tunnel.end(code(ENDED), code(bad.code))
            else:
                self._tunnel.end(code(bad.code), code(AWAY))

    def _pass_on(self, found: list[bytes | Control]) -> None:
        tunnel, peer = self._tunnel, self.peer
        for each in found:
            if isinstance(each, Control):
                tunnel.told(self, each)
            elif not tunnel.over.is_set():
                peer.transport.write(each)
                if self._touch is not None:
                    self._touch()
        if peer._later:
            peer._catch_up()

    def tell(self, opcode: int, content: bytes) -> None:
        """A control frame to this side, as soon as may be."""
        self._later[opcode] = content
        self._catch_up()

    def _catch_up(self) -> None:
        if self._full or not self.peer.frames.between or self._tunnel.over.is_set():
            return
        for opcode, content in self._later.items():
            self.transport.write(control_frame(opcode, content, self._to_server))
        self._later.clear()

    def say_farewell(self, content: bytes) -> None:
        if self.lost or self.transport.is_closing():
            return
        if self.peer.frames.between:
            self.transport.write(control_frame(CLOSE, content, self._to_server))
            if not self.farewell_heard:
                self.transport.resume_reading()  # for its answer
                return
        self.transport.close()

    def pause_writing(self) -> None:
        self._full = True
        if not (self.peer.lost or self.peer.transport.is_closing() or self._tunnel.over.is_set()):
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        self._full = False
        self._catch_up()
        if not (self.peer.lost or self.peer.transport.is_closing()):
            self.peer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self.predecessor is not None:
            self.predecessor.connection_lost(exc)
        self._tunnel.lost(self)

    def shutdown(self) -> None:
        self._tunnel.end(code(ENDED), code(AWAY))
