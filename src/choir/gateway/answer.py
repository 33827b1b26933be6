"""A provider's answer on its way to the caller: head, body, usage, end.

Bytes pass as they come. What is read on the side (token counts) or taken out (the usage chunk that the caller did not
ask for) never holds back more than an event. An error answer is held until it is whole: it may repeat the key.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from choir.gateway import event_stream
from choir.gateway.dialects import Counts, Scanner, whole_counts
from choir.gateway.key_verdict import KEY_STATUSES
from choir.gateway.leaks import repeats
from choir.gateway.refusals import Refusal, error_event, upstream_failed
from choir.gateway.response_head import STATUS_LINES, ResponseHead
from choir.gateway.stream_usage import UsageFilter

if TYPE_CHECKING:
    from choir.gateway.relay import Call

ERROR_BODY = 64 * 1024  # bytes of a provider's error answer, which is read as a whole before it passes
KEEP_ALIVE = b": still waiting for the provider\n\n"


class WholeAnswer:
    """One that came at once, and went well. To a record it is as any other."""

    __slots__ = ("_body", "bytes_out", "first_byte", "head")

    def __init__(self, head: ResponseHead, body: bytes) -> None:
        self.head = head
        self._body = body
        self.bytes_out = len(body)
        self.first_byte = time.perf_counter() if body else None

    def text(self, request_id: str) -> bytes:
        """Head and body, for the caller."""
        head, text = self.head, b"%b%bContent-Length: %d\r\nx-choir-request-id: %b\r\n\r\n%b"
        return text % (STATUS_LINES[head.status], head.kept, self.bytes_out, request_id.encode(), self._body)

    def counts(self) -> Counts | None:
        """Tokens it told of."""
        if not self._body:
            return None
        head = self.head
        return _with_head(whole_counts(head.content_type, head.content_encoding, self._body), head)


class Answer:
    """Of one call. Each of its methods may end the call."""

    __slots__ = (
        *("_call", "_chunked", "_error", "_event_ended", "_filter", "_messages", "_out", "_scanner", "begun"),
        *("bytes_out", "ends_with_connection", "first_byte", "head", "heard"),
    )

    def __init__(self, call: Call, head: ResponseHead, usage_asked: bool, now: float) -> None:
        """
        Args:
            usage_asked: the gateway asked for a usage chunk, the caller did not.
        """
        self._call = call
        self.head = head
        self.heard = now
        self.first_byte: float | None = None
        self.bytes_out = 0
        self.begun = False
        """Something of it was written to the caller."""
        self.ends_with_connection = False
        self._scanner: Scanner | None = None
        self._filter: UsageFilter | None = None
        self._messages: event_stream.Messages | None = None
        """Where those of a binary event stream end."""
        self._error: list[bytes] | None = None
        self._chunked = False
        self._event_ended = False
        self._out: list[bytes] = []
        if head.status >= 400:
            self._error = []
        elif 200 <= head.status < 300 or head.status == 304:
            self._start(usage_asked)

    def _start(self, usage_asked: bool) -> None:
        head = self.head
        length = head.length
        if usage_asked and head.is_event_stream and head.plain:
            self._filter = UsageFilter()
            length = None  # what is hidden makes it shorter
        if head.bodyless:
            framing = b""
        elif length is not None:
            framing = b"Content-Length: %d\r\n" % length
        else:
            self._chunked = self._event_ended = True
            self.ends_with_connection = head.length is None and not head.chunked
            framing = b"Transfer-Encoding: chunked\r\n"
        self._out.append(
            b"%b%b%bx-choir-request-id: %b\r\n\r\n"
            % (STATUS_LINES[head.status], head.kept, framing, self._call.request_id.encode())
        )

    # ------------------------------------------------------------------ as it comes

    def body(self, piece: bytes) -> None:
        if self.first_byte is None:
            self.first_byte = time.perf_counter()
        if self._error is not None:
            self._gather(self._error, piece)
            return
        scanner = self._scanner
        if scanner is None:
            head = self.head
            scanner = self._scanner = Scanner(head.content_type, head.content_encoding)
            if self._chunked and not head.content_encoding and head.content_type.startswith(event_stream.CONTENT_TYPE):
                self._messages = event_stream.Messages()
        scanner.feed(piece)
        if self._messages is not None:
            self._messages.feed(piece)
        if self._filter is not None:
            piece = self._filter.feed(piece)
            if not piece:
                return
        self.bytes_out += len(piece)
        if scanner.ended:
            self._call.record("ok")  # the caller may leave as soon as it has this
        if self._chunked:
            self._out.append(b"%x\r\n%b\r\n" % (len(piece), piece))
            self._event_ended = piece.endswith((b"\n\n", b"\r\n\r\n"))
        else:
            self._out.append(piece)

    def flush(self) -> None:
        """Write what the last piece of input made."""
        if self._out:
            self.heard = time.perf_counter()
            self.begun = True
            self._call.down.write(self._taken())

    def complete(self) -> None:
        """The provider has said everything."""
        if self._error is not None:
            self._provider_refused(b"".join(self._error))
            return
        if self._chunked:
            rest = self._filter.finish() if self._filter is not None else b""
            self.bytes_out += len(rest)
            self._out.append(b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest) if rest else b"0\r\n\r\n")
        self._call.finish("ok", self._taken())

    def broken(self, refusal: Refusal) -> None:
        """Break off an answer that has begun, so that no client can take it for a whole one."""
        call, head = self._call, self.head
        if head.is_event_stream and not head.content_encoding and self._chunked and not call.recorded:
            event = error_event(call.match.family, refusal, call.request_id)
            self._out.append(b"%x\r\n%b\r\n" % (len(event), event))
        elif self._messages is not None and self._messages.whole:
            event = event_stream.exception_message(refusal, call.request_id)
            self._out.append(b"%x\r\n%b\r\n" % (len(event), event))
        call.finish("cut", self._taken(), whole=False)

    @property
    def between_events(self) -> bool:
        """A comment could stand here."""
        head = self.head
        return self._event_ended and head.is_event_stream and not head.content_encoding

    def keep_alive(self) -> None:
        """Say something that every reader of server-sent events passes over."""
        self._call.down.write(b"%x\r\n%b\r\n" % (len(KEEP_ALIVE), KEEP_ALIVE))

    def counts(self) -> Counts | None:
        """Tokens it told of; also after a break."""
        if self._scanner is None:
            return None
        return _with_head(self._scanner.finish(), self.head)

    def _taken(self) -> bytes:
        out, self._out = self._out, []
        return out[0] if len(out) == 1 else b"".join(out)

    # ------------------------------------------------------------------ errors of the provider

    def _gather(self, error: list[bytes], piece: bytes) -> None:
        error.append(piece)
        self.bytes_out += len(piece)
        if self.bytes_out > ERROR_BODY:
            status, name = self.head.status, self._call.match.provider.name
            message = f"The provider {name} answered {status} with a very long body."
            self._call.fail(upstream_failed(502, f"http_{status}", message))

    def _provider_refused(self, text: bytes) -> None:
        """Relay a provider's error answer, unless it repeats the key or is about it."""
        call, head = self._call, self.head
        status, name, secrets = head.status, call.match.provider.name, call.upstream.secrets
        if status in KEY_STATUSES and secrets and call.turned_away(head, text):
            return
        if status == 401:
            message = f"The provider {name} answered 401: it does not accept the operator's key."
            call.fail(upstream_failed(502, "http_401", message))
        elif secrets and repeats(text, head.content_encoding, secrets):
            message = f"The provider {name} answered {status} to the operator's key; its answer is not shown."
            call.fail(upstream_failed(status, f"http_{status}", message))
        else:
            out = b"%b%bContent-Length: %d\r\nx-choir-request-id: %b\r\n\r\n%b" % (
                *(STATUS_LINES[status], head.kept, len(text), call.request_id.encode(), text),
            )
            call.finish(f"upstream:http_{status}", out)


def _with_head(counts: Counts, head: ResponseHead) -> Counts:
    if counts.input is None:
        counts.input, counts.output = head.input_tokens, counts.output or head.output_tokens
    return counts
