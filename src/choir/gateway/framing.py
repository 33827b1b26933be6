"""Where a message begins and ends in the bytes of a connection (pure)."""

from __future__ import annotations

import re

MAX_HEAD = 64 * 1024  # bytes

_LENGTH_LINE = re.compile(rb"\r\nContent-Length:[ \t]*([0-9]+)", re.IGNORECASE)


class Chunks:
    """Finds the end of a chunked body (RFC 9112, 7.1) that a strict parser judges at the same time."""

    __slots__ = ("_line", "_skip", "_trailers")

    def __init__(self) -> None:
        self._line = b""
        self._skip = 0
        self._trailers = False

    def end(self, data: bytes) -> int:
        """The index in ``data`` behind the body, or -1 when it goes on. ``data`` follows what was given before.

        Raises:
            ValueError: a size or a line that no parser takes.
        """
        at = 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            newline = data.find(b"\n", at)
            self._line += data[at : newline + 1] if newline >= 0 else data[at:]
            if len(self._line) > MAX_HEAD:
                raise ValueError("a line of a chunked body is too long")
            if newline < 0:
                return -1
            line, self._line, at = self._line, b"", newline + 1
            if self._trailers:
                if line == b"\r\n":
                    return at
            elif size := int(line.partition(b";")[0], 16):
                self._skip = size + 2
            else:
                self._trailers = True
        return -1


def split_length(head: bytes) -> tuple[bytes, int, bytes]:
    """A head around the value of its Content-Length: what is before it, the value, what is after it.

    Without such a line: the head, 0, b"". A strict parser has seen to it that there is one at most.
    """
    found = _LENGTH_LINE.search(head)
    if found is None:
        return head, 0, b""
    return head[: found.start(1)], int(found[1]), head[found.end(1) :]
