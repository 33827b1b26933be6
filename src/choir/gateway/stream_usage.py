"""Token counts of OpenAI's chat streams, which are only told when asked for (pure).

The one place where a request body is changed: ``stream_options.include_usage`` is put in when the caller did not, and
the chunk that comes of it, ``"choices": []`` with a ``usage``, is taken out of the answer. Every other byte stays.
"""

from __future__ import annotations

import re

import msgspec

from choir.gateway.body import strict_spans
from choir.gateway.names import exact

MAX_EVENT = 64 * 1024
"""Bytes of one event held to see whether it is the usage chunk; a longer one is not."""

_BOUNDARY = re.compile(rb"\n\r?\n")
_ASK = b'"include_usage":true'


class _Chunk(msgspec.Struct):
    choices: list[msgspec.Raw]
    usage: dict[str, msgspec.Raw]


_chunk = msgspec.json.Decoder(_Chunk)


def asking(body: bytes, members: dict[str, msgspec.Raw]) -> bytes | None:
    """The body of a chat call, changed in one place so that the stream tells its usage.

    Args:
        members: of ``strict_members(body)``.

    Returns:
        None when nothing is to be changed: no stream, or the caller asked.

    Raises:
        Undecodable: ``stream_options`` has a key twice.
        InAnotherCase: or one in other letters.
    """
    if "stream" not in members or bytes(members["stream"]) != b"true":
        return None
    if "stream_options" not in members:
        at = body.index(b"{") + 1
        return body[:at] + b'"stream_options":{' + _ASK + b"}," + body[at:]
    start, end = strict_spans(body)["stream_options"]
    value = body[start:end]
    if value == b"null":
        return body[:start] + b"{" + _ASK + b"}" + body[end:]
    if not value.startswith(b"{"):
        return None  # the provider will say what is wrong with it
    inner = strict_spans(value)
    exact(inner)
    asked = inner.get("include_usage")
    if asked is None:
        at = start + 1
        return body[:at] + _ASK + (b"," if inner else b"") + body[at:]
    if value[slice(*asked)] not in (b"false", b"null"):
        return None
    return body[: start + asked[0]] + b"true" + body[start + asked[1] :]


class UsageFilter:
    """Takes the usage chunk out of a stream. What comes out does not depend on how the stream was split."""

    __slots__ = ("_held", "_whole")

    def __init__(self) -> None:
        self._held = b""
        """The beginning of an event."""
        self._whole = True
        """Whether ``_held`` begins with the event; else its beginning has passed."""

    def feed(self, piece: bytes) -> bytes:
        """What may pass now: whole events."""
        text = self._held + piece if self._held else piece
        end = 0
        passed = []
        for boundary in _BOUNDARY.finditer(text):
            event = text[end : boundary.end()]
            if not self._whole or len(event) > MAX_EVENT or not _is_usage(event):
                passed.append(event)
            self._whole = True
            end = boundary.end()
        self._held = rest = text[end:]
        if len(rest) > MAX_EVENT:
            # All but what could be the beginning of a boundary.
            passed.append(rest[:-2])
            self._held, self._whole = rest[-2:], False
        return b"".join(passed)

    def finish(self) -> bytes:
        """What is left at the end of the stream."""
        rest, self._held = self._held, b""
        return b"" if self._whole and _is_usage(rest) else rest


def _is_usage(event: bytes) -> bool:
    if b'"usage"' not in event:
        return False
    data = [line[5:] for line in event.splitlines() if line.startswith(b"data:")]
    try:
        return not _chunk.decode(b"\n".join(data)).choices
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
