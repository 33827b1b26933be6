"""Token counts out of each API family's answers, from a side copy of what is relayed (pure).

Counts mean the same for all: ``input`` is everything the model read, cached or not; ``cached`` is the part read from a
cache; ``output`` includes reasoning.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from contextlib import suppress
from functools import lru_cache
from typing import Annotated, Any

import msgspec

from choir.gateway.body import UNREADABLE

MOST_TOKENS = 2**40
Tokens = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)]
"""A count that can be meant: another one is as good as none, and the ledger could not hold it."""
_WHOLE = 64 * 1024
"""Bytes of a plain JSON answer read as a whole; of a longer one the tail is searched."""
_TAIL = 16 * 1024
_MAX_LINE = 256 * 1024


class _Details(msgspec.Struct):
    cached_tokens: Tokens | None = None


class _Usage(msgspec.Struct):
    """OpenAI chat and embeddings; OpenAI responses and Anthropic; Bedrock."""

    prompt_tokens: Tokens | None = None
    completion_tokens: Tokens | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: Tokens | None = None
    cache_creation_input_tokens: Tokens | None = None
    inputTokens: Tokens | None = None  # noqa: N815
    outputTokens: Tokens | None = None  # noqa: N815
    cacheReadInputTokens: Tokens | None = None  # noqa: N815
    cacheWriteInputTokens: Tokens | None = None  # noqa: N815


class _GoogleUsage(msgspec.Struct):
    promptTokenCount: Tokens | None = None  # noqa: N815
    candidatesTokenCount: Tokens | None = None  # noqa: N815
    thoughtsTokenCount: Tokens | None = None  # noqa: N815
    cachedContentTokenCount: Tokens | None = None  # noqa: N815


class _Nested(msgspec.Struct):
    usage: _Usage | None = None


class _Answer(msgspec.Struct):
    type: Any = None
    usage: _Usage | None = None
    message: _Nested | None = None
    response: _Nested | None = None
    usageMetadata: _GoogleUsage | None = None  # noqa: N815


class _Metrics(msgspec.Struct):
    inputTokenCount: Tokens | None = None  # noqa: N815
    outputTokenCount: Tokens | None = None  # noqa: N815
    cacheReadInputTokenCount: Tokens | None = None  # noqa: N815


class _Invocation(msgspec.Struct):
    metrics: _Metrics | None = msgspec.field(default=None, name="amazon-bedrock-invocationMetrics")


_answer = msgspec.json.Decoder(_Answer)
_answers = msgspec.json.Decoder(list[_Answer])
_usage = msgspec.json.Decoder(_Usage)
_google = msgspec.json.Decoder(_GoogleUsage)
_invocation = msgspec.json.Decoder(_Invocation)
_MEMBER = re.compile(rb'"(usage|usageMetadata)"\s*:\s*\{')
_LAST_TYPES = ("message_stop", "response.completed", "response.incomplete", "response.failed")
"""Of the event that ends an answer: Anthropic's, and OpenAI's responses."""
_LAST_LINE = b"[DONE]"
"""The same for OpenAI's chat."""
_ENDS = tuple(f'"{name}"'.encode() for name in _LAST_TYPES)
_PAYLOAD = re.compile(rb'"bytes"\s*:\s*"([A-Za-z0-9+/=]+)"')


class Counts:
    """Tokens known so far; None is unknown."""

    __slots__ = ("cached", "input", "output", "written")

    def __init__(self) -> None:
        self.input: int | None = None
        self.output: int | None = None
        self.cached: int | None = None
        self.written: int | None = None
        """The part of ``input`` written to a cache; no record has it, but it can have a price of its own."""

    def add(self, usage: _Usage | None) -> None:
        """Take over what ``usage`` says; later says win, since streams count up."""
        if usage is None:
            return
        if usage.prompt_tokens is not None:
            self.input, details = usage.prompt_tokens, usage.prompt_tokens_details
            self._cached(details.cached_tokens if details else None)
        elif usage.input_tokens is not None:
            read = usage.cache_read_input_tokens
            self.written = usage.cache_creation_input_tokens
            self.input = usage.input_tokens + (read or 0) + (self.written or 0)
            details = usage.input_tokens_details
            self._cached(details.cached_tokens if details else read)
        elif usage.inputTokens is not None:
            read = usage.cacheReadInputTokens
            self.written = usage.cacheWriteInputTokens
            self.input = usage.inputTokens + (read or 0) + (self.written or 0)
            self._cached(read)
        output = usage.completion_tokens
        if output is None:
            output = usage.outputTokens if usage.output_tokens is None else usage.output_tokens
        if output is not None:
            self.output = output

    def add_google(self, usage: _GoogleUsage | None) -> None:
        if usage is None:
            return
        if usage.promptTokenCount is not None:
            self.input = usage.promptTokenCount
        if usage.candidatesTokenCount is not None or usage.thoughtsTokenCount is not None:
            self.output = (usage.candidatesTokenCount or 0) + (usage.thoughtsTokenCount or 0)
        self._cached(usage.cachedContentTokenCount)

    def take(self, answer: _Answer) -> None:
        """Take over what an answer, or an event of one, says."""
        if answer.usage is not None:
            self.add(answer.usage)
        if answer.message is not None:
            self.add(answer.message.usage)
        if answer.response is not None:
            self.add(answer.response.usage)
        if answer.usageMetadata is not None:
            self.add_google(answer.usageMetadata)

    def _cached(self, tokens: int | None) -> None:
        if tokens is not None:
            self.cached = tokens


@lru_cache(128)
def _kind(content_type: bytes) -> str:
    if content_type.startswith(b"text/event-stream"):
        return "events"
    if content_type.startswith(b"application/vnd.amazon.eventstream"):
        return "frames"
    return "json" if b"json" in content_type else ""


