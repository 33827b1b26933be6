"""The stored index checked against the items, counted and read whole."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from choir.sandbox.memory.frequencies import Frequencies
from choir.sandbox.memory.index import Index, checksum_of
from choir.sandbox.memory.page import SLOT
from choir.sandbox.memory.postings import PAGE_BITS, DamagedIndexError, encode, split
from choir.sandbox.memory.segment import Segment


def verify(index: Index) -> str:
    """What is wrong with the stored index, or ``""``. Reads all of it."""
    sums = dict.fromkeys((n for n, page in index.pages.items() if page.state == "merged"), (0, 0))
    terms: dict[int, list[tuple[int, int]]] = {number: [] for number in sums}
    try:
        for row, size, data in index.db.execute("SELECT key, entries, postings FROM memory_postings ORDER BY key"):
            key, lists = row >> PAGE_BITS, split(row & SLOT, data)
            if sum(len(each.slots) for _, each in lists) != size:
                return "a posting list has another length than it says"
            for number, each in lists:
                if number in sums:
                    entries, checksum = sums[number]
                    checksum += checksum_of(key << PAGE_BITS | number, encode(each))
                    sums[number] = (entries + len(each.slots), checksum)
                    terms[number].append((key, len(each.slots)))
        for _, _, postings in index.db.execute("SELECT page, start, postings FROM memory_segments"):
            Segment.unpack(postings)
    except DamagedIndexError as error:
        return str(error)
    for number, found in sums.items():
        stored = "SELECT entries, checksum, frequencies FROM memory_pages WHERE page = ?"
        *sizes, packed = index.db.execute(stored, (number,)).fetchone()
        if tuple(sizes) != found:
            return f"page {number} does not match its checksum"
        known = Frequencies.unpack(packed or b"")
        if list(zip(known.keys.tolist(), known.sizes.tolist(), strict=True)) != terms[number]:
            return f"page {number} does not have the terms it says"
    items = index.db.execute("SELECT count(*) FROM memory_items").fetchone()[0]
    indexed = int(np.count_nonzero(index.documents.length))
    return "" if items == indexed else f"{items} items are stored and {indexed} indexed"


def dump(index: Index) -> Iterator[tuple[int, list[tuple[int, int, int]]]]:
    """(key, (doc, count, first position) ascending) of all terms, however they are stored; for comparing."""
    keys = {row >> PAGE_BITS for (row,) in index.db.execute("SELECT key FROM memory_postings")}
    for page in index.pages.values():
        for segment in (*page.segments.values(), page.tail.segment()):
            keys.update(segment.keys.tolist())
    for key in sorted(keys):
        columns = index.lookup.postings((key,))[0].whole()
        yield key, list(zip(*(each.tolist() for each in columns), strict=True))


def stored_bytes(index: Index) -> int:
    """Stored size: keys, lists and columns, without SQLite's own."""
    sizes = index.db.execute(
        "SELECT (SELECT coalesce(sum(length(postings) + 9), 0) FROM memory_postings)"
        " + (SELECT coalesce(sum(length(postings) + length(columns)), 0) FROM memory_segments)"
        " + (SELECT coalesce(sum(coalesce(length(columns), 0) + coalesce(length(frequencies), 0)), 0)"
        " FROM memory_pages)"
    )
    return int(sizes.fetchone()[0])
