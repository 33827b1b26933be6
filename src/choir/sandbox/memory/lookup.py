"""Reading the index: the postings of terms, wherever they are, and how many there are of many terms at once."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from choir.sandbox.memory.frequencies import Frequencies, Keys, Sizes
from choir.sandbox.memory.page import SLOT, Page
from choir.sandbox.memory.postings import PAGE_BITS, DamagedIndexError, Part, join, take_apart
from choir.sandbox.memory.term_postings import Postings, TermPostings

CACHED_POSTINGS = 16_000_000
"""Of merged pages, six bytes each."""

_Parts = tuple[tuple[int, Postings], ...]
"""Of one term, by collection."""

_Lists = dict[int, list[Part]]
"""Of one term, by collection; pages ascend."""


class Lookup:
    """``frequencies`` are those of all merged pages.

    Args:
        pages: by number; the caller's own, as it grows.

    Raises:
        DamagedIndexError: the stored index must be rebuilt.
    """

    def __init__(self, db: sqlite3.Connection, pages: dict[int, Page]) -> None:
        self._db = db
        self._pages = pages
        self.begin(Frequencies.sum(()))

    def begin(self, frequencies: Frequencies) -> None:
        """Merged pages changed."""
        self.frequencies = frequencies
        self._merged: dict[int, _Parts] = {}
        self._merged_size = 0

    def postings(self, keys: Sequence[int]) -> list[TermPostings]:
        """All documents that have each term."""
        merged, fresh = self._of_merged(keys), self._of_fresh(keys)
        return [TermPostings.of((*one, *other)) for one, other in zip(merged, fresh, strict=True)]

    def _of_merged(self, keys: Sequence[int]) -> list[_Parts]:
        known = self._merged
        missing = [key for key in keys if key not in known]
        for key, parts in zip(missing, self._read(missing), strict=True):
            # Of all that were read together the arrays are parts of; the cache keeps one without the others.
            known[key] = tuple(
                (collection, Postings(each.docs.copy(), each.counts.copy(), each.first.copy()))
                for collection, each in parts
            )
            self._merged_size += _size(parts)
        found = []
        for key in keys:
            known[key] = parts = known.pop(key)  # the latest used is the last to make room
            found.append(parts)
        while self._merged_size > CACHED_POSTINGS:
            self._merged_size -= _size(known.pop(next(iter(known))))
        return found

    def _read(self, keys: Sequence[int]) -> list[_Parts]:
        merged = {number: page.collection for number, page in self._pages.items() if page.state == "merged"}
        lists: list[_Lists] = [defaultdict(list) for _ in keys]
        for found, key in zip(lists, keys, strict=True):
            low = key << PAGE_BITS
            for row, data in self._db.execute(
                "SELECT key, postings FROM memory_postings WHERE key BETWEEN ? AND ?", (low, low | SLOT)
            ).fetchall():
                collection = merged.get(row & SLOT)
                if collection is None:  # its segments answer
                    continue
                part = take_apart(row & SLOT, data)
                if any(merged.get(page) != collection for page in part[0]):
                    raise DamagedIndexError("a row has pages that are not merged")
                found[collection].append(part)
        return _joined(lists)

    def _of_fresh(self, keys: Sequence[int]) -> list[_Parts]:
        lists: list[_Lists] = [defaultdict(list) for _ in keys]
        numbers = np.array(keys, np.int64)
        for number, page in self._pages.items():
            for segment in page.segments.values():
                for index, part in segment.find(numbers, number):
                    lists[index][page.collection].append(part)
            if page.tail.size:
                for index, part in page.tail.find(keys, number):
                    lists[index][page.collection].append(part)
        return _joined(lists)

    def having(self, keys: Keys) -> Sizes:
        """How many documents have each term; without reading postings."""
        sizes = self.frequencies.count(keys)
        for page in self._pages.values():
            for segment in page.segments.values():
                sizes += segment.count(keys)
            if page.tail.size:
                sizes += np.array([page.tail.having(key) for key in keys.tolist()], np.int64)
        return sizes


def _joined(lists: Sequence[_Lists]) -> list[_Parts]:
    whole = iter(join([parts for by_collection in lists for parts in by_collection.values()]))
    return [tuple((collection, Postings(*next(whole))) for collection in by_collection) for by_collection in lists]


def _size(parts: _Parts) -> int:
    return sum(len(each) for _, each in parts) + 1
