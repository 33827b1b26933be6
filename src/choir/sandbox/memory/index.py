"""The derived index: what is in memory of it, and how it is kept in SQLite.

A collection's documents fill pages of 65,536. The latest up to 2,048 of a page are a *tail* in memory, made anew from
the items at start; then they become an immutable *segment* (one row); a full page's 32 segments are merged into one
row per term, in 64 small steps, so that no ingest waits for it. A term's postings are its rows, segments and tails
together: what is ingested is found at once, and each stage is committed together with the items it covers or after
them.
"""

from __future__ import annotations

import sqlite3
import zlib
from dataclasses import dataclass, field

from choir.sandbox.memory import schema
from choir.sandbox.memory.documents import Documents
from choir.sandbox.memory.postings import (
    PAGE,
    PAGE_BITS,
    DamagedIndexError,
    Listed,
    Postings,
    Segment,
    Tail,
    decode_pages,
    encode,
    gather,
    join,
    union,
)
from choir.sandbox.memory.tokenize import Tokenizer

SEGMENT = 2048
CAPACITY = PAGE
"""Documents of a full page."""

STEPS = 64
KEY_BITS = 47
CACHED_POSTINGS = 16_000_000
"""Six bytes each; what a store of a million items comes to use."""

CACHED_SIZES = 100_000

SLOT = PAGE - 1


@dataclass
class Page:
    """``state``: open (filling), merging (full; its segments still answer), merged (its rows answer) or stale (to be
    made anew). ``size`` is the next free slot."""

    collection: int
    state: str
    step: int = 0
    size: int = 0
    segments: dict[int, Segment] = field(default_factory=dict)
    tail: Tail = field(default_factory=lambda: Tail(0))


