"""One connection to a provider: the answer's parser, and what a call is to it.

llhttp judges every byte, with one shortcut: an answer whose head is byte for byte one that it judged before, of the
same provider, at the same place, and whose body came whole and alone with it, can only be judged alike.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Protocol

import httptools

from choir.gateway.framing import MAX_HEAD
from choir.gateway.refusals import Refusal
from choir.gateway.response_head import ResponseHead

if TYPE_CHECKING:
    from choir.gateway.upstream import Upstream


_FRAMED = re.compile(rb"(?i)\r\n(transfer-encoding|content-length):")
_COMMON = (200, 201)
"""Statuses whose heads are remembered."""
_MAX_INTERIM = 64
"""Heads with a status of 1xx before an answer."""


class Waiter(Protocol):
    """What a call is to its upstream connection. No method may raise."""

    request_done: bool
    """The whole request was written."""

    def connected(self, connection: UpstreamConnection) -> None: ...
    def not_connected(self, refusal: Refusal) -> None: ...
    def response_head(self, head: ResponseHead) -> None: ...
    def response_body(self, piece: bytes) -> None: ...
    def response_complete(self) -> None: ...
    def response_whole(self, head: ResponseHead, body: bytes) -> None:
        """``response_head``, ``response_body`` and ``response_complete``, for an answer that came at once."""

    def response_flush(self) -> None: ...
    def switched(self, rest: bytes) -> None: ...
    def upstream_lost(self, reason: str) -> None: ...
    def upstream_pause(self, paused: bool) -> None: ...


class UpstreamConnection(asyncio.Protocol):
    """One connection to a provider, for one call at a time."""

    __slots__ = (
        *(
            "_buffer",
            "_complete",
            "_in_head",
            "_informational",
            "_interim",
            "_keep_alive",
            "_parser",
            "_paused",
            "call",
        ),
        *("idle_since", "reused", "transport", "upstream"),
    )

    transport: asyncio.Transport

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.call: Waiter | None = None
        self.reused = False
        self.idle_since = 0.0
        self._parser = httptools.HttpResponseParser(self)
        self._buffer = b""
        """The answer from its beginning, until its head is whole."""
        self._in_head = True
        self._keep_alive = False
        self._complete = False
        self._informational = False
        self._interim = 0
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        call = self.call
        if call is None:  # nothing was asked: whatever this is, it is not an answer
            self.close()
            return
        if self._in_head:
            if self._buffer:
                self._buffer += data
            else:
                known, length, head = self.upstream.known_head
                if head is not None and len(data) == len(known) + length and data.startswith(known):
                    self._free(call, True)
                    call.response_whole(head, data[len(known) :])
                    return
                self._buffer = data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            call.switched(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            if self.call is call and not self._complete:
                self.close()
                call.upstream_lost("malformed")
                return
            self._keep_alive = False  # the answer was whole; what follows it is not one
        if self._complete:
            self._complete = False
            self._in_head, self._buffer = True, b""
            self._free(call, self._keep_alive)
            call.response_complete()
        elif self._in_head and len(self._buffer) > MAX_HEAD:
            self.close()
            call.upstream_lost("malformed")
        else:
            call.response_flush()

    def _free(self, call: Waiter, keep_alive: bool) -> None:
        """The answer is whole: another call may be made."""
        if self.call is call:  # it may have had enough before
            self.call = None
            if keep_alive and call.request_done:
                if self._paused:
                    self.pause(False)
                self.upstream.release(self)
            else:
                self.close()

    # ------------------------------------------------------------------ from llhttp

    def on_message_begin(self) -> None:
        if self._complete:  # a second answer to one question
            self._keep_alive = False
            raise ValueError("unasked")
        self._in_head = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if not 100 <= status < 600 or self._parser.get_http_version() not in ("1.1", "1.0"):
            raise ValueError("a status of no known class, or another protocol")
        whole, _, rest = self._buffer.partition(b"\r\n\r\n")
        self._informational = 100 <= status < 200 and status != 101
        if self._informational:
            if _FRAMED.search(
                whole
            ):  # it has no body, and may not say so (RFC 9110, 8.6); llhttp would read one after 104
                raise ValueError("an interim answer with a body")
            self._interim += 1
            if self._interim > _MAX_INTERIM:
                raise ValueError("too many interim answers")
            self._buffer = rest
            return
        self._interim = 0
        self._in_head, self._buffer = False, b""
        self._keep_alive = self._parser.should_keep_alive()
        head = ResponseHead(status, whole.partition(b"\r\n")[2], self.upstream.secrets)
        if self._keep_alive and head.length is not None and not head.chunked and status in _COMMON and not head.bad:
            self.upstream.known_head = whole + b"\r\n\r\n", head.length, head
        call = self.call
        if call is not None:
            call.response_head(head)

    def on_body(self, piece: bytes) -> None:
        call = self.call
        if call is not None:
            call.response_body(piece)

    def on_message_complete(self) -> None:
        if self._informational:
            self._informational = False
        else:
            self._complete = True

    # ------------------------------------------------------------------ from the transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.upstream.forget(self)
        call, self.call = self.call, None
        if call is not None:
            call.upstream_lost("reset" if exc is not None else "closed")

    def pause_writing(self) -> None:
        if self.call is not None:
            self.call.upstream_pause(True)

    def resume_writing(self) -> None:
        if self.call is not None:
            self.call.upstream_pause(False)

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def pause(self, paused: bool) -> None:
        """Read no more for now, or again."""
        if paused != self._paused and not self.transport.is_closing():
            self._paused = paused
            if paused:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def close(self) -> None:
        """At once; what is in flight is dropped."""
        self.call = None
        self._keep_alive = False
        self.transport.abort()
