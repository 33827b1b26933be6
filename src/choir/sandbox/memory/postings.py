"""Posting lists as bytes and arrays. Pure.

A list says for one term and one page (65,536 documents) which slots have it, how often, and where first. Stored:
slots (uint16, ascending), first positions (uint8, 255 = there or later), counts (uint8, absent when all are 1), one
flag byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
import numpy.typing as npt

PAGE_BITS = 16
PAGE = 1 << PAGE_BITS
MAX_COUNT = 255

Bytes = npt.NDArray[np.uint8]
Slots = npt.NDArray[np.uint16]
Docs = npt.NDArray[np.int32]
Buffer = bytes | Bytes | Slots
Raw = tuple[Docs, Bytes, Bytes]
"""Document numbers, counts and first positions."""

Part = tuple[int, Buffer, Buffer, Buffer]
"""One term in one page: how many documents; slots, counts and first positions as in ``Listed``, or their bytes."""


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


def take_apart(data: bytes) -> Part:
    """What ``encode`` wrote, its order not looked at.

    Raises:
        DamagedIndexError: the length or the flag is impossible.
    """
    flag = data[-1] if data else 2
    size, rest = divmod(len(data) - 1, 3 + flag)
    if flag > 1 or rest or not size:
        raise DamagedIndexError("a posting list has an impossible length")
    counts = data[3 * size : -1] if flag else b"\x01" * size
    return size, data[: 2 * size], counts, data[2 * size : 3 * size]


def join(lists: Sequence[Sequence[tuple[int, Part]]]) -> list[Raw]:
    """Each list's parts with their pages, ascending, as one. Most are short: arrays are made once for all of them.

    Raises:
        DamagedIndexError: a list does not ascend.
    """
    pages, parts = zip(*chain.from_iterable(lists), strict=True) if any(lists) else ((), ())
    sizes, slots, counts, first = zip(*parts, strict=True) if parts else ((),) * 4
    docs = np.repeat(np.array(pages, np.int32) << PAGE_BITS, np.array(sizes, np.intp))
    docs += np.frombuffer(b"".join(slots), np.uint16)
    all_counts, all_first = (np.frombuffer(b"".join(each), np.uint8) for each in (counts, first))
    ends = np.cumsum((0, *sizes))[np.cumsum([len(each) for each in lists], dtype=np.intp)].tolist()
    ascends = docs[1:] > docs[:-1]
    ascends[[end - 1 for end in ends if 0 < end < len(docs)]] = True
    if not ascends.all():
        raise DamagedIndexError("a posting list is out of order")
    return [(docs[begin:end], all_counts[begin:end], all_first[begin:end]) for begin, end in pairwise((0, *ends))]