class Index:
    """Methods that write want to be called inside a transaction; after a failed one call ``load``.

    Raises:
        DamagedIndexError: from all that read; the stored index must be rebuilt.
    """

    def __init__(self, db: sqlite3.Connection, tokenizer: Tokenizer) -> None:
        self.db = db
        self.tokenizer = tokenizer
        self.documents = Documents()
        self.pages: dict[int, Page] = {}
        self.generation = 0
        self.open: dict[int, int] = {}
        self._rows: dict[int, Postings] = {}
        self._gathered: dict[int, Postings] = {}
        self._having: dict[int, int] = {}
        self._cached = 0

    # Reading

    def load(self) -> None:
        """All from the database, as of now."""
        self.documents = Documents()
        self.pages = {}
        self.open = {}
        self.forget_cached()
        self.generation = schema.read_meta(self.db, "generation")
        for page, collection, state, step, columns in self.db.execute(
            "SELECT page, collection, state, step, columns FROM memory_pages ORDER BY page"
        ).fetchall():
            self._load_page(page, Page(collection, state, step), columns)
        self.load_new()
        self.documents.derive()

    def _load_page(self, number: int, page: Page, columns: bytes | None) -> None:
        self.pages[number] = page
        self.documents.add_page(number, page.collection)
        start = number << PAGE_BITS
        if page.state == "stale":
            page.size = CAPACITY
            return
        if page.state == "merged":
            page.size = self.documents.load(start, columns or b"")
        for at, columns, postings in self.db.execute(
            "SELECT start, columns, postings FROM memory_segments WHERE page = ? ORDER BY start", (number,)
        ):
            if at != page.size:
                raise DamagedIndexError("a segment is missing")
            page.segments[at] = Segment.unpack(postings)
            page.size += self.documents.load(start + at, columns)
        page.tail = Tail(page.size)
        if page.state == "open":
            self.open[page.collection] = number

    def load_new(self) -> None:
        """What was stored since, if no segment was made since."""
        # Repeats first: links lead to them as well as to documents, and the documents' places are there already.
        known = self.documents.repeat_count
        for repeat, doc, previous in self.db.execute(
            "SELECT repeat, doc, previous FROM memory_repeats WHERE repeat >= ? ORDER BY repeat", (known,)
        ):
            self.documents.add_repeat(repeat, doc, previous)
        for number, page in self.pages.items():
            if page.state != "open":
                continue
            first = (number << PAGE_BITS) + page.size
            for doc, content, created, previous in self.db.execute(
                "SELECT doc, content, created_at, previous FROM memory_items WHERE doc BETWEEN ? AND ? ORDER BY doc",
                (first, (number << PAGE_BITS) + SLOT),
            ):
                self.add(doc, content, created, previous)

    def postings(self, key: int) -> Postings:
        """All documents that have a term."""
        found = self._gathered.get(key)
        if found is None:
            found = self._merged(key)
            lists: list[tuple[int, Listed]] = []
            for number, page in self.pages.items():
                for segment in page.segments.values():
                    if listed := segment.find(key):
                        lists.append((number, listed))
                if listed := page.tail.find(key):
                    lists.append((number, listed))
            if lists:
                found = union(found, gather(lists))
                self._remember(self._gathered, key, found)
        return found

    def _merged(self, key: int) -> Postings:
        """Those of the merged pages; the rest is in memory anyway."""
        found = self._rows.get(key)
        if found is None:
            low = key << PAGE_BITS
            query = "SELECT key, postings FROM memory_postings WHERE key BETWEEN ? AND ?"
            found = decode_pages(
                [
                    (row & SLOT, data)
                    for row, data in self.db.execute(query, (low, low | SLOT))
                    if self._answers(row & SLOT)
                ]
            )
            self._remember(self._rows, key, found)
        else:
            self._rows[key] = self._rows.pop(key)  # the latest used is the last to make room
        return found

    def _remember(self, where: dict[int, Postings], key: int, found: Postings) -> None:
        """The oldest make room."""
        where[key] = found
        self._cached += len(found)
        while self._cached > CACHED_POSTINGS:
            oldest = self._gathered or self._rows
            self._cached -= len(oldest.pop(next(iter(oldest))))

    def having(self, key: int) -> int:
        """How many documents have a term; without reading its postings."""
        size = self._having.get(key)
        if size is None:
            low = key << PAGE_BITS
            size = 0
            for row, entries in self.db.execute(
                "SELECT key, entries FROM memory_postings WHERE key BETWEEN ? AND ?", (low, low | SLOT)
            ):
                if self._answers(row & SLOT):
                    size += entries
            for page in self.pages.values():
                for listed in (*(each.find(key) for each in page.segments.values()), page.tail.find(key)):
                    size += len(listed.slots) if listed else 0
            if len(self._having) >= CACHED_SIZES:
                self._having.clear()
            self._having[key] = size
        return size

    def _answers(self, page: int) -> bool:
        found = self.pages.get(page)
        return found is not None and found.state == "merged"

    def forget_cached(self) -> None:
        """After anything but an addition."""
        self._gathered.clear()
        self._rows.clear()
        self._having.clear()
        self._cached = 0

    # Growing

    def allocate(self, collection: int) -> int:
        """The number of the next document."""
        number = self.open.get(collection)
        if number is None:
            number = max(self.pages, default=-1) + 1
            self.db.execute(
                "INSERT INTO memory_pages (page, collection, state) VALUES (?, ?, 'open')", (number, collection)
            )
            self.changed()
            self.pages[number] = Page(collection, "open")
            self.documents.add_page(number, collection)
            self.open[collection] = number
        return (number << PAGE_BITS) + self.pages[number].size

    def add(self, doc: int, content: str, created: int, previous: int | None) -> None:
        """Into the tail."""
        keys = self.tokenizer.keys(content)
        page = self.pages[doc >> PAGE_BITS]
        page.tail.add(doc & SLOT, keys)
        page.size = (doc & SLOT) + 1
        self.documents.add(doc, len(keys), content.rstrip().endswith(("?", "？")), created, previous)
        if self._gathered or self._having:
            for key in keys:
                self._having.pop(key, None)
                if stale := self._gathered.pop(key, None):
                    self._cached -= len(stale)

    def flush(self) -> None:
        """Make segments of the tails that are long enough."""
        for number in list(self.open.values()):
            page = self.pages[number]
            if page.size - page.tail.start >= SEGMENT or page.size == CAPACITY:
                self.flush_page(number, page)

    def flush_page(self, number: int, page: Page) -> None:
        """Make a segment of the tail of a page."""
        start, end = page.tail.start, page.size
        segment = page.tail.segment()
        base = number << PAGE_BITS
        self.db.execute(
            "INSERT INTO memory_segments VALUES (?, ?, ?, ?)",
            (number, start, self.documents.columns(base + start, base + end), segment.pack()),
        )
        page.segments[start] = segment
        page.tail = Tail(end)
        if end == CAPACITY:
            page.state = "merging"
            del self.open[page.collection]
            self.db.execute("UPDATE memory_pages SET state = 'merging' WHERE page = ?", (number,))
        self.changed()

    def merging(self) -> int | None:
        """A page that waits for ``merge``."""
        return next((number for number, page in self.pages.items() if page.state == "merging"), None)

    def merge(self, number: int) -> None:
        """One step: the rows of one range of terms."""
        page = self.pages[number]
        low, high = (each << KEY_BITS - 6 for each in (page.step, page.step + 1))
        part = join(each.between(low, high) for each in page.segments.values())
        rows = [(key << PAGE_BITS | number, len(listed.slots), encode(listed)) for key, listed in part.lists()]
        self.db.executemany("INSERT OR REPLACE INTO memory_postings VALUES (?, ?, ?)", rows)
        page.step += 1
        checksum = sum(checksum_of(row, data) for row, _, data in rows)
        self.db.execute(
            "UPDATE memory_pages SET step = ?, entries = entries + ?, checksum = checksum + ? WHERE page = ?",
            (page.step, len(part.slots), checksum, number),
        )
        if page.step == STEPS:
            base = number << PAGE_BITS
            self.db.execute(
                "UPDATE memory_pages SET state = 'merged', columns = ? WHERE page = ?",
                (self.documents.columns(base, base + CAPACITY), number),
            )
            self.db.execute("DELETE FROM memory_segments WHERE page = ?", (number,))
            page.state = "merged"
            page.segments.clear()
            page.tail = Tail(CAPACITY)
            self.forget_cached()
        self.changed()

    def changed(self) -> None:
        """Tell other processes to load anew."""
        self.generation += 1
        schema.write_meta(self.db, "generation", self.generation)

    def stale(self) -> list[int]:
        """The pages that wait to be made anew."""
        return [number for number, page in self.pages.items() if page.state == "stale"]


def checksum_of(row: int, data: bytes) -> int:
    return zlib.crc32(data, (row ^ row >> 32) & 0xFFFFFFFF)
