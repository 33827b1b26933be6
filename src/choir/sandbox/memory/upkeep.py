"""The stored index checked against the items, and made anew from them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from choir.sandbox.memory import index as layout
from choir.sandbox.memory.index import SLOT, Index, checksum_of
from choir.sandbox.memory.postings import PAGE_BITS, DamagedIndexError, Segment, Tail, decode


def mark_stale(index: Index) -> None:
    """Throw the stored index away; ``rebuild_page`` makes it anew."""
    index.db.execute("DELETE FROM memory_postings")
    index.db.execute("DELETE FROM memory_segments")
    index.db.execute("UPDATE memory_pages SET state = 'stale', step = 0, columns = NULL, entries = 0, checksum = 0")
    # A damaged table of pages is made anew too: what an item's number says is where it is.
    index.db.execute(
        "INSERT OR IGNORE INTO memory_pages (page, collection, state)"
        " SELECT doc >> 16, collection, 'stale' FROM memory_items GROUP BY doc >> 16"
    )
    index.changed()


def rebuild_page(index: Index, number: int) -> None:
    """From the items. The latest page of a collection becomes open again, the others full."""
    page = index.pages[number]
    latest = max(each for each, other in index.pages.items() if other.collection == page.collection)
    index.db.execute("UPDATE memory_pages SET state = 'open' WHERE page = ?", (number,))
    page.state, page.size, page.step, page.tail = "open", 0, 0, Tail(0)
    index.open[page.collection] = number
    base = number << PAGE_BITS
    for doc, content, created, previous in index.db.execute(
        "SELECT doc, content, created_at, previous FROM memory_items WHERE doc BETWEEN ? AND ? ORDER BY doc",
        (base, base + SLOT),
    ).fetchall():
        while (doc & SLOT) >= page.tail.start + layout.SEGMENT:
            page.size = page.tail.start + layout.SEGMENT  # forgotten ones leave gaps
            index.flush_page(number, page)
        index.add(doc, content, created, previous)
    index.flush()  # the last page may be full to the brim
    if number != latest:
        while page.state == "open":
            page.size = min(page.tail.start + layout.SEGMENT, layout.CAPACITY)
            index.flush_page(number, page)
        while page.state == "merging":
            index.merge(number)


def verify(index: Index) -> str:
    """What is wrong with the stored index, or ``""``. Reads all of it."""
    sums = dict.fromkeys((n for n, page in index.pages.items() if page.state == "merged"), (0, 0))
    try:
        for row, size, data in index.db.execute("SELECT key, entries, postings FROM memory_postings"):
            number = row & SLOT
            if len(decode(data).slots) != size:
                return "a posting list has another length than it says"
            if number in sums:
                entries, checksum = sums[number]
                sums[number] = (entries + size, checksum + checksum_of(row, data))
        for _, _, postings in index.db.execute("SELECT page, start, postings FROM memory_segments"):
            Segment.unpack(postings)
    except DamagedIndexError as error:
        return str(error)
    for number, found in sums.items():
        if index.db.execute("SELECT entries, checksum FROM memory_pages WHERE page = ?", (number,)).fetchone() != found:
            return f"page {number} does not match its checksum"
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
        found = index.postings(key)
        yield key, list(zip(found.docs.tolist(), found.counts.tolist(), found.first.tolist(), strict=True))


def stored_bytes(index: Index) -> int:
    """Stored size: keys, lists and columns, without SQLite's own."""
    sizes = index.db.execute(
        "SELECT (SELECT coalesce(sum(length(postings) + 9), 0) FROM memory_postings)"
        " + (SELECT coalesce(sum(length(postings) + length(columns)), 0) FROM memory_segments)"
        " + (SELECT coalesce(sum(length(columns)), 0) FROM memory_pages)"
    )
    return int(sizes.fetchone()[0])
