"""The caller's side: one connection of a sandbox, parsed strictly, one call at a time and in order."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import httptools

from choir.config import Family
from choir.gateway.admission import Denied, admit, authenticate
from choir.gateway.framing import MAX_HEAD, Chunks, split_length
from choir.gateway.refusals import Refusal, error_body, error_headers, refused
from choir.gateway.relay import Call
from choir.gateway.request_head import RequestHead, head_refusal
from choir.gateway.response_head import STATUS_LINES
from choir.gateway.routing import guess_family
from choir.gateway.sandboxes import MAX_CONNECTIONS, Sandbox

if TYPE_CHECKING:
    from choir.gateway.worker import Gateway

HEAD_SECONDS = 30.0  # to send a whole head
IDLE_SECONDS = 300.0  # between requests
LINGER_SECONDS = 10.0  # to read the rest of a body that was refused
_LINGER_BYTES = 256 * 1024 * 1024
_MAX_PIPELINED = 64


class Request:
    """One parsed head, and what of its body came before its turn."""

    __slots__ = ("body", "complete", "head", "keep_alive", "length", "method", "refusal", "target", "upgrade")

    def __init__(
        self,
        method: bytes,
        target: bytes,
        head: RequestHead,
        length: int | None,
        keep_alive: bool,
        refusal: Refusal | None,
    ) -> None:
        """
        Args:
            length: of the body; None when it is chunked.
        """
        self.method = method.decode()
        self.target = target
        self.head = head
        self.length = length
        self.keep_alive = keep_alive
        self.refusal = refusal
        self.upgrade = False
        self.body: list[bytes] | None = None
        self.complete = False


class Connection(asyncio.Protocol):
    """A connection that came in on a sandbox's listener."""

    __slots__ = (
        "_at",
        "_begun",
        "_broken",
        "_buffer",
        "_call",
        "_chunks",
        "_closing",
        "_gateway",
        "_in_head",
        "_last_head",
        "_linger_bytes",
        "_next_at",
        "_parser",
        "_parsing",
        "_paused",
        "_queue",
        "_raw",
        "_since",
        "_token",
        "sandbox",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, gateway: Gateway, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._gateway = gateway
        self._parser = httptools.HttpRequestParser(self)
        # The parser judges the bytes; where a head begins in them is kept here, to take it out in one piece.
        self._buffer = b""
        self._at = 0
        self._next_at = 0
        """Where in ``_buffer`` the next message begins; -1 while a chunked body goes on."""
        self._in_head = True
        self._begun = False
        self._chunks: Chunks | None = None
        self._last_head: tuple[bytes, bytes, RequestHead] | None = None
        self._parsing: Request | None = None
        self._queue: list[Request] = []
        """The first is being answered."""
        self._call: Call | None = None
        self._token = b""
        self._closing = False
        self._broken = False
        self._paused = False
        self._linger_bytes = 0
        self._raw: bytearray | None = None
        self._since = 0.0

    # ------------------------------------------------------------------ from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._since = time.perf_counter()
        connections = self.sandbox.connections
        connections.add(self)
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
        if self._raw is not None:  # frames that came before the provider agreed to the upgrade
            self._raw += data
            self._pause(True)
            return
        if self._closing or self._broken:  # read and thrown away: a reset would take the answer with it
            self._linger_bytes += len(data)
            if self._linger_bytes > _LINGER_BYTES:
                self.close()
            return
        if self._begun:
            self._buffer = self._buffer[self._at :] + data
            self._at = 0
        else:
            self._buffer = data
            if self._in_head:
                self._next_at = 0
        try:
            if self._chunks is not None:
                self._next_at = self._chunks.end(data)
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._raw = bytearray(data[upgrade.args[0] :])
        except (httptools.HttpParserError, ValueError):
            self._malformed()
            if self._call is not None:
                self._call.request_flush()
            return
        if self._begun:
            if len(self._buffer) - self._at > MAX_HEAD:
                self._refuse_unparsed(refused(431, "head_too_large", f"its head is longer than {MAX_HEAD} bytes."))
                return
        else:
            if not self._in_head and self._chunks is None:
                self._next_at -= len(self._buffer)
            self._buffer = b""
        if self._call is not None:
            self._call.request_flush()

    def pause_writing(self) -> None:
        if self._call is not None:
            self._call.client_pause(True)

    def resume_writing(self) -> None:
        if self._call is not None:
            self._call.client_pause(False)

    # ------------------------------------------------------------------ from the parser

    def on_message_begin(self) -> None:
        if self._next_at < 0:
            raise ValueError("the end of a chunked body is in dispute")
        self._at = self._next_at
        self._begun = self._in_head = True

    def on_headers_complete(self) -> None:
        parser, buffer, at = self._parser, self._buffer, self._at
        while buffer[at] in b"\r\n":  # empty lines before a request line (RFC 9112, 2.2)
            at += 1
        end = buffer.index(b"\r\n\r\n", at)
        self._begun = self._in_head = False
        before, length, after = split_length(buffer[at : end + 2])
        last = self._last_head
        line, _, block = before.partition(b"\r\n")
        if last is not None and last[0] == block and last[1] == after:
            head = last[2]
        else:
            head = RequestHead(block + after)
            self._last_head = (block, after, head)
        if head.chunked:
            self._chunks = Chunks()
            behind = self._chunks.end(buffer[end + 4 :])
            self._next_at = end + 4 + behind if behind >= 0 else -1
        else:
            self._next_at = end + 4 + length
        words = line.split()
        refusal = head_refusal(words) or head.bad
        if end - at > MAX_HEAD:
            refusal = refused(431, "head_too_large", f"its head is longer than {MAX_HEAD} bytes.")
        request = Request(
            words[0], words[1], head, None if head.chunked else length, parser.should_keep_alive(), refusal
        )
        if parser.should_upgrade():
            request.upgrade = True
            if not head.websocket and request.refusal is None:
                request.refusal = refused(400, "upgrade_refused", "the only upgrade taken is a WebSocket.")
        self._parsing = request
        self._queue.append(request)
        if len(self._queue) == 1:
            self._begin(request)
        elif len(self._queue) > _MAX_PIPELINED:
            raise ValueError("too many requests at once")
        else:
            request.body = []
            self._pause(True)

    def on_body(self, piece: bytes) -> None:
        request = self._parsing
        if self._closing or request is None:
            return
        if request is self._queue[0]:
            if self._call is not None:
                self._call.request_body(piece)
        elif request.body is not None:
            request.body.append(piece)

    def on_message_complete(self) -> None:
        request, self._parsing = self._parsing, None
        self._in_head, self._chunks = True, None
        if request is None:
            return
        request.complete = True
        if self._closing or request is not self._queue[0]:
            return
        if self._call is not None:
            self._call.request_complete()
        else:
            self._next()

    # ------------------------------------------------------------------ one request after another

    def _begin(self, request: Request) -> None:
        """Answer a request, or start its call."""
        gateway, sandbox, head = self._gateway, self.sandbox, request.head
        now = time.perf_counter()
        denied: Denied | None = None
        refusal = request.refusal or gateway.refusal
        if refusal is None:
            refusal = authenticate(sandbox, head, self._token, now)
        if refusal is not None:
            denied = Denied(refusal, guess_family(request.target))
        else:
            self._token = head.token
            settings = gateway.settings
            match = admit(settings, sandbox, request.method, request.target, head, request.length, now)
            if isinstance(match, Denied):
                denied = match
            else:
                upstream = settings.upstreams[match.provider.name]
                self._call = Call(gateway, self, sandbox, request, match, upstream, now)
                if head.expects_continue:
                    self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                self._call.start()
                return
        self._deny(request, denied)

    def _deny(self, request: Request, denied: Denied) -> None:
        gateway = self._gateway
        started = time.perf_counter()
        request_id = gateway.new_request_id()
        body = error_body(denied.family, denied.refusal, request_id)
        gateway.record_refusal(self.sandbox, denied, request_id, started, len(body))
        keep = request.refusal is None and not request.upgrade and request.keep_alive and self._worth_reading(request)
        self.answer(denied.refusal, denied.family, request_id, body, keep)
        self.call_done(keep)

    def _worth_reading(self, request: Request) -> bool:
        """Whether the rest of a refused body is little enough to keep the connection for."""
        length = request.length
        return not request.head.expects_continue and length is not None and length <= 64 * 1024

    def answer(self, refusal: Refusal, family: Family, request_id: str, body: bytes, keep: bool) -> None:
        """Write a whole answer of the gateway's own."""
        self.write(
            b"%b%bContent-Length: %d\r\nx-choir-request-id: %b\r\n%b\r\n%b"
            % (
                STATUS_LINES[refusal.status],
                error_headers(family, refusal),
                len(body),
                request_id.encode(),
                b"" if keep else b"Connection: close\r\n",
                body,
            )
        )

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
            self._next()
        else:
            self._gateway.loop.call_soon(self._next)

    def _end(self, request: Request) -> None:
        """Close, once the caller has read the answer: a reset would take it away."""
        if request.complete and not self._broken:
            self.transport.close()
        else:
            self._closing = True
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
        self._begin(request)
        call = self._call
        if call is None:
            return
        body, request.body = request.body, None
        for piece in body or ():
            call.request_body(piece)
        if request.complete:
            call.request_complete()
        call.request_flush()

    def _pause(self, paused: bool) -> None:
        if paused != self._paused and not self.transport.is_closing():
            self._paused = paused
            if paused:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def pause_reading(self, paused: bool) -> None:
        """The provider takes no more of the body for now, or does again."""
        if not self._closing and len(self._queue) <= 1:
            self._pause(paused)

    # ------------------------------------------------------------------ what goes wrong

    def _malformed(self) -> None:
        self._refuse_unparsed(refused(400, "malformed_request", "it is not strict HTTP/1.1."))

    def _refuse_unparsed(self, refusal: Refusal) -> None:
        """The rest of the connection cannot be understood."""
        self._broken = True
        call = self._call
        if call is not None and self._parsing is not None and self._parsing is self._queue[0]:
            call.request_broken(refusal)
            return
        if self._parsing is None and self._queue and call is None:  # an answer was given, the rest of its body is bad
            self._end(self._queue[0])
            return
        broken = Request(b"", b"", RequestHead(b""), None, False, refusal)
        self._queue.append(broken)
        if len(self._queue) == 1:
            self._begin(broken)
        else:
            self._pause(True)

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        """At once."""
        self.transport.abort()

    def take_raw(self) -> bytes:
        """What came after the request of an upgrade."""
        raw = bytes(self._raw or b"")
        self._raw = bytearray()
        return raw

    def tick(self, now: float) -> None:
        """Close what waits too long for a head or lingers too long."""
        if self._call is not None:
            return
        waited = now - self._since
        limit = LINGER_SECONDS if self._closing else HEAD_SECONDS if self._begun or self._queue else IDLE_SECONDS
        if waited > limit:
            self.close()
