"""What a terminal has shown lately: bytes at offsets that only grow, bounded. Pure."""

from __future__ import annotations

LIMIT = 512 * 1024
"""Bytes kept, at least."""
_CHUNK = 64 * 1024


class Scrollback:
    """``start`` and ``end`` are offsets into everything that was ever shown; between them it is kept."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._kept = bytearray()
        self.start = 0

    @property
    def end(self) -> int:
        return self.start + len(self._kept)

    def append(self, data: bytes) -> None:
        self._kept += data
        if len(self._kept) > self._limit + _CHUNK:  # in steps: cutting moves everything
            cut = len(self._kept) - self._limit
            del self._kept[:cut]
            self.start += cut

    def since(self, offset: int, most: int = _CHUNK) -> bytes:
        """At most ``most`` bytes from ``offset`` on; from the oldest kept one when that is gone."""
        begin = max(offset - self.start, 0)
        return bytes(self._kept[begin : begin + most])

    def beginning(self) -> int:
        """Where to begin showing it again: not in the middle of a line (or of a character or an escape sequence) that
        was cut."""
        if self.start == 0:
            return 0
        line = self._kept.find(b"\n", 0, _CHUNK)
        return self.start + line + 1
