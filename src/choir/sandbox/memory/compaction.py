"""The rows of a term put together, so that a search reads few: two neighbouring runs of as many pages become one, as
digits carry. In steps, as a merge is; a row says itself which pages it has, so after each step the index answers the
same.
"""

from __future__ import annotations

from itertools import groupby

from choir.sandbox.memory.index import KEY_BITS, Index
from choir.sandbox.memory.page import SLOT
from choir.sandbox.memory.postings import PAGE_BITS, DamagedIndexError, put_together, take_apart

MOST = 16
"""Pages of a run, about a million documents: who forgets one of these rewrites the rows of its words."""

STEPS = 64
"""For each page of the new run; as ``index.STEPS``."""


def due(index: Index) -> list[int] | None:
    """The pages, ascending, that are to become one run next."""
    for pages in _merged(index).values():
        at, before = 0, 0
        while at < len(pages):
            length = index.runs.get(pages[at], 1)
            if length == before <= MOST // 2:
                return pages[at - length : at + length]
            at, before = at + length, length
    return None


def _merged(index: Index) -> dict[int, list[int]]:
    """By collection. Not those behind one that is not: it would come into the middle of a run."""
    found: dict[int, list[int]] = {}
    unfinished = set()
    for number, page in sorted(index.pages.items()):
        if page.state != "merged":
            unfinished.add(page.collection)
        elif page.collection not in unfinished:
            found.setdefault(page.collection, []).append(number)
    return found


def step(index: Index) -> bool:
    """The rows of one range of terms; False when nothing is due. Wants to be called inside a transaction."""
    pages = due(index)
    if pages is None:
        return False
    db, first, steps = index.db, pages[0], STEPS * len(pages)
    row = db.execute("SELECT steps FROM memory_runs WHERE page = ?", (first,)).fetchone()
    done = row[0] if row else 0
    if not 0 <= done < steps:
        raise DamagedIndexError("a run of pages has impossible steps")
    _put_together(index, pages, (done << KEY_BITS) // steps, (done + 1 << KEY_BITS) // steps)
    if done + 1 < steps:
        db.execute("INSERT OR REPLACE INTO memory_runs VALUES (?, ?, ?)", (first, index.runs.get(first, 1), done + 1))
        return True
    db.executemany("DELETE FROM memory_runs WHERE page = ?", [(page,) for page in pages])
    db.execute("INSERT INTO memory_runs VALUES (?, ?, 0)", (first, len(pages)))
    for page in pages:
        index.runs.pop(page, None)
    index.runs[first] = len(pages)
    index.changed()
    return True


def _put_together(index: Index, pages: list[int], low: int, high: int) -> None:
    """Of the terms with low <= key < high; a term that has one row keeps it."""
    marks = ",".join("?" * len(pages))
    query = (
        "SELECT key, entries, postings FROM memory_postings"  # noqa: S608 - marks only
        f" WHERE key BETWEEN ? AND ? AND key & ? IN ({marks}) ORDER BY key"
    )
    found = index.db.execute(query, (low << PAGE_BITS, (high << PAGE_BITS) - 1, SLOT, *pages)).fetchall()
    new, old = [], []
    for _, same in groupby(found, key=lambda row: row[0] >> PAGE_BITS):
        rows = list(same)
        if len(rows) > 1:
            data = put_together([take_apart(key & SLOT, postings) for key, _, postings in rows])
            new.append((sum(entries for _, entries, _ in rows), data, rows[0][0]))
            old += [(key,) for key, _, _ in rows[1:]]
    index.db.executemany("DELETE FROM memory_postings WHERE key = ?", old)
    index.db.executemany("UPDATE memory_postings SET entries = ?, postings = ? WHERE key = ?", new)
