"""Documents taken out of the index, every word of them: no posting stays behind."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from choir.sandbox.memory import index as layout
from choir.sandbox.memory.frequencies import Frequencies
from choir.sandbox.memory.index import Index, checksum_of
from choir.sandbox.memory.page import SLOT
from choir.sandbox.memory.postings import (
    PAGE_BITS,
    DamagedIndexError,
    Listed,
    Slots,
    encode,
    encode_pages,
    split,
)


def remove(index: Index, contents: dict[int, str]) -> None:
    """Take documents out, every word of them: no posting stays behind."""
    pages: dict[int, list[int]] = {}
    for doc in contents:
        pages.setdefault(doc >> PAGE_BITS, []).append(doc)
    for number, docs in pages.items():
        while index.pages[number].state == "merging":
            index.merge(number)
        slots = np.array(sorted(doc & SLOT for doc in docs), np.uint16)
        page = index.pages[number]
        if page.state == "merged":
            _remove_rows(index, number, slots, {key for doc in docs for key in index.tokenizer.keys(contents[doc])})
        for doc in docs:
            index.documents.remove(doc)
            if (doc & SLOT) >= page.tail.start:
                page.tail.remove(doc & SLOT)
        for start, end in pairwise([*page.segments, page.tail.start]):
            segment = page.segments[start]
            if ((slots >= start) & (slots < end)).any():
                page.segments[start] = segment.without(slots)
                index.db.execute(
                    "UPDATE memory_segments SET postings = ? WHERE page = ? AND start = ?",
                    (page.segments[start].pack(), number, start),
                )
    index.lookup.begin(index.lookup.frequencies)


def _remove_rows(index: Index, number: int, slots: Slots, keys: set[int]) -> None:
    checksum = 0
    gone: dict[int, int] = {}
    for key in sorted(keys):
        own = key << PAGE_BITS | number
        row, lists = _row_of(index, key, number)
        old = lists[number]
        new = old.without(slots)
        gone[key] = len(old.slots) - len(new.slots)
        checksum -= checksum_of(own, encode(old))
        if len(new.slots):
            lists[number] = new
            checksum += checksum_of(own, encode(new))
        else:
            del lists[number]
        if lists:
            data = encode(new) if row == own and [*lists] == [number] else encode_pages([*lists.items()])
            size = sum(len(each.slots) for each in lists.values())
            index.db.execute("UPDATE memory_postings SET entries = ?, postings = ? WHERE key = ?", (size, data, row))
        else:
            index.db.execute("DELETE FROM memory_postings WHERE key = ?", (row,))
    if gone:
        stored = index.db.execute("SELECT frequencies FROM memory_pages WHERE page = ?", (number,)).fetchone()[0]
        index.lookup.frequencies = index.lookup.frequencies.minus(gone)
        index.db.execute(
            "UPDATE memory_pages SET entries = entries - ?, checksum = checksum + ?, frequencies = ? WHERE page = ?",
            (sum(gone.values()), checksum, Frequencies.unpack(stored or b"").minus(gone).pack(), number),
        )


def _row_of(index: Index, key: int, number: int) -> tuple[int, dict[int, Listed]]:
    """Where the list of a term in a page is, and the lists there."""
    low = key << PAGE_BITS
    for row, data in index.db.execute(
        "SELECT key, postings FROM memory_postings WHERE key BETWEEN ? AND ? ORDER BY key DESC", (low, low | number)
    ):
        lists = dict(split(row & SLOT, data))
        if number in lists:
            return row, lists
    raise DamagedIndexError("a posting list is missing")


def write_columns(index: Index, docs: set[int]) -> None:
    """Store the columns anew where these documents are; their length, time or neighbours changed."""
    for number in {doc >> PAGE_BITS for doc in docs}:
        page = index.pages[number]
        base = number << PAGE_BITS
        if page.state == "merged":
            index.db.execute(
                "UPDATE memory_pages SET columns = ? WHERE page = ?",
                (index.documents.columns(base, base + layout.CAPACITY), number),
            )
        starts = [*page.segments, page.tail.start]
        for start, end in pairwise(starts):
            if any(start <= (doc & SLOT) < end for doc in docs if doc >> PAGE_BITS == number):
                index.db.execute(
                    "UPDATE memory_segments SET columns = ? WHERE page = ? AND start = ?",
                    (index.documents.columns(base + start, base + end), number, start),
                )
    index.changed()
