"""The index made anew from the items, in steps that are short enough to come between two messages.

A page that is to be made anew is *stale*. First the old postings go (pages are at step ``DROPPING`` so long), then page
after page is filled as it was at first: segments, then the merge. Each step is one transaction, and what is finished
stays; a killed rebuild goes on where it ended. What is ingested meanwhile goes into a page of its own.
"""

from __future__ import annotations

from choir.sandbox.memory import index as layout
from choir.sandbox.memory.index import Index
from choir.sandbox.memory.page import SLOT
from choir.sandbox.memory.postings import PAGE_BITS

DROPPING = -1
ROWS = 2_000
"""Old postings dropped in one step."""

ITEMS = 256
"""Taken into the index in one step."""


def mark_stale(index: Index) -> None:
    """Give the stored index up."""
    index.db.execute("DELETE FROM memory_segments")
    index.db.execute("DELETE FROM memory_runs")
    # A damaged table of pages is made anew too: what an item's number says is where it is.
    first = "SELECT doc, collection FROM memory_items WHERE doc > ? ORDER BY doc LIMIT 1"
    doc = -1
    while found := index.db.execute(first, (doc,)).fetchone():
        index.db.execute(
            "INSERT OR IGNORE INTO memory_pages (page, collection, state) VALUES (?, ?, 'stale')",
            (found[0] >> PAGE_BITS, found[1]),
        )
        doc = found[0] | SLOT
    index.db.execute(
        "UPDATE memory_pages SET state = 'stale', step = ?, columns = NULL, frequencies = NULL,"
        " entries = 0, checksum = 0",
        (DROPPING,),
    )
    index.changed()


def rebuild(index: Index) -> None:
    """One step; for as long as there is a stale page. Wants to be called inside a transaction."""
    number = index.stale()[0]
    if index.pages[number].step == DROPPING:
        _drop(index)
    else:
        _fill(index, number)


def _drop(index: Index) -> None:
    keys = "SELECT key FROM memory_postings LIMIT ?"
    if index.db.execute(f"DELETE FROM memory_postings WHERE key IN ({keys})", (ROWS,)).rowcount < ROWS:  # noqa: S608
        index.db.execute("UPDATE memory_pages SET step = 0 WHERE step = ?", (DROPPING,))
        for each in index.stale():
            index.pages[each].step = 0
        index.changed()


def _fill(index: Index, number: int) -> None:
    page = index.pages[number]
    base = number << PAGE_BITS
    end = min(page.tail.start + layout.SEGMENT, layout.CAPACITY)
    rows = index.db.execute(
        "SELECT doc, content, created_at, previous FROM memory_items WHERE doc BETWEEN ? AND ? ORDER BY doc LIMIT ?",
        (base + page.size, base + end - 1, ITEMS),
    ).fetchall()
    for doc, content, created, previous in rows:
        index.add(doc, content, created, previous)
    if len(rows) == ITEMS:
        return
    if page.size < end and _is_latest(index, number, end):
        index.db.execute("UPDATE memory_pages SET state = 'open' WHERE page = ?", (number,))
        page.state = "open"
        index.open[page.collection] = number
        index.changed()
    else:
        page.size = end  # forgotten ones leave gaps
        index.flush_page(number, page)


def _is_latest(index: Index, number: int, end: int) -> bool:
    """Nothing of its collection comes behind slot ``end`` of the page."""
    collection = index.pages[number].collection
    later = "SELECT 1 FROM memory_items WHERE doc BETWEEN ? AND ? LIMIT 1"
    base = number << PAGE_BITS
    return (
        number == max(each for each, other in index.pages.items() if other.collection == collection)
        and index.db.execute(later, (base + end, base + SLOT)).fetchone() is None
    )


def waiting(index: Index) -> tuple[int, int]:
    """(slots of stale pages still to be filled, slots of all pages). Reads the stored pages only."""
    left = total = 0
    for number, state in index.db.execute("SELECT page, state FROM memory_pages").fetchall():
        base = number << PAGE_BITS
        last = index.db.execute("SELECT max(doc) FROM memory_items WHERE doc BETWEEN ? AND ?", (base, base + SLOT))
        size = (last.fetchone()[0] or base - 1) + 1 - base
        total += size
        page = index.pages.get(number)
        if state == "stale":
            left += size - min(page.size if page is not None and page.state == "stale" else 0, size)
    return left, total