def whole_counts(content_type: bytes, content_encoding: bytes, body: bytes) -> Counts:
    """Of an answer that is there at once."""
    if not content_encoding and len(body) <= _WHOLE and _kind(content_type) == "json":
        counts = Counts()
        if b'"usage' not in body:
            return counts
        with suppress(*UNREADABLE):
            counts.take(_answer.decode(body))
            return counts
    scanner = Scanner(content_type, content_encoding)
    scanner.feed(body)
    return scanner.finish()


class Scanner:
    """Reads one answer as it passes; ``feed`` each piece, then ``finish``."""

    __slots__ = ("_buffer", "_feed", "_inflate", "_kind", "counts", "ended")

    def __init__(self, content_type: bytes, content_encoding: bytes = b"") -> None:
        self.counts = Counts()
        self.ended = False
        """The event that ends the stream was seen; a caller that has it may leave."""
        self._buffer = b""
        self._inflate: Any = None
        self._kind = _kind(content_type)
        if content_encoding in (b"gzip", b"x-gzip", b"deflate"):
            self._inflate = zlib.decompressobj(wbits=47 if b"gzip" in content_encoding else 15)
        elif content_encoding and content_encoding != b"identity":
            self._kind = ""
        kind = self._kind
        if kind == "json":
            self._feed = self._keep
        elif kind == "events":
            self._feed = self._events
        else:
            self._feed = self._keep_tail if kind == "frames" else self._ignore

    def feed(self, piece: bytes) -> None:
        if self._inflate is not None:
            try:
                piece = self._inflate.decompress(piece, 8 * _MAX_LINE)
                exploded = bool(self._inflate.unconsumed_tail)
            except zlib.error:
                exploded = True
            if exploded:
                self._feed, self._inflate = self._ignore, None
                return
        self._feed(piece)

    def finish(self) -> Counts:
        """What was counted; also after a broken stream."""
        if self._kind == "json":
            self._finish_json()
        elif self._kind == "frames":
            self._finish_frames()
        elif self._kind == "events" and self._buffer:
            self._lines(self._buffer)
        self._buffer = b""
        return self.counts

    def _ignore(self, piece: bytes) -> None:
        pass

    def _keep(self, piece: bytes) -> None:
        buffer = self._buffer + piece if self._buffer else piece
        if len(buffer) > 2 * _WHOLE:
            buffer = b"\x00" + buffer[-_WHOLE:]  # no longer JSON: only its tail can be searched
        self._buffer = buffer

    def _keep_tail(self, piece: bytes) -> None:
        self._buffer = (self._buffer + piece)[-_TAIL:]

    def _events(self, piece: bytes) -> None:
        if self._buffer:
            piece = self._buffer + piece
        end = piece.rfind(b"\n")
        if end < 0:
            self._buffer = piece if len(piece) <= _MAX_LINE else b""
            return
        rest = piece[end + 1 :]
        self._buffer = rest if len(rest) <= _MAX_LINE else b""
        if b'"usage' in piece or _LAST_LINE in piece or b'"message_stop"' in piece or b'"response.' in piece:
            self._lines(piece[:end])

    def _lines(self, block: bytes) -> None:
        for line in block.split(b"\n"):
            if not line.startswith(b"data:"):
                continue
            if b'"usage' in line or any(mark in line for mark in _ENDS):
                self._answer(line[5:].strip())
            elif line[5:].strip() == _LAST_LINE:
                self.ended = True

    def _answer(self, text: bytes) -> bool:
        try:
            answer = _answer.decode(text)
        except UNREADABLE:
            return False
        self._take(answer)
        return True

    def _take(self, answer: _Answer) -> None:
        if self._kind == "events" and isinstance(answer.type, str) and answer.type in _LAST_TYPES:
            self.ended = True
        self.counts.take(answer)

    def _finish_json(self) -> None:
        buffer = self._buffer
        if b'"usage' not in buffer:
            return
        if buffer[:1] != b"\x00" and len(buffer) <= _WHOLE:
            if self._answer(buffer):
                return
            with suppress(*UNREADABLE):  # Google's stream without alt=sse
                for answer in _answers.decode(buffer):
                    self._take(answer)
                return
        self._last_member(buffer[-_TAIL:])

    def _last_member(self, text: bytes) -> None:
        """The last ``usage`` object. Inside a string its quotes would be escaped, so it is a member of something."""
        every = list(_MEMBER.finditer(text))
        if not every:
            return
        found = every[-1]
        value = _balanced(text, found.end() - 1)
        try:
            if found[1] == b"usage":
                self.counts.add(_usage.decode(value))
            else:
                self.counts.add_google(_google.decode(value))
        except UNREADABLE:
            return

    def _finish_frames(self) -> None:
        self._last_member(self._buffer)
        for payload in _PAYLOAD.findall(self._buffer):
            try:
                text = base64.b64decode(payload, validate=True)
                if self._answer(text):
                    metrics = _invocation.decode(text).metrics
                    if metrics is not None:
                        self.counts.add(
                            _Usage(inputTokens=metrics.inputTokenCount, outputTokens=metrics.outputTokenCount)
                        )
            except (*UNREADABLE, binascii.Error):
                continue


def _balanced(text: bytes, start: int) -> bytes:
    """The object that begins at ``start``; counts hold no strings with braces."""
    depth = 0
    for at in range(start, len(text)):
        if text[at] == 0x7B:
            depth += 1
        elif text[at] == 0x7D:
            depth -= 1
            if depth == 0:
                return text[start : at + 1]
    return b""
