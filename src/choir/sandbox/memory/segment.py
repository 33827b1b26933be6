"""Segments: the inverted lists of consecutive documents, as arrays and as bytes. Pure."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from choir.sandbox.memory.postings import Bytes, DamagedIndexError, Listed, Part, Slots

_HEADER = struct.Struct("<4sIIII")  # magic, terms, entries, checksum, zero
_MAGIC = b"seg1"


@dataclass(frozen=True, slots=True)
class Segment:
    """The inverted lists of consecutive documents of one page: ``slots[starts[i]:starts[i + 1]]`` belong to
    ``keys[i]``, ascending."""

    keys: npt.NDArray[np.int64]
    starts: npt.NDArray[np.uint32]
    slots: Slots
    counts: Bytes
    first: Bytes

    @classmethod
    def of(cls, keys: npt.NDArray[np.int64], slots: Slots, counts: Bytes, first: Bytes) -> Segment:
        """From entries in any order, one per term and slot."""
        order = np.argsort(slots, kind="stable")
        return cls.sorted_by_key(keys[order], slots[order], counts[order], first[order])

    @classmethod
    def sorted_by_key(cls, keys: npt.NDArray[np.int64], slots: Slots, counts: Bytes, first: Bytes) -> Segment:
        """From entries in which the slots of each term ascend."""
        order = np.argsort(keys, kind="stable")  # merges what is in order already
        ordered = keys[order]
        if not len(ordered):
            return cls(ordered, np.zeros(1, np.uint32), slots, counts, first)
        begins = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
        starts = np.append(begins, len(ordered)).astype(np.uint32)
        return cls(ordered[begins], starts, slots[order], counts[order], first[order])

    def find(self, keys: npt.NDArray[np.int64], page: int) -> Iterator[tuple[int, Part]]:
        """(index of the key, its postings) of those of ``keys`` that are here."""
        if not len(self.keys):
            return
        at = self.keys.searchsorted(keys)
        np.minimum(at, len(self.keys) - 1, out=at)
        here = (self.keys.take(at) == keys).nonzero()[0]
        at = at.take(here)
        for index, start, end in zip(
            here.tolist(), self.starts.take(at).tolist(), self.starts.take(at + 1).tolist(), strict=True
        ):
            yield index, ((page,), (end - start,), self.slots[start:end], self.counts[start:end], self.first[start:end])

    def count(self, keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """How many documents have each of ``keys``."""
        if not len(self.keys):
            return np.zeros(len(keys), np.int64)
        at = self.keys.searchsorted(keys)
        np.minimum(at, len(self.keys) - 1, out=at)
        sizes = self.starts.take(at + 1).astype(np.int64) - self.starts.take(at)
        return np.where(self.keys.take(at) == keys, sizes, 0)

    def lists(self) -> Iterator[tuple[int, Listed]]:
        for at, key in enumerate(self.keys.tolist()):
            part = slice(int(self.starts[at]), int(self.starts[at + 1]))
            yield key, Listed(self.slots[part], self.counts[part], self.first[part])

    def between(self, low: int, high: int) -> Segment:
        """The terms with low <= key < high."""
        begin, end = (int(each) for each in np.searchsorted(self.keys, (low, high)))
        part = slice(int(self.starts[begin]), int(self.starts[end]))
        starts = self.starts[begin : end + 1] - self.starts[begin]
        return Segment(self.keys[begin:end], starts, self.slots[part], self.counts[part], self.first[part])

    def entry_keys(self) -> npt.NDArray[np.int64]:
        return np.repeat(self.keys, np.diff(self.starts))

    def without(self, slots: Slots) -> Segment:
        keep = ~np.isin(self.slots, slots)
        return Segment.of(self.entry_keys()[keep], self.slots[keep], self.counts[keep], self.first[keep])

    def pack(self) -> bytes:
        body = b"".join(part.tobytes() for part in (self.keys, self.starts, self.slots, self.counts, self.first))
        return _HEADER.pack(_MAGIC, len(self.keys), len(self.slots), zlib.crc32(body), 0) + body

    @classmethod
    def unpack(cls, data: bytes) -> Segment:
        """
        Raises:
            DamagedIndexError: not what ``pack`` wrote.
        """
        if len(data) < _HEADER.size:
            raise DamagedIndexError("a segment is cut off")
        magic, terms, entries, checksum, _ = _HEADER.unpack_from(data)
        body = memoryview(data)[_HEADER.size :]
        if magic != _MAGIC or len(body) != 8 * terms + 4 * (terms + 1) + 4 * entries or zlib.crc32(body) != checksum:
            raise DamagedIndexError("a segment does not match its checksum")
        ends = (8 * terms, 8 * terms + 4 * (terms + 1), 8 * terms + 4 * (terms + 1) + 2 * entries)
        return cls(
            np.frombuffer(body, np.int64, terms),
            np.frombuffer(body, np.uint32, terms + 1, ends[0]),
            np.frombuffer(body, np.uint16, entries, ends[1]),
            np.frombuffer(body, np.uint8, entries, ends[2]),
            np.frombuffer(body, np.uint8, entries, ends[2] + entries),
        )


def join(segments: Iterable[Segment]) -> Segment:
    """Segments of one page, in the order of their documents, as one."""
    parts = list(segments)
    return Segment.sorted_by_key(
        np.concatenate([each.entry_keys() for each in parts]),
        np.concatenate([each.slots for each in parts]),
        np.concatenate([each.counts for each in parts]),
        np.concatenate([each.first for each in parts]),
    )
