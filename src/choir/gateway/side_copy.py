"""The model's name out of a body that streams past (pure)."""

from __future__ import annotations

from choir.gateway import body


class SideCopy:
    """Holds a body of up to ``body.SIDE_COPY`` bytes; of a longer one its end, once its beginning was looked at."""

    __slots__ = ("_kept", "_pieces", "_size", "_whole", "model")

    def __init__(self) -> None:
        self.model: str | None = None
        """As far as it is known; printable."""
        self._pieces: list[bytes] = []
        self._kept = True
        self._whole = True
        self._size = 0

    def feed(self, piece: bytes) -> None:
        if self._kept:
            self._pieces.append(piece)
            self._size += len(piece)
            if self._size > body.SIDE_COPY:
                text = b"".join(self._pieces)
                if self._whole:
                    self.model = body.printable(body.model_in_ends(text, b""))
                self._whole = False
                self._kept = self.model is None
                self._pieces = [text[-body.SIDE_COPY // 2 :]] if self._kept else []
                self._size = body.SIDE_COPY // 2

    def finish(self) -> str | None:
        """The name, now that the body has ended."""
        if self._kept:
            text = b"".join(self._pieces)
            self._pieces = []
            self.model = body.printable(body.model_of(text) if self._whole else body.model_in_ends(b"", text))
        return self.model
