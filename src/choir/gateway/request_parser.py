"""The bytes of one connection of a sandbox, judged strictly and cut into requests.

llhttp judges every byte, with one shortcut: a request whose head is, but for the digits of its Content-Length, byte for
byte one that was judged before on the same connection, that begins where the one before it ended, and that came whole
and alone, can only be judged alike. Whatever differs in one byte takes the long way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import httptools

from choir.gateway.framing import MAX_HEAD, Chunks, split_length
from choir.gateway.refusals import Refusal, refused
from choir.gateway.request_head import RequestHead, head_refusal

if TYPE_CHECKING:
    from choir.gateway.admission import Admission

_MAX_DIGITS = 10
"""Of a Content-Length that takes the shortcut."""
_REMEMBERED = 8 * 1024
"""Bytes of a head that is kept for the shortcut, as long as its connection lives."""


class Request:
    """One parsed head, and what of its body came before its turn."""

    __slots__ = (
        *("admission", "body", "complete", "head", "keep_alive", "length", "method", "refusal", "target", "upgrade"),
    )

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
        self.admission: Admission | None = None
        """What was decided of this head before."""


class Receiver(Protocol):
    """What is told of the requests, in order. A call may answer, and so be followed by the next."""

    def request_begun(self, request: Request) -> None: ...
    def request_body(self, request: Request, piece: bytes) -> None: ...
    def request_ended(self, request: Request) -> None: ...
    def request_whole(self, request: Request, body: bytes) -> None:
        """Begun, its body, and ended, in one. Only when no other request is open."""

    def request_unreadable(self, request: Request | None, refusal: Refusal) -> None:
        """The rest of the connection cannot be understood. ``request`` is the one whose body broke."""


class RequestParser:
    """Of one connection."""

    __slots__ = (
        *("_after", "_at", "_at_start", "_before", "_between", "_buffer", "_chunks", "_known", "_last_head"),
        *("_next_at", "_parser", "_receiver", "_request", "in_head", "raw"),
    )

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._parser = httptools.HttpRequestParser(self)
        # The parser judges the bytes; where a head begins in them is kept here, to take it out in one piece.
        self._buffer = b""
        self._at = 0
        self._next_at = 0
        """Where in ``_buffer`` the next message begins; -1 while a chunked body goes on."""
        self._at_start = True
        """No body is open: the next byte is of a head."""
        self.in_head = False
        """A head has begun and not ended."""
        self._chunks: Chunks | None = None
        self._last_head: tuple[bytes, bytes, RequestHead] | None = None
        self._request: Request | None = None
        self._known: Request | None = None
        """Its head's bytes are ``_before``, the digits of its Content-Length and ``_after``; or ``_before`` alone."""
        self._before = self._after = b""
        self._between = True
        """Nothing has come since the last message ended."""
        self.raw: bytearray | None = None
        """What came after a request for an upgrade; frames of another protocol."""

    def feed(self, data: bytes, alone: bool) -> None:
        """Judge what came next.

        Args:
            alone: no request is open.
        """
        if alone and self._between and self._known is not None and data.startswith(self._before):
            request, after, start = self._known, self._after, len(self._before)
            if not after:
                if len(data) == start:
                    self._receiver.request_whole(request, b"")
                    return
            else:
                stop = data.find(b"\r", start, start + _MAX_DIGITS + 1)
                if stop > start and data.startswith(after, stop):
                    digits, body = data[start:stop], data[stop + len(after) :]
                    if digits.isdigit() and int(digits) == len(body):
                        request.length = len(body)
                        self._receiver.request_whole(request, body)
                        return
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        if self.in_head:
            self._buffer = self._buffer[self._at :] + data
            self._at = 0
        else:
            self._buffer = data
            if self._at_start:
                self._next_at = 0
        self._between = False
        try:
            if self._chunks is not None:
                self._next_at = self._chunks.end(data)
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.raw = bytearray(data[upgrade.args[0] :])
        except (httptools.HttpParserError, ValueError):
            self._unreadable(refused(400, "malformed_request", "it is not strict HTTP/1.1."))
            return
        if self.in_head:
            if len(self._buffer) - self._at > MAX_HEAD:
                self._unreadable(_TOO_LARGE)
            return
        self._between = self._at_start and self._next_at == len(self._buffer)
        if not self._at_start and self._chunks is None:
            self._next_at -= len(self._buffer)
        self._buffer = b""

    def _unreadable(self, refusal: Refusal) -> None:
        request, self._request = self._request, None
        self._receiver.request_unreadable(request, refusal)

    # ------------------------------------------------------------------ from llhttp

    def on_message_begin(self) -> None:
        if self._next_at < 0:
            raise ValueError("the end of a chunked body is in dispute")
        self._at = self._next_at
        self.in_head = self._at_start = True

    def on_headers_complete(self) -> None:
        parser, buffer, at = self._parser, self._buffer, self._at
        while buffer[at] in b"\r\n":  # empty lines before a request line (RFC 9112, 2.2)
            at += 1
        end = buffer.index(b"\r\n\r\n", at)
        self.in_head = self._at_start = False
        before, length, after = split_length(buffer[at : end + 2])
        last = self._last_head
        line, _, block = before.partition(b"\r\n")
        if last is not None and last[0] == block and last[1] == after:
            head = last[2]
        else:
            head = RequestHead(block + after)
            self._last_head = (block, after, head) if end + 4 - at <= _REMEMBERED else None
        if head.chunked:
            self._chunks = Chunks()
            behind = self._chunks.end(buffer[end + 4 :])
            self._next_at = end + 4 + behind if behind >= 0 else -1
        else:
            self._next_at = end + 4 + length
        words = line.split(b" ")
        refusal = head_refusal(words) or head.bad
        if end - at > MAX_HEAD:
            refusal = _TOO_LARGE
        keep_alive = parser.should_keep_alive()
        request = Request(words[0], words[1], head, None if head.chunked else length, keep_alive, refusal)
        if parser.should_upgrade():
            request.upgrade = True
            if not head.websocket and request.refusal is None:
                request.refusal = refused(400, "upgrade_refused", "the only upgrade taken is a WebSocket.")
            elif (head.chunked or length) and request.refusal is None:  # its bytes would reach the provider unframed
                request.refusal = refused(400, "upgrade_refused", "a request for a WebSocket has no body.")
        if not keep_alive or request.upgrade:
            self._known = None  # nothing may follow
        elif refusal is None and not head.chunked and not head.expects_continue and end + 4 - at <= _REMEMBERED:
            self._known = request
            self._before, self._after = (before, after + b"\r\n") if after else (before + b"\r\n", b"")
        self._request = request
        self._receiver.request_begun(request)

    def on_body(self, piece: bytes) -> None:
        if self._request is not None:
            self._receiver.request_body(self._request, piece)

    def on_message_complete(self) -> None:
        request, self._request = self._request, None
        self._at_start, self._chunks = True, None
        if request is not None:
            request.complete = True
            self._receiver.request_ended(request)


_TOO_LARGE = refused(431, "head_too_large", f"its head is longer than {MAX_HEAD} bytes.")
