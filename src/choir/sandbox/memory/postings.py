"""Posting lists as bytes and arrays. Pure.

A list says for one term and one page (65,536 documents) which slots have it, how often, and where first. Stored:
slots (uint16, ascending), first positions (uint8, 255 = there or later), counts (uint8, absent when all are 1), one
flag byte.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PAGE_BITS = 16
PAGE = 1 << PAGE_BITS
MAX_COUNT = 255

Bytes = npt.NDArray[np.uint8]
Slots = npt.NDArray[np.uint16]
Docs = npt.NDArray[np.int32]
Raw = tuple[Docs, Bytes, Bytes]
"""Document numbers, counts and first positions."""


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


def decode_pages(rows: list[tuple[int, bytes]]) -> Raw:
    """(page, bytes) in ascending order as one; as ``decode`` and ``gather``. Most lists are short: bytes are joined,
    arrays made once.

    Raises:
        DamagedIndexError: as ``decode``.
    """
    sizes, slots, first, counts = [], [], [], []
    for _, data in rows:
        flag = data[-1] if data else 2
        size, rest = divmod(len(data) - 1, 3 + flag)
        if flag > 1 or rest or not size:
            raise DamagedIndexError("a posting list has an impossible length")
        sizes.append(size)
        slots.append(data[: 2 * size])
        first.append(data[2 * size : 3 * size])
        counts.append(data[3 * size : -1] if flag else b"\x01" * size)
    docs = np.repeat(np.array([page << PAGE_BITS for page, _ in rows], np.int32), sizes)
    docs += np.frombuffer(b"".join(slots), np.uint16)
    if not (docs[1:] > docs[:-1]).all():
        raise DamagedIndexError("a posting list is out of order")
    return docs, np.frombuffer(b"".join(counts), np.uint8), np.frombuffer(b"".join(first), np.uint8)


def gather(lists: list[tuple[int, Listed]]) -> Raw:
    """(page, list) in ascending order as one."""
    if not lists:
        return np.zeros(0, np.int32), np.zeros(0, np.uint8), np.zeros(0, np.uint8)
    return (
        np.concatenate([each.slots.astype(np.int32) + (page << PAGE_BITS) for page, each in lists]),
        np.concatenate([each.counts for _, each in lists]),
        np.concatenate([each.first for _, each in lists]),
    )
