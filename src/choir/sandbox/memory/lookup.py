"""Reading the index: the postings of a term, wherever they are, and how many there are of many terms at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import numpy as np

from choir.sandbox.memory.documents import Documents
from choir.sandbox.memory.frequencies import Keys, Sizes
from choir.sandbox.memory.page import SLOT, Page
from choir.sandbox.memory.postings import PAGE_BITS, Listed, decode_pages, gather
from choir.sandbox.memory.term_postings import Postings, TermPostings

CACHED_POSTINGS = 16_000_000
"""Of merged pages, eight bytes each."""

CACHED_FRESH = 1_000_000
"""Of pages that still fill."""


CACHED_SIZES = 200_000


class Lookup:
    """
    Args:
        pages: by number; the caller's own, as it grows.

    Raises:
        DamagedIndexError: the stored index must be rebuilt.
    """

    def __init__(self, db: sqlite3.Connection, pages: dict[int, Page]) -> None:
        self._db = db
        self._pages = pages
        self._documents = Documents()
        self._merged: dict[int, TermPostings] = {}
        self._merged_size = 0
        self._sizes: dict[int, int] = {}
        self._fresh: dict[int, TermPostings] = {}
        self._fresh_size = 0

    def begin(self, documents: Documents) -> None:
        """The index was loaded anew."""
        self._documents = documents
        self.forget()

    def forget(self) -> None:
        """After anything but an addition."""
        self._merged.clear()
        self._merged_size = 0
        self._sizes.clear()
        self.forget_fresh()

    def forget_fresh(self) -> None:
        self._fresh.clear()
        self._fresh_size = 0

    def added(self, keys: Iterable[int]) -> None:
        """A document with these terms."""
        if self._fresh:
            for key in keys:
                if stale := self._fresh.pop(key, None):
                    self._fresh_size -= len(stale)

    def postings(self, key: int) -> TermPostings:
        """All documents that have a term."""
        merged, fresh = self._of_merged(key), self._of_fresh(key)
        if not fresh.size:
            return merged
        parts = dict(merged.parts)
        for collection, own in fresh.parts.items():
            parts[collection] = (*parts.get(collection, ()), *own)
        return TermPostings(parts, merged.size + fresh.size)

    def _of_merged(self, key: int) -> TermPostings:
        found = self._merged.get(key)
        if found is not None:
            self._merged[key] = self._merged.pop(key)  # the latest used is the last to make room
            return found
        low = key << PAGE_BITS
        by_collection: dict[int, list[tuple[int, bytes]]] = {}
        for row, data in self._db.execute(
            "SELECT key, postings FROM memory_postings WHERE key BETWEEN ? AND ?", (low, low | SLOT)
        ).fetchall():
            page = self._pages.get(row & SLOT)
            if page is not None and page.state == "merged":
                by_collection.setdefault(page.collection, []).append((row & SLOT, data))
        found = TermPostings.of(
            (collection, Postings.of(decode_pages(rows), self._documents.length))
            for collection, rows in by_collection.items()
        )
        self._merged[key] = found
        self._merged_size += len(found)
        while self._merged_size > CACHED_POSTINGS:
            self._merged_size -= len(self._merged.pop(next(iter(self._merged))))
        return found

    def _of_fresh(self, key: int) -> TermPostings:
        found = self._fresh.get(key)
        if found is not None:
            return found
        lists: dict[int, list[tuple[int, Listed]]] = {}
        for number, page in self._pages.items():
            if page.segments or page.tail.size:
                own = [each for segment in page.segments.values() if (each := segment.find(key))]
                if latest := page.tail.find(key):
                    own.append(latest)
                lists.setdefault(page.collection, []).extend((number, each) for each in own)
        found = TermPostings.of(
            (collection, Postings.of(gather(own), self._documents.length)) for collection, own in lists.items() if own
        )
        self._fresh[key] = found
        self._fresh_size += len(found) + 1
        if self._fresh_size > CACHED_FRESH:
            self.forget_fresh()
        return found

    def having(self, keys: Keys) -> Sizes:
        """How many documents have each term; without reading postings."""
        listed = keys.tolist()
        unknown = np.array([key for key in listed if key not in self._sizes], np.int64)
        if len(unknown):
            if len(self._sizes) > CACHED_SIZES:
                self._sizes.clear()
                unknown = keys
            sizes = np.zeros(len(unknown), np.int64)
            for page in self._pages.values():
                if page.frequencies is not None:
                    sizes += page.frequencies.count(unknown)
            self._sizes.update(zip(unknown.tolist(), sizes.tolist(), strict=True))
        sizes = np.array([self._sizes[key] for key in listed], np.int64)
        for page in self._pages.values():
            for segment in page.segments.values():
                sizes += segment.count(keys)
            if page.tail.size:
                sizes += np.array([page.tail.having(key) for key in listed], np.int64)
        return sizes
