"""Two transports joined after a WebSocket upgrade (RFC 6455). What is said in it is judged by its conversation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from choir.gateway.conversation import Conversation
from choir.gateway.gathering import too_many_bytes
from choir.gateway.policy import Budget
from choir.gateway.response_head import STATUS_LINES, ResponseHead

FAREWELL_SECONDS = 2.0
"""For the rest of the provider's message once something was refused, and for a caller to read why."""
_CLOSE_SECONDS = 10.0  # for a provider to take what was written


def switching(head: ResponseHead, request_id: str) -> bytes:
    """The answer that agrees to an upgrade."""
    return b"%bConnection: Upgrade\r\nUpgrade: websocket\r\n%bx-choir-request-id: %b\r\n\r\n" % (
        STATUS_LINES[101],
        head.kept,
        request_id.encode(),
    )


class Tunnel:
    """A caller's transport and a provider's. Until it ends, the transports' old protocols hear no more of them.

    What of the caller's is held until it can be judged counts against its sandbox as bodies do that are gathered.
    """

    __slots__ = (
        *("_budget", "_down", "_ended", "_held", "_loop", "_timer", "_up", "bytes_down", "bytes_up", "conversation"),
        "heard",
    )

    def __init__(
        self,
        down: asyncio.Transport,
        up: asyncio.Transport,
        conversation: Conversation,
        budget: Budget,
        ended: Callable[[bool], None],
    ) -> None:
        """
        Args:
            budget: the sandbox's.
            ended: told once, and whether it is the caller that has gone.
        """
        self.conversation = conversation
        self.bytes_up = self.bytes_down = 0
        self.heard = time.perf_counter()
        """When something passed last."""
        self._budget = budget
        self._held = 0
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._down, self._up = _End(down, self, True), _End(up, self, False)
        self._down.peer, self._up.peer = self._up, self._down
        down.set_protocol(self._down)
        up.set_protocol(self._up)

    def begin(self, to_client: bytes, to_provider: bytes) -> None:
        """Pass on what came before."""
        if to_client:
            self._up.data_received(to_client)
        if to_provider:
            self._down.data_received(to_provider)

    def passing(self, upward: bool, data: bytes) -> bytes:
        """What of it may pass now."""
        self.heard = time.perf_counter()
        talk = self.conversation
        if not upward:
            passed = talk.hear(data)
            self.bytes_down += len(passed)
            return passed
        self.bytes_up += len(data)
        passed = talk.say(data)
        self._hold(talk.waiting)
        if talk.refusal is None and self._held:
            talk.refusal = too_many_bytes(self._budget)
        return passed

    def passed(self) -> None:
        """End it, if something was refused."""
        if self.conversation.refusal is None:
            return
        if self.conversation.over:
            self.close()
        elif self._timer is None:
            self._timer = self._loop.call_later(FAREWELL_SECONDS, self.close)

    def _hold(self, size: int) -> None:
        self._budget.gathered += size - self._held
        self._held = size

    def close(self) -> None:
        """End it from outside. What was written to the provider is still sent, and the caller can be written to."""
        self._end(False)

    def lost(self, end: _End) -> None:
        self._end(end is self._down)

    def _end(self, by_caller: bool) -> None:
        if self._down.peer is None:
            return
        self._down.peer = self._up.peer = None
        if self._timer is not None:
            self._timer.cancel()
        self._hold(0)
        up = self._up.transport
        up.close()
        self._loop.call_later(_CLOSE_SECONDS, up.abort)
        self._ended(by_caller)


class _End(asyncio.Protocol):
    """One side; what it receives is written to ``peer``."""

    __slots__ = ("_tunnel", "_upward", "peer", "transport")

    def __init__(self, transport: asyncio.Transport, tunnel: Tunnel, upward: bool) -> None:
        self.transport = transport
        self._tunnel = tunnel
        self._upward = upward
        self.peer: _End | None = None

    def data_received(self, data: bytes) -> None:
        if self.peer is not None:
            data = self._tunnel.passing(self._upward, data)
            if data:
                self.peer.transport.write(data)
            self._tunnel.passed()

    def pause_writing(self) -> None:
        if self.peer is not None and not self.peer.transport.is_closing():
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and not self.peer.transport.is_closing():
            self.peer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._tunnel.lost(self)
