"""Which headers of a provider pass (pure): those on a list."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

_KEPT, _DROP, _LENGTH, _TRANSFER, _TYPE, _ENCODING, _COUNT = range(7)
_PASSES = frozenset(
    (
        *(b"content-type", b"content-encoding", b"content-language", b"content-disposition", b"cache-control", b"date"),
        *(b"retry-after", b"retry-after-ms", b"x-should-retry", b"vary", b"etag", b"last-modified"),
        *(b"x-request-id", b"request-id", b"apim-request-id", b"x-ms-request-id", b"x-amzn-requestid"),
        *(b"x-amzn-errortype", b"mistral-correlation-id", b"x-trace-id"),
        *(b"sec-websocket-accept", b"sec-websocket-protocol", b"sec-websocket-extensions"),
    )
)
_PASSING_PREFIXES = (b"x-ratelimit-", b"anthropic-ratelimit-", b"anthropic-priority-", b"openai-", b"x-amzn-bedrock-")
_HELD_BACK = (b"openai-organization", b"openai-project")
_KIND: dict[bytes, int] = {
    b"": _DROP,
    **dict.fromkeys(_PASSES, _KEPT),
    b"content-length": _LENGTH,
    b"transfer-encoding": _TRANSFER,
    b"content-type": _TYPE,
    b"content-encoding": _ENCODING,
}
_CACHE_SIZE = 512
_DIGITS = 12
"""Of a count that can be meant."""
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
STATUS_LINES = {code: b"HTTP/1.1 %d %b\r\n" % (code, _REASONS.get(code, b"Status")) for code in range(100, 600)}


class ResponseHead:
    """A provider's head, read once.

    Attributes:
        status: the code.
        block: header lines as they came.
        kept: header lines for the caller.
        length: of the body; None when it is not told.
        chunked: framed by chunks.
        bad: it cannot be relayed.
        input_tokens, output_tokens: Bedrock's invoke says them here.
    """

    __slots__ = (
        *("bad", "block", "chunked", "content_encoding", "content_type", "input_tokens", "kept", "length"),
        *("output_tokens", "status"),
    )

    def __init__(self, status: int, block: bytes, secrets: Sequence[bytes] = ()) -> None:
        """
        Args:
            block: header lines, each with its CRLF.
            secrets: the provider's keys; a header that repeats one does not pass.
        """
        self.status = status
        self.block = block
        self.length: int | None = None
        self.chunked = False
        self.bad = False
        self.content_type = b""
        self.content_encoding = b""
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        kept = []
        for line in block.split(b"\r\n"):
            kind, value = _LINES.get(line) or _read_line(line)
            if kind == _DROP:
                continue
            if kind == _KEPT:
                kept.append(line)
                continue
            if kind == _LENGTH:
                self.length = int(value)
            elif kind == _TRANSFER:
                self.bad = self.bad or self.chunked or value.lower() != b"chunked"
                self.chunked = True
            else:
                kept.append(line)
                if kind == _TYPE:
                    self.content_type = value.lower()
                elif kind == _ENCODING:
                    self.content_encoding = value.lower()
                elif value.isdigit() and len(value) <= _DIGITS:
                    name = line.partition(b":")[0].lower()
                    if name.endswith(b"-input-token-count"):
                        self.input_tokens = int(value)
                    elif name.endswith(b"-output-token-count"):
                        self.output_tokens = int(value)
        kept.append(b"")
        self.kept = b"\r\n".join(kept)
        for secret in secrets:
            if secret in self.kept:
                kept = [line for line in kept if secret not in line]
                self.kept = b"\r\n".join(kept)

    @property
    def bodyless(self) -> bool:
        """There is no body, whatever the head says (RFC 9112, 6.3)."""
        return self.status in (204, 304)

    @property
    def plain(self) -> bool:
        """Without a content coding."""
        return self.content_encoding in (b"", b"identity")

    @property
    def is_event_stream(self) -> bool:
        return self.content_type.startswith(b"text/event-stream")


_LINES: dict[bytes, tuple[int, bytes]] = {}
"""Lines that come again and again, such as the content type, and what was read from them."""


def _read_line(line: bytes) -> tuple[int, bytes]:
    """Kind and value of a response header line."""
    name, _, value = line.partition(b":")
    kind = _KIND.get(name)
    if kind is None:
        kind = _kind(name)
    read = kind, value.strip(b" \t")
    if kind in (_TYPE, _ENCODING, _TRANSFER, _DROP) and len(line) < 80 and len(_LINES) < _CACHE_SIZE:
        _LINES[line] = read
    return read


def _kind(name: bytes) -> int:
    lower = name.lower()
    kind = _KIND.get(lower)
    if kind is None:
        passes = lower.startswith(_PASSING_PREFIXES) and not lower.startswith(_HELD_BACK)
        kind = _COUNT if lower.startswith(b"x-amzn-bedrock-") else _KEPT if passes else _DROP
    if len(_KIND) < _CACHE_SIZE and len(name) < 64:
        _KIND[name] = kind
    return kind
