"""Posting lists as bytes and arrays. Pure.

A list says for one term and one page (65,536 documents) which slots have it, how often, and where first. Stored:
slots (uint16, ascending), first positions (uint8, 255 = there or later), counts (uint8, absent when all are 1), one
flag byte. A *row* is one list, or several pages' lists in one: their slots, first positions and counts, one page after
the other, then the pages' numbers (uint16, ascending), how many documents each has less one (uint16), how many pages
(uint8) and the flag byte.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise

import numpy as np
import numpy.typing as npt

PAGE_BITS = 16
PAGE = 1 << PAGE_BITS
MAX_COUNT = 255

_COUNTED, _SEVERAL = 1, 2
"""Flags: there are counts; there are pages."""

Bytes = npt.NDArray[np.uint8]
Slots = npt.NDArray[np.uint16]
Docs = npt.NDArray[np.int32]
Buffer = bytes | Bytes | Slots
Raw = tuple[Docs, Bytes, Bytes]
"""Document numbers, counts and first positions."""

Part = tuple[Sequence[int], Sequence[int], Buffer, Buffer, Buffer]
"""One term in some pages: their numbers, ascending; how many documents each has; slots, counts and first positions as
in ``Listed``, or their bytes, one page after the other."""


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
    """A row of one page."""
    return _row((), (), listed.slots.tobytes(), listed.counts.tobytes(), listed.first.tobytes())


def encode_pages(lists: Sequence[tuple[int, Listed]]) -> bytes:
    """A row of several pages, at most 255, ascending."""
    return put_together([((page,), (len(each.slots),), each.slots, each.counts, each.first) for page, each in lists])


def put_together(parts: Sequence[Part]) -> bytes:
    """Parts with ascending pages as one row."""
    pages, sizes, *columns = zip(*parts, strict=True)
    return _row(list(chain(*pages)), list(chain(*sizes)), *(b"".join(each) for each in columns))


def _row(pages: Sequence[int], sizes: Sequence[int], slots: bytes, counts: bytes, first: bytes) -> bytes:
    flag, index = 0, b""
    if counts.count(1) == len(counts):
        counts = b""
    else:
        flag = _COUNTED
    if pages:
        flag |= _SEVERAL
        index = struct.pack(f"={2 * len(pages)}HB", *pages, *(size - 1 for size in sizes), len(pages))
    return b"".join((slots, first, counts, index, bytes((flag,))))


def split(page: int, row: bytes) -> list[tuple[int, Listed]]:
    """The lists of a row, views of it, by page.

    Args:
        page: whose list it is when it is of one.

    Raises:
        DamagedIndexError: the length, a flag or the order is impossible.
    """
    pages, sizes, *columns = take_apart(page, row)
    slots, counts, first = (
        np.frombuffer(each, kind) for each, kind in zip(columns, (np.uint16, np.uint8, np.uint8), strict=True)
    )
    found = [
        (each, Listed(slots[begin:end], counts[begin:end], first[begin:end]))
        for each, (begin, end) in zip(pages, pairwise(accumulate(sizes, initial=0)), strict=True)
    ]
    if not all((each.slots[1:] > each.slots[:-1]).all() for _, each in found):
        raise DamagedIndexError("a posting list is out of order")
    return found


def take_apart(page: int, row: bytes) -> Part:
    """As ``split``, but the order of slots is not looked at.

    Raises:
        DamagedIndexError: the length, a flag or the pages are impossible.
    """
    flag = row[-1] if row else _SEVERAL * 2
    end = len(row) - 1
    pages: Sequence[int] = (page,)
    if flag & _SEVERAL:
        number = row[-2] if end else 0
        end -= 4 * number + 1
        if end <= 0 or not number:
            raise DamagedIndexError("a row of postings is cut off")
        index = struct.unpack_from(f"={2 * number}H", row, end)
        pages, sizes = index[:number], [each + 1 for each in index[number:]]
    size, rest = divmod(end, 3 + (flag & _COUNTED))
    if not flag & _SEVERAL:
        sizes = [size]
    if flag > (_COUNTED | _SEVERAL) or rest or not size or sum(sizes) != size:
        raise DamagedIndexError("a posting list has an impossible length")
    counts = row[3 * size : end] if flag & _COUNTED else b"\x01" * size
    return pages, sizes, row[: 2 * size], counts, row[2 * size : 3 * size]


def join(lists: Sequence[Sequence[Part]]) -> list[Raw]:
    """Each list's parts, pages ascending, as one. Most are short: arrays are made once for all of them.

    Raises:
        DamagedIndexError: a list does not ascend.
    """
    every = list(chain.from_iterable(lists))
    pages, sizes, slots, counts, first = zip(*every, strict=True) if every else ((),) * 5
    docs = np.repeat(
        np.array(list(chain.from_iterable(pages)), np.int32) << PAGE_BITS,
        np.array(list(chain.from_iterable(sizes)), np.intp),
    )
    docs += np.frombuffer(b"".join(slots), np.uint16)
    all_counts, all_first = (np.frombuffer(b"".join(each), np.uint8) for each in (counts, first))
    ends = list(accumulate(sum(sum(each[1]) for each in parts) for parts in lists))
    ascends = docs[1:] > docs[:-1]
    ascends[[end - 1 for end in ends if 0 < end < len(docs)]] = True
    if not ascends.all():
        raise DamagedIndexError("a posting list is out of order")
    return [(docs[begin:end], all_counts[begin:end], all_first[begin:end]) for begin, end in pairwise((0, *ends))]
