"""AWS's binary event stream (pure): where its messages end, and one that says that the stream broke.

A message is ``total length, headers length, CRC of these two, headers, payload, CRC of everything before`` (all four
numbers 32 bits, big endian; CRC-32 of zlib). A header is ``length of name, name, 7 (a string), length of value (16
bits), value``. Source: Smithy, "application/vnd.amazon.eventstream"; the names of exceptions are members of both
``ResponseStream`` and ``ConverseStreamOutput`` in Bedrock's own model.
"""

from __future__ import annotations

import struct
import zlib

from choir.gateway.refusals import Refusal, error_body

CONTENT_TYPE = b"application/vnd.amazon.eventstream"
_PRELUDE = struct.Struct(">II")
_CRC = struct.Struct(">I")
_OVERHEAD = 16
_STRING = 7
_EXCEPTIONS = {429: "throttlingException", 503: "serviceUnavailableException"}
_OTHERWISE = "modelStreamErrorException"


class Messages:
    """Follows a stream: ``feed`` each piece as it passes."""

    __slots__ = ("_head", "_missing")

    def __init__(self) -> None:
        self._head = b""
        """Of a message whose length is not known yet."""
        self._missing = 0
        """Bytes of the message under way that have not come."""

    @property
    def whole(self) -> bool:
        """Whether the last message is complete, so that another can follow."""
        return self._missing == 0 and not self._head

    def feed(self, piece: bytes) -> None:
        at, end = 0, len(piece)
        while at < end:
            if self._missing:
                step = min(self._missing, end - at)
                self._missing -= step
                at += step
                continue
            needed = 4 - len(self._head)
            self._head += piece[at : at + needed]
            at += needed
            if len(self._head) == 4:
                # A length that cannot be leaves the stream where nothing can follow.
                self._missing = max(_CRC.unpack(self._head)[0] - 4, 1)
                self._head = b""


def message(headers: dict[str, str], payload: bytes) -> bytes:
    """One message; ``headers`` are strings of less than 64 KB with names of less than 256 bytes."""
    encoded = b"".join(
        b"%c%b%c%b%b" % (len(name), name.encode(), _STRING, struct.pack(">H", len(value)), value.encode())
        for name, value in headers.items()
    )
    prelude = _PRELUDE.pack(_OVERHEAD + len(encoded) + len(payload), len(encoded))
    text = prelude + _CRC.pack(zlib.crc32(prelude)) + encoded + payload
    return text + _CRC.pack(zlib.crc32(text))


def exception_message(refusal: Refusal, request_id: str) -> bytes:
    """What every AWS SDK raises as an error, for a stream that broke between two messages."""
    headers = {
        ":exception-type": _EXCEPTIONS.get(refusal.status, _OTHERWISE),
        ":content-type": "application/json",
        ":message-type": "exception",
    }
    return message(headers, error_body("bedrock", refusal, request_id))
