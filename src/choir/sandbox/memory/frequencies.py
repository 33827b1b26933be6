"""How many documents have each term: what is asked of far more terms than have their postings read. Pure."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from choir.sandbox.memory.postings import DamagedIndexError
from choir.sandbox.memory.segment import Segment

_HEADER = struct.Struct("<4sII")  # magic, terms, checksum
_MAGIC = b"frq1"

Keys = npt.NDArray[np.int64]
Sizes = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Frequencies:
    """``sizes[i]`` documents have the term ``keys[i]``; keys ascend, sizes are at least 1."""

    keys: Keys
    sizes: Sizes

    @classmethod
    def of(cls, segments: Iterable[Segment]) -> Frequencies:
        return cls.sum(cls(each.keys, np.diff(each.starts).astype(np.int64)) for each in segments)

    @classmethod
    def sum(cls, parts: Iterable[Frequencies]) -> Frequencies:
        """Of all parts' documents together."""
        found = [each for each in parts if len(each.keys)]
        if not found:
            return cls(np.zeros(0, np.int64), np.zeros(0, np.int64))
        keys = np.concatenate([each.keys for each in found])
        order = np.argsort(keys, kind="stable")  # merges what is in order already
        keys = keys[order]
        begins = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
        return cls(keys[begins], np.add.reduceat(np.concatenate([each.sizes for each in found])[order], begins))

    def count(self, keys: Keys) -> Sizes:
        """For each of ``keys``; 0 where there is none."""
        if not len(self.keys):
            return np.zeros(len(keys), np.int64)
        at = self.keys.searchsorted(keys)
        np.minimum(at, len(self.keys) - 1, out=at)
        return np.where(self.keys.take(at) == keys, self.sizes.take(at), 0)

    def minus(self, gone: dict[int, int]) -> Frequencies:
        """With so many documents fewer for these keys."""
        sizes = self.sizes.copy()
        sizes[self.keys.searchsorted(np.fromiter(gone, np.int64, len(gone)))] -= np.fromiter(gone.values(), np.int64)
        keep = sizes > 0
        return Frequencies(self.keys[keep], sizes[keep])

    def pack(self) -> bytes:
        body = self.keys.tobytes() + (self.sizes - 1).astype(np.uint16).tobytes()
        return _HEADER.pack(_MAGIC, len(self.keys), zlib.crc32(body)) + body

    @classmethod
    def unpack(cls, data: bytes) -> Frequencies:
        """
        Raises:
            DamagedIndexError: not what ``pack`` wrote.
        """
        if len(data) < _HEADER.size:
            raise DamagedIndexError("the frequencies of a page are cut off")
        magic, terms, checksum = _HEADER.unpack_from(data)
        body = memoryview(data)[_HEADER.size :]
        if magic != _MAGIC or len(body) != 10 * terms or zlib.crc32(body) != checksum:
            raise DamagedIndexError("the frequencies of a page do not match their checksum")
        return cls(
            np.frombuffer(body, np.int64, terms), np.frombuffer(body, np.uint16, terms, 8 * terms).astype(np.int64) + 1
        )
