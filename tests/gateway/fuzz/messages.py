"""What stands in a row of bytes: strict readers of requests and answers, for what the gateway wrote."""

from __future__ import annotations

import re
from dataclasses import dataclass

_HEAD = re.compile(rb"([!-~]+ [!-~]+ [ -~]*)\r\n((?:[!-9;-~]+:[\t -~\x80-\xff]*\r\n)*)\r\n")
_FIELD = re.compile(rb"([!-9;-~]+):[\t ]*([\t -~\x80-\xff]*)\r\n")
_SIZE = re.compile(rb"([0-9a-f]+)\r\n")

_ONCE = (b"content-length", b"transfer-encoding", b"host", b"authorization", b"connection", b"x-choir-request-id")


@dataclass(frozen=True, slots=True)
class Message:
    """``whole`` is False for the last one when it was broken off; its body is then what had come."""

    line: bytes
    fields: dict[bytes, bytes]
    body: bytes
    whole: bool

    @property
    def status(self) -> int:
        return int(self.line.split()[1])


def read(data: bytes) -> list[Message]:
    """Interim answers are left out.

    Raises:
        AssertionError: a head, or a chunk, that no strict reader takes.
    """
    found: list[Message] = []
    while data:
        head = _HEAD.match(data)
        if head is None:
            assert b"\r\n\r\n" not in data, f"not a head: {data[:300]!r}"
            found.append(Message(data, {}, b"", False))
            break
        fields: dict[bytes, bytes] = {}
        for name, value in _FIELD.findall(head[2]):
            assert name.lower() not in fields or name.lower() not in _ONCE, f"{name!r} twice"
            fields[name.lower()] = value
        data = data[head.end() :]
        if head[1].startswith(b"HTTP/1.1 1"):
            continue
        body, data, whole = _body(fields, data)
        found.append(Message(head[1], fields, body, whole))
        if not whole:
            break
    return found


def _body(fields: dict[bytes, bytes], data: bytes) -> tuple[bytes, bytes, bool]:
    """The body, what comes after it, and whether it was whole."""
    if b"transfer-encoding" not in fields:
        length = int(fields.get(b"content-length", b"0"))
        return data[:length], data[length:], len(data) >= length
    assert b"content-length" not in fields, "two framings"
    body = b""
    while True:
        size = _SIZE.match(data)
        if size is None:
            assert b"\r\n" not in data, f"not a chunk: {data[:100]!r}"
            return body, b"", False
        count = int(size[1], 16)
        data = data[size.end() :]
        piece, after = data[:count], data[count : count + 2]
        body += piece
        if len(piece) < count or len(after) < 2:
            return body, b"", False
        assert after == b"\r\n"
        data = data[count + 2 :]
        if count == 0:
            return body, data, True
