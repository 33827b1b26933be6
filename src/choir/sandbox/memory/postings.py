"""Posting lists as bytes and arrays. Pure.

A list says for one term and one page (65,536 documents) which slots have it, how often, and where first. Stored:
slots (uint16, ascending), first positions (uint8, 255 = there or later), counts (uint8, absent when all are 1), one
flag byte.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PAGE_BITS = 16
PAGE = 1 << PAGE_BITS
MAX_COUNT = 255

Bytes = npt.NDArray[np.uint8]
Slots = npt.NDArray[np.uint16]
Docs = npt.NDArray[np.int32]

_HEADER = struct.Struct("<4sIIII")  # magic, terms, entries, checksum, zero
_MAGIC = b"seg1"


class DamagedIndexError(Exception):
    """Stored bytes that cannot be what was written; the index must be rebuilt."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One term in one page."""

    slots: Slots
    counts: Bytes
    first: Bytes

    def without(self, slots: Slots) -> Listed:
        keep = ~np.isin(self.slots, slots)
        return Listed(self.slots[keep], self.counts[keep], self.first[keep])


def encode(listed: Listed) -> bytes:
    plain = bool((listed.counts == 1).all())
    counts = b"" if plain else listed.counts.tobytes()
    return b"".join((listed.slots.tobytes(), listed.first.tobytes(), counts, b"\x00" if plain else b"\x01"))


def decode(data: bytes) -> Listed:
    """Views of ``data``.

    Raises:
        DamagedIndexError: the length, the flag or the order of slots is impossible.
    """
    flag = data[-1] if data else 2
    size, rest = divmod(len(data) - 1, 3 + flag)
    if flag > 1 or rest or not size:
        raise DamagedIndexError("a posting list has an impossible length")
    slots = np.frombuffer(data, np.uint16, size)
    if size > 1 and not (slots[1:] > slots[:-1]).all():
        raise DamagedIndexError("a posting list is out of order")
    first = np.frombuffer(data, np.uint8, size, 2 * size)
    counts = np.frombuffer(data, np.uint8, size, 3 * size) if flag else np.ones(size, np.uint8)
    return Listed(slots, counts, first)


def decode_pages(rows: list[tuple[int, bytes]]) -> Postings:
    """(page, bytes) in ascending order as one; as ``decode`` and ``gather``, without an array for each.

    Raises:
        DamagedIndexError: as ``decode``.
    """
    sizes = []
    for _, data in rows:
        size, rest = divmod(len(data) - 1, 3 + data[-1]) if data else (0, 1)
        if rest or not size or data[-1] > 1:
            raise DamagedIndexError("a posting list has an impossible length")
        sizes.append(size)
    total = sum(sizes)
    docs, counts, first = np.empty(total, np.int32), np.ones(total, np.uint8), np.empty(total, np.uint8)
    at = 0
    for (page, data), size in zip(rows, sizes, strict=True):
        end = at + size
        np.add(np.frombuffer(data, np.uint16, size), page << PAGE_BITS, out=docs[at:end], dtype=np.int32)
        first[at:end] = np.frombuffer(data, np.uint8, size, 2 * size)
        if data[-1]:
            counts[at:end] = np.frombuffer(data, np.uint8, size, 3 * size)
        at = end
    if not (docs[1:] > docs[:-1]).all():
        raise DamagedIndexError("a posting list is out of order")
    return Postings(docs, counts, first)


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
        order = np.lexsort((slots, keys))
        ordered = keys[order]
        if not len(ordered):
            return cls(ordered, np.zeros(1, np.uint32), slots, counts, first)
        begins = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
        starts = np.append(begins, len(ordered)).astype(np.uint32)
        return cls(ordered[begins], starts, slots[order], counts[order], first[order])

    def find(self, key: int) -> Listed | None:
        at = int(self.keys.searchsorted(key))
        if at == len(self.keys) or self.keys[at] != key:
            return None
        part = slice(int(self.starts[at]), int(self.starts[at + 1]))
        return Listed(self.slots[part], self.counts[part], self.first[part])

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
    """Segments of one page as one."""
    parts = list(segments)
    return Segment.of(
        np.concatenate([each.entry_keys() for each in parts]),
        np.concatenate([each.slots for each in parts]),
        np.concatenate([each.counts for each in parts]),
        np.concatenate([each.first for each in parts]),
    )


class Tail:
    """The latest documents of a page, not yet in a segment."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.size = 0
        self._lists: dict[int, list[int]] = {}

    def add(self, slot: int, keys: list[int]) -> None:
        """Slots must come in ascending order."""
        lists = self._lists
        counted: dict[int, int] = {}
        for position, key in enumerate(keys):
            entry = counted.get(key)
            if entry is None:
                counted[key] = slot << 16 | 256 | min(position, 255)
            elif entry & 0xFF00 != 0xFF00:
                counted[key] = entry + 256
        for key, entry in counted.items():
            found = lists.get(key)
            if found is None:
                lists[key] = [entry]
            else:
                found.append(entry)
        self.size += 1

    def find(self, key: int) -> Listed | None:
        found = self._lists.get(key)
        return None if found is None else _unpacked(np.array(found, np.uint32))

    def segment(self) -> Segment:
        sizes = [len(entries) for entries in self._lists.values()]
        keys = np.repeat(np.fromiter(self._lists, np.int64, len(self._lists)), sizes)
        entries = np.fromiter((e for entries in self._lists.values() for e in entries), np.uint32, sum(sizes))
        listed = _unpacked(entries)
        return Segment.of(keys, listed.slots, listed.counts, listed.first)

    def remove(self, slot: int) -> None:
        for key in list(self._lists):
            kept = [entry for entry in self._lists[key] if entry >> 16 != slot]
            if kept:
                self._lists[key] = kept
            else:
                del self._lists[key]


def _unpacked(entries: npt.NDArray[np.uint32]) -> Listed:
    return Listed(
        (entries >> 16).astype(np.uint16), (entries >> 8 & 255).astype(np.uint8), (entries & 255).astype(np.uint8)
    )


@dataclass(frozen=True, slots=True)
class Postings:
    """One term over all pages: document numbers ascending."""

    docs: Docs
    counts: Bytes
    first: Bytes

    def __len__(self) -> int:
        return len(self.docs)


_NONE = Postings(np.zeros(0, np.int32), np.zeros(0, np.uint8), np.zeros(0, np.uint8))


def gather(lists: list[tuple[int, Listed]]) -> Postings:
    """(page, list) in ascending order as one."""
    if not lists:
        return _NONE
    docs = [each.slots.astype(np.int32) + (page << PAGE_BITS) for page, each in lists]
    if len(lists) == 1:
        return Postings(docs[0], lists[0][1].counts, lists[0][1].first)
    return Postings(
        np.concatenate(docs),
        np.concatenate([each.counts for _, each in lists]),
        np.concatenate([each.first for _, each in lists]),
    )


def union(one: Postings, other: Postings) -> Postings:
    """Of two that have no document in common."""
    if not len(one):
        return other
    docs = np.concatenate((one.docs, other.docs))
    counts = np.concatenate((one.counts, other.counts))
    first = np.concatenate((one.first, other.first))
    if one.docs[-1] > other.docs[0]:
        order = np.argsort(docs, kind="stable")
        docs, counts, first = docs[order], counts[order], first[order]
    return Postings(docs, counts, first)
