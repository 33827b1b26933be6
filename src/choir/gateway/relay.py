"""One call: from an admitted request to its answer and its record.

States, in order: gathering (policy must read the body first), connecting, sending, waiting, streaming, tunnelling,
done. Whatever happens, ``_finish`` runs exactly once: the slot is released and a record written, and the record is
written before the last byte of the answer.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from choir.gateway import accounts, body, tunnel
from choir.gateway.admission import needs_body
from choir.gateway.dialects import Scanner
from choir.gateway.inspection import inspect
from choir.gateway.leaks import repeats
from choir.gateway.policy import Reservation, body_too_large
from choir.gateway.refusals import Refusal, error_body, error_event, refused, upstream_failed
from choir.gateway.request_head import uncompressed
from choir.gateway.response_head import STATUS_LINES, ResponseHead
from choir.gateway.routing import Match
from choir.gateway.sandboxes import Sandbox
from choir.gateway.side_copy import SideCopy
from choir.gateway.stream_usage import UsageFilter
from choir.gateway.upstream import Upstream
from choir.gateway.upstream_connection import UpstreamConnection

if TYPE_CHECKING:
    from choir.gateway.request import Connection, Request
    from choir.gateway.worker import Gateway

GATHERED = 4  # bodies of the greatest length; one sandbox's on their way to be read by policy
PENDING = 256 * 1024  # bytes of a body that may wait for a connection
ERROR_BODY = 64 * 1024  # bytes of a provider's error answer, which is read as a whole before it passes
KEEPALIVE_SECONDS = 15.0
_KEEPALIVE = b": still waiting for the provider\n\n"
_GATHERING, _CONNECTING, _SENDING, _STREAMING, _TUNNELLING, _DONE = range(6)


class Call:
    """A ``choir.gateway.upstream_connection.Waiter``."""

    # Most calls never change these; a class holds them so that a call begins cheaply.
    request_done = False
    _connection: UpstreamConnection | None = None
    _task: asyncio.Task[None] | None = None
    _copy: SideCopy | None = None
    _gathered_bytes = 0
    _pending_bytes = 0
    _bytes_in = 0
    _bytes_out = 0
    _first_byte: float | None = None
    _response: ResponseHead | None = None
    _scanner: Scanner | None = None
    _filter: UsageFilter | None = None
    """Hides the usage chunk that the caller did not ask for."""
    _recorded = False
    _reservation: Reservation | None = None
    _sent = False
    """A provider may have begun to work on it."""
    _error: list[bytes] | None = None
    """A provider's error answer, gathered."""
    _status = 0
    _provider_status = 0
    _state = _CONNECTING
    _retried = False
    _begun = False
    """Something of the answer was written to the caller."""
    _ends_with_connection = False
    _event_boundary = False
    _paused_by_client = False
    _paused_by_upstream = False
    _tunnel: tuple[tunnel.TunnelEnd, tunnel.TunnelEnd] | None = None

    def __init__(
        self,
        gateway: Gateway,
        down: Connection,
        sandbox: Sandbox,
        request: Request,
        match: Match,
        upstream: Upstream,
        now: float,
    ) -> None:
        self._gateway = gateway
        self._down = down
        self._sandbox = sandbox
        self._method = request.method
        self._length = request.length
        self._head = request.head
        self._match = match
        self._upstream = upstream
        self._prices = gateway.settings.prices
        self._started = self._heard = self._spoke = now
        self._wall = wall = time.time()
        self.request_id = gateway.request_ids.new(wall)
        self._model = match.path_model or match.query_model
        self._out: list[bytes] = []

    # ------------------------------------------------------------------ the request, from the caller

    def start(self) -> None:
        head, method = self._head, self._method
        self._gateway.calls.add(self)
        length = self._length
        if needs_body(self._match, method, self._sandbox.budget.limits):
            self._state = _GATHERING
            self._gathered: list[bytes] = []
            self._pending = []
            return
        if self._model is None and length != 0 and b"json" in head.content_type and not head.content_encoding:
            self._copy = SideCopy()
        if head.websocket:
            framing = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        elif length is None:
            framing = b"Transfer-Encoding: chunked\r\n"
        elif length or method != "GET":
            framing = b"Content-Length: %d\r\n" % length
        else:
            framing = b""
        self._pending = [self._upstream.head(method.encode(), self._match.target, head.kept, framing)]
        self._connect()

    def request_body(self, piece: bytes) -> None:
        if self._state == _DONE:
            return
        size = len(piece)
        self._bytes_in += size
        self._spoke = time.perf_counter()
        if self._length is None and self._bytes_in > self._sandbox.budget.limits.max_body_bytes:
            self._fail(body_too_large(self._sandbox.budget.limits))
            return
        if self._state == _GATHERING:
            self._gather(piece, size)
            return
        self._pending.append(b"%x\r\n%b\r\n" % (size, piece) if self._length is None else piece)
        self._pending_bytes += size
        if self._copy is not None:
            self._copy.feed(piece)

    def _gather(self, piece: bytes, size: int) -> None:
        budget = self._sandbox.budget
        self._gathered.append(piece)
        self._gathered_bytes += size
        budget.gathered += size
        if budget.gathered > GATHERED * budget.limits.max_body_bytes:
            self._fail(refused(429, "bodies_waiting", "too many bytes of bodies are on their way at once.", 1))

    def _ungather(self) -> bytes:
        text = b"".join(self._gathered)
        self._gathered = []
        self._sandbox.budget.gathered -= self._gathered_bytes
        self._gathered_bytes = 0
        return text

    def request_complete(self) -> None:
        self.request_done = True
        if self._state == _DONE:
            return
        if self._state == _GATHERING:
            self._decide()
            return
        if self._length is None:
            self._pending.append(b"0\r\n\r\n")
        if self._copy is not None:
            self._model = self._copy.finish()

    def _decide(self) -> None:
        """The body is whole: check what it asks for, and forward it."""
        text = self._ungather()
        head, match = self._head, self._match
        found = inspect(match, text, head.content_encoding, self._sandbox.budget.limits.max_body_bytes)
        self._model = body.printable(found.model)
        if found.refusal is not None:
            self._fail(found.refusal)
            return
        reserved = accounts.reserve(self._sandbox, match, self._model, found, self._prices, self._wall)
        if isinstance(reserved, Refusal):
            self._fail(reserved)
            return
        self._reservation = reserved
        kept = head.kept
        if found.usage_asked:
            self._filter = UsageFilter()
            kept = uncompressed(kept)
        framing = b"Content-Length: %d\r\n" % len(found.body) if found.body or self._method != "GET" else b""
        self._pending = [self._upstream.head(self._method.encode(), match.target, kept, framing), found.body]
        self._connect()

    def request_flush(self) -> None:
        """Write what the last piece of input made."""
        if self._pending:
            connection = self._connection
            if connection is not None:
                pending, self._pending = self._pending, []
                self._pending_bytes = 0
                connection.write(pending[0] if len(pending) == 1 else b"".join(pending))
            elif self._pending_bytes > PENDING and self._state == _CONNECTING:
                self._down.pause_reading(True)

    def request_broken(self, refusal: Refusal) -> None:
        """The rest of the request cannot be parsed."""
        self._fail(refusal)

    def client_pause(self, paused: bool) -> None:
        """The caller reads too slowly, or again: so does the gateway."""
        self._paused_by_client = paused
        self._spoke = time.perf_counter()
        connection = self._connection
        if connection is not None:
            self._heard = self._spoke
            connection.pause(paused)

    def client_gone(self) -> None:
        self._finish("client_gone")

    # ------------------------------------------------------------------ the connection

    def _connect(self) -> None:
        self._state = _CONNECTING
        connection = self._upstream.idle()
        if connection is not None:
            connection.call = self
            self._connection = connection
            self._state = _SENDING
            self._sent = True
        else:
            self._task = self._gateway.loop.create_task(self._upstream.connect(self))

    def connected(self, connection: UpstreamConnection) -> None:
        self._task = None
        if self._state == _DONE:
            connection.close()
            return
        connection.call = self
        self._connection = connection
        self._state = _SENDING
        self._sent = True
        self._heard = time.perf_counter()
        self.request_flush()
        if not self._paused_by_upstream and not self.request_done:
            self._down.pause_reading(False)

    def not_connected(self, refusal: Refusal) -> None:
        self._task = None
        self._fail(refusal)

    def upstream_pause(self, paused: bool) -> None:
        self._paused_by_upstream = paused
        self._down.pause_reading(paused)

    def upstream_lost(self, reason: str) -> None:
        connection, self._connection = self._connection, None
        if self._state == _DONE:
            return
        name = self._match.provider.name
        if self._response is None:
            stale = connection is not None and connection.reused and not self._retried
            if (
                stale
                and self._method == "GET"
                and self.request_done
                and not self._head.websocket
                and reason != "malformed"
            ):
                # The provider closed a kept connection as the request went out; a GET may be asked twice.
                self._retried = True
                framed = self._upstream.head(b"GET", self._match.target, self._head.kept, b"")
                self._pending = [framed]
                self._connect()
                self.request_flush()
                return
            message = f"The provider {name} closed the connection without an answer."
            if reason == "malformed":
                message = f"The provider {name} answered something that is not HTTP."
            self._fail(upstream_failed(502, "malformed" if reason == "malformed" else "reset", message))
        elif self._ends_with_connection and reason == "closed":
            self.response_complete()
        else:
            self._fail(upstream_failed(502, reason, f"The provider {name} broke off its answer."))

    # ------------------------------------------------------------------ the answer, from the provider

    def response_head(self, status: int, block: bytes) -> None:
        self._heard = time.perf_counter()
        self._state = _STREAMING
        self._status = self._provider_status = status
        head = self._response = ResponseHead(block, self._upstream.secret)
        name = self._match.provider.name
        if status == 101:
            return
        if head.bad:
            self._fail(upstream_failed(502, "malformed", f"The provider {name} frames its answer in an unknown way."))
        elif 300 <= status < 400 and status != 304:
            self._fail(
                upstream_failed(
                    502, "redirect", f"The provider {name} answered with a redirect, which is never followed."
                )
            )
        elif status >= 400:
            self._error, self._filter = [], None
        else:
            bodyless = status in (204, 304)
            self._ends_with_connection = head.length is None and not head.chunked and not bodyless
            if self._filter is not None:
                if head.is_event_stream and head.content_encoding in (b"", b"identity"):
                    head.length = None  # what is hidden makes it shorter
                else:
                    self._filter = None
            if bodyless:
                framing = b""
            elif head.length is not None:
                framing = b"Content-Length: %d\r\n" % head.length
            else:
                framing = b"Transfer-Encoding: chunked\r\n"
            self._out.append(
                b"%b%b%bx-choir-request-id: %b\r\n\r\n"
                % (STATUS_LINES[status], head.kept, framing, self.request_id.encode())
            )

    def response_body(self, piece: bytes) -> None:
        if self._state == _DONE:
            return
        if self._first_byte is None:
            self._first_byte = time.perf_counter()
        scanner = self._scanner
        if scanner is None:
            head = self._response
            if head is None:
                return
            scanner = self._scanner = Scanner(head.content_type, head.content_encoding)
        scanner.feed(piece)
        if self._filter is not None:
            piece = self._filter.feed(piece)
            if not piece:
                return
        self._bytes_out += len(piece)
        if scanner.ended and not self._recorded and self._error is None:
            self._record("ok")  # the caller may leave as soon as it has this
        if self._error is not None:
            self._error.append(piece)
            if self._bytes_out > ERROR_BODY:
                message = f"The provider {self._match.provider.name} answered {self._status} with a very long body."
                self._fail(upstream_failed(502, f"http_{self._status}", message))
        elif self._response is not None and self._response.length is None:
            self._out.append(b"%x\r\n%b\r\n" % (len(piece), piece))
            self._event_boundary = piece.endswith((b"\n\n", b"\r\n\r\n"))
        else:
            self._out.append(piece)

    def response_flush(self) -> None:
        if self._out:
            self._heard = time.perf_counter()
            out, self._out = self._out, []
            self._begun = True
            self._down.write(out[0] if len(out) == 1 else b"".join(out))

    def response_complete(self) -> None:
        self._connection = None
        if self._state == _DONE:
            return
        head = self._response
        if head is None or self._status == 101:
            self._fail(
                upstream_failed(
                    502, "malformed", f"The provider {self._match.provider.name} switched protocols unasked."
                )
            )
            return
        if self._error is not None:
            self._provider_refused(head, b"".join(self._error))
            return
        if head.length is None and self._status not in (204, 304):
            rest = self._filter.finish() if self._filter is not None else b""
            self._bytes_out += len(rest)
            self._out.append(b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest) if rest else b"0\r\n\r\n")
        down, out = self._down, b"".join(self._out)
        self._finish("ok")
        down.write(out)
        down.call_done(self.request_done)

    def _provider_refused(self, head: ResponseHead, text: bytes) -> None:
        """Relay a provider's error answer, unless it repeats the key or is about it."""
        status, name, upstream = self._status, self._match.provider.name, self._upstream
        if status == 401 or (upstream.secret and repeats(text, head.content_encoding, upstream.secret)):
            message = f"The provider {name} answered {status}"
            message += (
                " to the operator's key; its answer is not shown."
                if status != 401
                else ": it does not accept the operator's key."
            )
            self._fail(upstream_failed(502 if status == 401 else status, f"http_{status}", message))
            return
        down = self._down
        out = b"%b%bContent-Length: %d\r\nx-choir-request-id: %b\r\n\r\n%b" % (
            *(STATUS_LINES[status], head.kept, len(text), self.request_id.encode(), text),
        )
        self._finish(f"upstream:http_{status}")
        down.write(out)
        down.call_done(self.request_done)

    # ------------------------------------------------------------------ WebSocket

    def switched(self, rest: bytes) -> None:
        connection, head = self._connection, self._response
        if connection is None or head is None or self._status != 101 or not self._head.websocket:
            if connection is not None:
                connection.close()
            self.upstream_lost("malformed")
            return
        self._state = _TUNNELLING
        self._connection = None
        connection.call = None
        down = self._down
        down.write(
            b"%bConnection: Upgrade\r\nUpgrade: websocket\r\n%bx-choir-request-id: %b\r\n\r\n"
            % (STATUS_LINES[101], head.kept, self.request_id.encode())
        )
        early = down.take_raw()
        self._tunnel = tunnel.join(down.transport, connection.transport, self)
        to_client, to_provider = self._tunnel
        for upward, data, end in ((False, rest, to_client), (True, early, to_provider)):
            if data:
                self.tunnel_passed(upward, len(data))
                end.send(data)
        down.pause_reading(False)

    def tunnel_passed(self, upward: bool, size: int) -> None:
        self._heard = time.perf_counter()
        if upward:
            self._bytes_in += size
        else:
            self._bytes_out += size

    def tunnel_ended(self) -> None:
        self._tunnel = None
        down = self._down
        self._finish("ok")
        down.connection_lost(None)

    # ------------------------------------------------------------------ the end

    def tick(self, now: float) -> None:
        """Give up on what takes too long."""
        timeouts, state, name = self._upstream.timeouts, self._state, self._match.provider.name
        if state == _TUNNELLING:
            if now - self._heard > timeouts.idle:
                self.cut("idle_timeout", "Nothing passed for too long.")
        elif self._paused_by_client:
            if now - self._spoke > timeouts.idle:
                self._down.close()
        elif state == _STREAMING:
            if now - self._heard > timeouts.idle:
                self._fail(upstream_failed(504, "idle_timeout", f"The provider {name} fell silent."))
            elif (
                self._event_boundary and now - self._heard > KEEPALIVE_SECONDS and now - self._spoke > KEEPALIVE_SECONDS
            ):
                self._keep_alive(now)
        elif state == _GATHERING or (state == _SENDING and not self.request_done and not self._paused_by_upstream):
            if now - self._spoke > timeouts.idle:
                self._fail(refused(408, "body_timeout", "its body did not come."))
        elif state == _SENDING and now - max(self._spoke, self._heard) > timeouts.first_byte:
            self._fail(
                upstream_failed(504, "first_byte_timeout", f"The provider {name} did not begin to answer in time.")
            )

    def _keep_alive(self, now: float) -> None:
        """A comment that every reader of server-sent events passes over, between two events."""
        head = self._response
        if head is not None and head.is_event_stream and not head.content_encoding:
            self._spoke = now
            self._down.write(b"%x\r\n%b\r\n" % (len(_KEEPALIVE), _KEEPALIVE))

    def cut(self, reason: str, message: str) -> None:
        """End the call from outside: the gateway stops, or the sandbox has no lease any more."""
        if self._tunnel is not None:
            down, up = self._tunnel
            down.peer = up.peer = None
            down.close()
            up.close()
            self.tunnel_ended()
        elif self._state != _DONE:
            self._fail(refused(503, reason, message))

    def _fail(self, refusal: Refusal) -> None:
        """Answer with an error, or break off an answer that has begun; then the record, then the last bytes."""
        if self._state == _DONE:
            return
        down, family = self._down, self._match.family
        response = self._response
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if not self._begun:
            text = error_body(family, refusal, self.request_id)
            self._status, self._bytes_out = refusal.status, len(text)
            self._finish(refusal.outcome)
            keep = self.request_done and not self._head.websocket
            down.answer(refusal, family, self.request_id, text, keep)
            down.call_done(keep)
            return
        out = b"".join(self._out)
        if (
            response is not None
            and response.is_event_stream
            and not response.content_encoding
            and response.length is None
            and not self._recorded
        ):
            event = error_event(family, refusal, self.request_id)
            out += b"%x\r\n%b\r\n" % (len(event), event)
        self._finish("cut")
        # No last chunk: no client can take this for a whole answer.
        down.write(out)
        down.transport.close()

    def _finish(self, outcome: str) -> None:
        if self._state == _DONE:
            return
        self._state = _DONE
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._sandbox.budget.release()
        self._gateway.calls.discard(self)
        if not self._recorded:
            self._record(outcome)
        self._pending.clear()
        self._copy = self._error = None
        if self._gathered_bytes:
            self._ungather()
        self._out = []

    def _record(self, outcome: str) -> None:
        """Once, before what ends the answer is written."""
        self._recorded = True
        match, head = self._match, self._response
        counts = self._scanner.finish() if self._scanner is not None else None
        if counts is not None and head is not None and counts.input is None:
            counts.input, counts.output = head.input_tokens, counts.output or head.output_tokens
        reservation, self._reservation = self._reservation, None
        billed = self._sent and (self._response is None or self._provider_status < 300)
        cost = accounts.settle(
            *(self._sandbox, match, self._model, reservation, counts),
            *(outcome == "ok", billed, self._prices, self._wall),
        )
        self._gateway.record(
            self._sandbox,
            self._wall,
            self._started,
            self.request_id,
            match.provider.name,
            self._model,
            match.pattern,
            self._status,
            outcome,
            self._bytes_in,
            self._bytes_out,
            self._first_byte,
            counts,
            cost,
        )
