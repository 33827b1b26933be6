"""The derived index: what is in memory of it, and how it is kept in SQLite.

A collection's documents fill pages of 65,536. The latest up to 2,048 of a page are a *tail* in memory, made anew from
the items at start; then they become an immutable *segment* (one row), and four small segments a larger one; a full
page's segments are merged into one row per term, in 64 small steps, so that no ingest waits for it; in the same way two
rows of a term become one, see ``compaction``. A term's postings are its rows, segments and tails together: what is
ingested is found at once, and each stage is committed together with the items it covers or after them.
"""

from __future__ import annotations

import sqlite3
import zlib

from choir.sandbox.memory import schema
from choir.sandbox.memory.documents import Documents
from choir.sandbox.memory.frequencies import Frequencies
from choir.sandbox.memory.lookup import Lookup
from choir.sandbox.memory.page import SLOT, Page
from choir.sandbox.memory.postings import PAGE, PAGE_BITS, DamagedIndexError, encode
from choir.sandbox.memory.segment import Segment, join
from choir.sandbox.memory.tail import Tail
from choir.sandbox.memory.tokenize import Tokenizer

SEGMENT = 2048
JOINED = 4
"""Small segments that become a larger one: a search looks into each."""

CAPACITY = PAGE
"""Documents of a full page."""

STEPS = 64
"""Of a merge. Stored are the steps done: another number needs another ``fingerprint``."""

KEY_BITS = 47


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
        self.runs: dict[int, int] = {}
        """How many pages have their rows in one, by the first of them; 1 when it is not here."""
        self.lookup = Lookup(db, self.pages)

    # Reading

    def load(self) -> None:
        """All from the database, as of now."""
        self.documents = Documents()
        self.pages.clear()
        self.open = {}
        merged: list[Frequencies] = []
        self.generation = schema.read_meta(self.db, "generation")
        rows = self.db.execute(
            "SELECT page, collection, state, step, columns, frequencies FROM memory_pages ORDER BY page"
        )
        for page, collection, state, step, columns, frequencies in rows.fetchall():
            self._load_page(page, Page(collection, state, step), columns or b"")
            if state == "merged":
                merged.append(Frequencies.unpack(frequencies or b""))
        self.runs = dict(self.db.execute("SELECT page, pages FROM memory_runs").fetchall())
        if min(self.runs.values(), default=1) < 1:
            raise DamagedIndexError("a run has no pages")
        self.lookup.begin(Frequencies.sum(merged))
        self.load_new()
        self.documents.derive()

    def _load_page(self, number: int, page: Page, columns: bytes) -> None:
        self.pages[number] = page
        self.documents.add_page(number, page.collection)
        start = number << PAGE_BITS
        if page.state == "merged":
            page.size = self.documents.load(start, columns)
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

    def flush(self) -> None:
        """Make segments of the tails that are long enough."""
        for number in list(self.open.values()):
            page = self.pages[number]
            if page.size - page.tail.start >= SEGMENT or page.size == CAPACITY:
                self.flush_page(number, page)

    def flush_page(self, number: int, page: Page) -> None:
        """Make a segment of the tail of a page."""
        start, end = page.tail.start, page.size
        page.segments[start] = page.tail.segment()
        page.tail = Tail(end)
        small = [each for each in range(end - JOINED * SEGMENT, end, SEGMENT) if each in page.segments]
        if end % (JOINED * SEGMENT) == 0 and len(small) == JOINED:
            start = small[0]
            page.segments[start] = join(page.segments[each] for each in small)
            for each in small[1:]:
                del page.segments[each]
            self.db.execute("DELETE FROM memory_segments WHERE page = ? AND start >= ?", (number, start))
        base = number << PAGE_BITS
        self.db.execute(
            "INSERT INTO memory_segments VALUES (?, ?, ?, ?)",
            (number, start, self.documents.columns(base + start, base + end), page.segments[start].pack()),
        )
        if end == CAPACITY:
            page.state = "merging"
            if self.open.get(page.collection) == number:
                del self.open[page.collection]
            self.db.execute("UPDATE memory_pages SET state = 'merging' WHERE page = ?", (number,))
        self.changed()

    def merging(self) -> int | None:
        """A page that waits for ``merge``."""
        return next((number for number, page in self.pages.items() if page.state == "merging"), None)

    def merge(self, number: int) -> None:
        """One step: the rows of one range of terms."""
        page = self.pages[number]
        low, high = ((each << KEY_BITS) // STEPS for each in (page.step, page.step + 1))
        part = join(each.between(low, high) for each in page.segments.values())
        rows = [(key << PAGE_BITS | number, len(listed.slots), encode(listed)) for key, listed in part.lists()]
        self.db.executemany("INSERT OR REPLACE INTO memory_postings VALUES (?, ?, ?)", rows)
        page.step += 1
        checksum = sum(checksum_of(row, data) for row, _, data in rows)  # whatever rows they are put into later
        self.db.execute(
            "UPDATE memory_pages SET step = ?, entries = entries + ?, checksum = checksum + ? WHERE page = ?",
            (page.step, len(part.slots), checksum, number),
        )
        if page.step == STEPS:
            self._finish_merge(number, page)
        self.changed()

    def _finish_merge(self, number: int, page: Page) -> None:
        base = number << PAGE_BITS
        frequencies = Frequencies.of(page.segments.values())
        self.db.execute(
            "UPDATE memory_pages SET state = 'merged', columns = ?, frequencies = ? WHERE page = ?",
            (self.documents.columns(base, base + CAPACITY), frequencies.pack(), number),
        )
        self.db.execute("DELETE FROM memory_segments WHERE page = ?", (number,))
        page.state = "merged"
        page.segments.clear()
        page.tail = Tail(CAPACITY)
        self.lookup.begin(Frequencies.sum((self.lookup.frequencies, frequencies)))

    def changed(self) -> None:
        """Tell other processes to load anew."""
        self.generation += 1
        schema.write_meta(self.db, "generation", self.generation)

    def stale(self) -> list[int]:
        """The pages that wait to be made anew."""
        return [number for number, page in self.pages.items() if page.state == "stale"]


def checksum_of(row: int, data: bytes) -> int:
    """Of one term in one page: ``term << 16 | page`` and its list as ``encode`` gives it."""
    return zlib.crc32(data, (row ^ row >> 32) & 0xFFFFFFFF)
