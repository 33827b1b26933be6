"""The caller's side: one connection of a sandbox, its calls one at a time and in order."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from choir.gateway.admission import Denied, authenticate, decide, reserve
from choir.gateway.refusals import Refusal, error_answer, error_body
from choir.gateway.relay import Call
from choir.gateway.request_head import RequestHead
from choir.gateway.request_parser import Request, RequestParser
from choir.gateway.routing import guess_family
from choir.gateway.sandboxes import MAX_CONNECTIONS, Sandbox

if TYPE_CHECKING:
    from choir.gateway.gateway import Gateway

HEAD_SECONDS = 30.0  # to send a whole head
IDLE_SECONDS = 300.0  # between requests
LINGER_SECONDS = 10.0  # to read the rest of a body that was refused
_LINGER_BYTES = 256 * 1024 * 1024
_MAX_PIPELINED = 64
_WORTH_READING = 64 * 1024  # bytes of a refused body, to keep the connection


class Connection(asyncio.Protocol):
    """A connection that came in on a sandbox's listener."""

    __slots__ = (
        *("_call", "_closing", "_gateway", "_linger_bytes", "_parser", "_paused", "_queue", "_since", "_token"),
        *("sandbox", "transport"),
    )

    transport: asyncio.Transport

    def __init__(self, gateway: Gateway, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._gateway = gateway
        self._parser = RequestParser(self)
        self._queue: list[Request] = []
        """The first is being answered."""
        self._call: Call | None = None
        self._token = b""
        self._closing = False
        """What still comes is read and thrown away: a reset would take the last answer with it."""
        self._paused = False
        self._linger_bytes = 0
        self._since = 0.0

    # ------------------------------------------------------------------ from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._since = time.perf_counter()
        self.sandbox.connections.add(self)
        if self.sandbox.listener is None:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        sandbox = self.sandbox
        sandbox.connections.discard(self)
        if sandbox.listener is not None and len(sandbox.connections) < MAX_CONNECTIONS:
            sandbox.listener.resume()
        call, self._call = self._call, None
        self._queue.clear()
        if call is not None:
            call.client_gone()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            self._linger_bytes += len(data)
            if self._linger_bytes > _LINGER_BYTES:
                self.close()
            return
        raw = self._parser.raw
        if raw is not None:  # frames that came before the provider agreed to the upgrade
            raw += data
            self._pause(True)
            return
        self._parser.feed(data, not self._queue)
        if self._call is not None:
            self._call.request_flush()

    def pause_writing(self) -> None:
        if self._call is not None:
            self._call.client_pause(True)

    def resume_writing(self) -> None:
        if self._call is not None:
            self._call.client_pause(False)

    # ------------------------------------------------------------------ from the parser

    def request_begun(self, request: Request) -> None:
        if self._closing:
            return
        self._queue.append(request)
        if len(self._queue) == 1:
            self._begin(request)
        elif len(self._queue) > _MAX_PIPELINED:
            raise ValueError("too many requests at once")
        else:
            request.body = []
            self._pause(True)

    def request_body(self, request: Request, piece: bytes) -> None:
        if request.body is not None:
            request.body.append(piece)
        elif self._call is not None and request is self._queue[0]:
            self._call.request_body(piece)

    def request_ended(self, request: Request) -> None:
        if self._closing or request is not self._queue[0]:
            return
        if self._call is not None:
            self._call.request_complete()
        else:
            self._next()

    def request_whole(self, request: Request, body: bytes) -> None:
        self._queue.append(request)
        self._begin(request)
        if self._call is not None:
            self._call.request_whole(body)
        else:
            self._next()

    def request_unreadable(self, request: Request | None, refusal: Refusal) -> None:
        if self._closing:
            return  # the last answer was given
        self._closing = True
        call = self._call
        if request is not None and call is not None and request is self._queue[0]:
            call.request_broken(refusal)
        elif call is None and self._queue and not self._queue[0].complete:
            # Its answer was given, and the rest of its body is bad.
            self._end(self._queue[0])
        else:
            broken = Request(b"", b"", RequestHead(b""), None, False, refusal)
            self._queue.append(broken)
            if len(self._queue) == 1:
                self._begin(broken)
            else:
                self._pause(True)

    # ------------------------------------------------------------------ one request after another

    def _begin(self, request: Request) -> None:
        """Answer a request, or start its call."""
        gateway, sandbox, head = self._gateway, self.sandbox, request.head
        now = time.perf_counter()
        refusal = request.refusal or gateway.refusal
        if refusal is None:
            refusal = authenticate(sandbox, head, self._token, now)
        if refusal is not None:
            self._deny(request, Denied(refusal, guess_family(request.target)))
            return
        self._token = head.token
        settings, admission = gateway.settings, request.admission
        if admission is None or admission.settings is not settings or admission.limits is not sandbox.budget.limits:
            decided = decide(settings, sandbox.budget.limits, sandbox.rules, request.method, request.target, head)
            if isinstance(decided, Denied):
                self._deny(request, decided)
                return
            admission = request.admission = decided
        denied = reserve(admission, sandbox, request.length, now)
        if denied is not None:
            self._deny(request, denied)
            return
        self._call = call = Call(gateway, self, sandbox, request, admission, now)
        if head.expects_continue:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        call.start()

    def _deny(self, request: Request, denied: Denied) -> None:
        gateway = self._gateway
        started = time.perf_counter()
        request_id = gateway.new_request_id()
        body = error_body(denied.family, denied.refusal, request_id)
        gateway.record_refusal(self.sandbox, denied, request_id, started, len(body))
        gateway.endings.flush()
        keep = (
            request.refusal is None
            and not request.upgrade
            and request.keep_alive
            and not request.head.expects_continue
            and request.length is not None
            and request.length <= _WORTH_READING
        )
        self.write(error_answer(denied.refusal, denied.family, request_id, body, keep))
        self.call_done(keep)

    def call_done(self, keep: bool) -> None:
        """The answer to the first request in the queue has been written."""
        self._call = None
        self._since = time.perf_counter()
        if self.transport.is_closing() or not self._queue:
            return
        request = self._queue[0]
        if not keep or not request.keep_alive:
            self._end(request)
        elif not request.complete:
            return  # its body is read and thrown away; it is still the first
        elif len(self._queue) == 1:
            self._queue.clear()
            if self._paused:
                self._pause(False)
        else:
            self._gateway.loop.call_soon(self._next)

    def _end(self, request: Request) -> None:
        """Close, once the caller has read the answer: a reset would take it away."""
        if request.complete and not self._closing:
            self.transport.close()
        else:
            self._closing = True
            if self.transport.can_write_eof():  # not over TLS
                self.transport.write_eof()
            self._pause(False)

    def _next(self) -> None:
        if not self._queue or self._call is not None:
            return
        self._queue.pop(0)
        if len(self._queue) <= 1:
            self._pause(False)
        if not self._queue:
            return
        request = self._queue[0]
        body, request.body = request.body, None
        self._begin(request)
        call = self._call
        if call is None:
            return
        for piece in body or ():
            call.request_body(piece)
        if request.complete:
            call.request_complete()
        call.request_flush()

    # ------------------------------------------------------------------ for the call

    def pause_reading(self, paused: bool) -> None:
        """The provider takes no more of the body for now, or does again."""
        if not self._closing and len(self._queue) <= 1:
            self._pause(paused)

    def _pause(self, paused: bool) -> None:
        if paused != self._paused and not self.transport.is_closing():
            self._paused = paused
            if paused:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def close_sent(self) -> None:
        """As soon as everything written has been sent."""
        self.transport.close()

    def close(self) -> None:
        """At once."""
        self.transport.abort()

    def take_back(self) -> None:
        """A tunnel has ended: what still comes is thrown away, and after a while the connection is closed."""
        self.transport.set_protocol(self)
        self._call = None
        self._closing = True
        self._since = time.perf_counter()
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def take_raw(self) -> bytes:
        """What came after the request of an upgrade."""
        raw, self._parser.raw = bytes(self._parser.raw or b""), bytearray()
        return raw

    def tick(self, now: float) -> None:
        """Close what waits too long for a head or lingers too long."""
        if self._call is not None:
            return
        waited = now - self._since
        limit = LINGER_SECONDS if self._closing else HEAD_SECONDS
        if not self._closing and not self._parser.in_head and not self._queue:
            limit = IDLE_SECONDS
        if waited > limit:
            self.close()
