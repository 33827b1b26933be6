"""A call on its way to the provider: head, key, connection, and again where that is safe."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from choir.gateway.admission import Admission
from choir.gateway.answer import Answer, WholeAnswer
from choir.gateway.gathering import Gathering
from choir.gateway.key_verdict import retry_after, verdict
from choir.gateway.policy import Reservation
from choir.gateway.refusals import Refusal, upstream_failed
from choir.gateway.response_head import ResponseHead
from choir.gateway.retries import Failure, Phase, may_retry
from choir.gateway.sandboxes import Sandbox
from choir.gateway.side_copy import SideCopy
from choir.gateway.tunnel import Tunnel
from choir.gateway.upstream_connection import UpstreamConnection, Waiter

if TYPE_CHECKING:
    from choir.gateway.gateway import Gateway
    from choir.gateway.request import Connection
    from choir.gateway.request_parser import Request

PENDING = 256 * 1024  # bytes of a body that may wait for a connection
GATHERING, CONNECTING, SENDING, STREAMING, TUNNELLING, DONE = range(6)


class Attempt(Waiter):
    """What a ``choir.gateway.relay.Call`` holds, and the part of it that finds a connection and writes to it."""

    # Most calls never change these; a class holds them so that a call begins cheaply.
    request_done = False
    recorded = False
    _state = CONNECTING
    _connection: UpstreamConnection | None = None
    _task: asyncio.Task[None] | None = None
    _answer: Answer | None = None
    _whole: WholeAnswer | None = None
    _copy: SideCopy | None = None
    _gathering: Gathering | None = None
    _pending_bytes = 0
    _bytes_in = 0
    _bytes_out = 0
    _status = 0
    _usage_asked = False
    _reservation: Reservation | None = None
    _sent = False
    """A provider may have begun to work on it."""
    _key = 0
    """Which of the provider's keys it uses."""
    _attempts = 0
    _held: tuple[bytes, bytes, bytes] | None = None
    """Header lines, framing and body of the request, to send it again."""
    _paused_by_client = False
    _paused_by_upstream = False
    _tunnel: Tunnel | None = None

    def __init__(
        self,
        gateway: Gateway,
        down: Connection,
        sandbox: Sandbox,
        request: Request,
        admission: Admission,
        now: float,
    ) -> None:
        self.down = down
        self.match = match = admission.match
        self.upstream = admission.upstream
        self._gateway = gateway
        self._sandbox = sandbox
        self._admission = admission
        self._method = request.method
        self._length = request.length
        self._head = request.head
        self._started = self._heard = self._spoke = now
        self._wall = wall = time.time()
        self.request_id = gateway.request_ids.new(wall)
        self._model = match.path_model or match.query_model
        self._pending: list[bytes] = []
        """Bytes for the provider, of this turn or until there is a connection."""

    def fail(self, refusal: Refusal) -> None:
        """Answer with an error, or break off an answer that has begun."""
        raise NotImplementedError

    def request_flush(self) -> None:
        """Write what the last piece of input made."""
        pending = self._pending
        if pending:
            connection = self._connection
            if connection is not None:
                self._pending = []
                self._pending_bytes = 0
                connection.write(pending[0] if len(pending) == 1 else b"".join(pending))
            elif self._pending_bytes > PENDING and self._state == CONNECTING:
                self.down.pause_reading(True)

    def _framing(self, length: int | None) -> bytes:
        if self._head.websocket:
            return b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        if length is None:
            return b"Transfer-Encoding: chunked\r\n"
        return b"Content-Length: %d\r\n" % length if length or self._method != "GET" else b""

    def _forward(self, kept: bytes, framing: bytes, body: bytes = b"") -> None:
        """Make a request head, with one of the provider's keys, and find it a connection."""
        upstream = self.upstream
        standing = upstream.standing
        key = standing.key(time.perf_counter()) if standing.troubled else standing.keyring.current
        if isinstance(key, Refusal):
            self.fail(key)
            return
        self._key = key
        self._attempts += 1
        text = upstream.head(self._method.encode(), self.match.target, kept, framing, key) + body
        connection = upstream.idle()
        if connection is None:
            self._pending = [text]
            self._state = CONNECTING
            self._task = self._gateway.loop.create_task(upstream.connect(self))
            return
        self._send_on(connection)
        if body:
            connection.write(text)
        else:  # it may follow
            self._pending = [text]

    def _send_on(self, connection: UpstreamConnection) -> None:
        connection.call = self
        self._connection = connection
        self._state = SENDING
        self._sent = True

    def connected(self, connection: UpstreamConnection) -> None:
        self._task = None
        if self._state == DONE:
            connection.close()
            return
        self._send_on(connection)
        self._heard = time.perf_counter()
        self.request_flush()
        if not self._paused_by_upstream and not self.request_done:
            self.down.pause_reading(False)

    def not_connected(self, refusal: Refusal) -> None:
        self._task = None
        self._attempt_failed(refusal)

    def upstream_pause(self, paused: bool) -> None:
        self._paused_by_upstream = paused
        self.down.pause_reading(paused)

    def upstream_lost(self, reason: str) -> None:
        connection, self._connection = self._connection, None
        if self._state == DONE:
            return
        name, answer = self.match.provider.name, self._answer
        if answer is not None:
            if answer.ends_with_connection and reason == "closed":
                answer.complete()
            else:
                self.fail(upstream_failed(502, reason, f"The provider {name} broke off its answer."))
        elif reason == "malformed":
            self._attempt_failed(
                upstream_failed(502, "malformed", f"The provider {name} answered something that is not HTTP.")
            )
        else:
            self._attempt_failed(
                upstream_failed(502, "reset", f"The provider {name} closed the connection without an answer."),
                stale=connection is not None and connection.reused,
            )

    def _attempt_failed(self, refusal: Refusal, stale: bool = False) -> None:
        """There will be no answer to what was sent: ask again, where that is safe, or give up.

        Args:
            stale: the provider closed a kept connection as the request went out.
        """
        if not (stale and self._again("sent", "stale")):
            self.fail(refusal)

    def turned_away(self, head: ResponseHead, text: bytes) -> bool:
        """Judge an error answer of the provider: whether it is about the key, and the call is made again with another.

        Args:
            text: its whole body.
        """
        found = verdict(head.status, head.block, text)
        if found is None:
            return False
        standing, now = self.upstream.standing, time.perf_counter()
        standing.turned_away(self._key, found, retry_after(head.block, time.time()), now)
        return standing.key(now) != self._key and self._again("answered", "key")

    def _again(self, phase: Phase, failure: Failure) -> bool:
        """Make the call again from what is held of it, if that is safe."""
        held = self._held
        if held is None and self._method == "GET" and self._length == 0 and not self._head.websocket:
            held = self._head.kept, b"", b""
        replayable = held is not None and self.request_done
        if held is None or not may_retry(self._method, self._attempts, phase, failure, replayable):
            return False
        self.upstream.standing.retries += 1
        self._answer, self._status, self._sent = None, 0, False
        self._forward(*held)
        self.request_flush()
        return True
