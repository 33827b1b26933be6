"""What the memory is asked: searches, contexts, neighbours, reasons."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from choir.sandbox.memory import context
from choir.sandbox.memory.documents import NONE
from choir.sandbox.memory.explain import explain
from choir.sandbox.memory.file import MemoryFile
from choir.sandbox.memory.model import (
    COLLECTIONS,
    Expanded,
    Explanation,
    Found,
    Item,
    MemoryStoreError,
    Occurrence,
    Pack,
)
from choir.sandbox.memory.postings import PAGE_BITS
from choir.sandbox.memory.ranking import relevance
from choir.sandbox.memory.search import FINALISTS, Query, Searcher

MAX_RESULTS = FINALISTS

_ITEM = (
    "SELECT i.doc, i.item_id, i.collection, i.source_ref, t.name, i.created_at, i.content, i.chunk_hash"
    " FROM memory_items i LEFT JOIN memory_threads t USING (thread)"
)

_EARLIEST, _LATEST = -62_135_596_800, 253_402_300_799

_Row = tuple[int, str, str | None, int]
"""An occurrence: link, source, thread, Unix milliseconds."""


class Recall:
    """Reads a memory file."""

    def __init__(self, file: MemoryFile) -> None:
        self._file = file
        self._searcher = Searcher(file.index, file.tokenizer, self._contents)

    def search(self, collection: str, query: str, k: int, now: float | None = None) -> list[Found]:
        """The best of one collection, best first; fewer than ``k`` when fewer have anything of the query. At most
        ``MAX_RESULTS``.

        Raises:
            MemoryStoreError: ``unknown_collection``, ``bad_limit`` or ``bad_time``.
        """
        return self._file.read(lambda: self._found(query, [collection_number(collection)], _limit(k), now))

    def snapshot(self, query: str, max_items: int, now: float | None = None) -> list[Found]:
        """The best of all collections on one scale; the same content in two of them counts once.

        Raises:
            MemoryStoreError: ``bad_limit`` or ``bad_time``.
        """
        return self._file.read(lambda: self._found(query, range(len(COLLECTIONS)), _limit(max_items), now))

    def context_pack(self, objective: str, token_budget: int, now: float | None = None) -> Pack:
        """The best of all collections that fit, see ``context``.

        Raises:
            MemoryStoreError: ``bad_limit`` or ``bad_time``.
        """
        if token_budget < 0:
            raise MemoryStoreError("bad_limit", "A token budget must not be negative.")
        found = self.snapshot(objective, MAX_RESULTS, now)
        return context.pack((each.item for each in found), token_budget)

    def _found(self, text: str, collections: Iterable[int], k: int, now: float | None) -> list[Found]:
        query = self._query(text, now)
        created = self._file.index.documents.created
        ranked: list[tuple[int, float]] = []
        for collection in collections:
            if self._file.index.documents.totals.get(collection):
                ranked += self._searcher.order(self._searcher.rank(query, collection), k)
        ranked.sort(key=lambda each: (-each[1], -int(created[each[0]]), -each[0]))
        found: list[Found] = []
        seen: set[str] = set()
        while ranked and len(found) < k:
            part, ranked = ranked[:k], ranked[k:]
            items = self.items([doc for doc, _ in part])
            for doc, score in part:
                item = items[doc]
                if item.chunk_hash not in seen and len(found) < k:
                    seen.add(item.chunk_hash)
                    found.append(Found(item, relevance(score, query.ideal)))
        return found

    def expand(self, item_ids: Sequence[str], neighbors_per_item: int) -> list[Expanded]:
        """Each item with its occurrences and up to so many items before and after each of them in its thread.

        Raises:
            MemoryStoreError: ``unknown_item`` or ``bad_limit``.
        """
        if not 0 <= neighbors_per_item <= MAX_RESULTS:
            raise MemoryStoreError("bad_limit", f"Neighbours per item are between 0 and {MAX_RESULTS}.")
        return self._file.read(lambda: [self._expanded(self.doc(each), neighbors_per_item) for each in item_ids])

    def _expanded(self, doc: int, reach: int) -> Expanded:
        documents = self._file.index.documents
        item = self.items([doc])[doc]
        first: _Row = (doc, item.source_ref, item.thread, round(item.created_at * 1000))
        rows = [first, *(self._repeat(each) for each in documents.repeats.get(doc, ()))]
        occurrences = []
        for link, source_ref, thread, created in rows:
            before, after = (self._walk(link, reach, forward) for forward in (False, True))
            items = self.items([*before, *after])
            occurrences.append(
                Occurrence(
                    source_ref,
                    thread,
                    created / 1000,
                    tuple(items[each] for each in reversed(before)),
                    tuple(items[each] for each in after),
                )
            )
        return Expanded(item, tuple(occurrences))

    def _repeat(self, repeat: int) -> _Row:
        source_ref, thread, created = self._file.db.execute(
            "SELECT source_ref, name, created_at FROM memory_repeats LEFT JOIN memory_threads USING (thread)"
            " WHERE repeat = ?",
            (repeat,),
        ).fetchone()
        return ~repeat, source_ref, thread, created

    def _walk(self, link: int, reach: int, forward: bool) -> list[int]:
        documents = self._file.index.documents
        found: list[int] = []
        while len(found) < reach:
            if link >= 0:
                link = int((documents.following if forward else documents.previous)[link])
            else:
                link = int((documents.repeat_following if forward else documents.repeat_previous)[~link])
            if link == NONE:
                break
            found.append(link if link >= 0 else int(documents.repeat_doc[~link]))
        return found

    def explain(self, item_id: str, query: str, now: float | None = None) -> Explanation:
        """Why the item ranks where it does.

        Raises:
            MemoryStoreError: ``unknown_item`` or ``bad_time``.
        """

        def work() -> Explanation:
            doc = self.doc(item_id)
            parsed = self._query(query, now)
            collection = self._file.index.documents.collection_of_page[doc >> PAGE_BITS]
            ranked, scored = self._searcher.rank_and_score(parsed, collection, doc)
            return explain(doc, ranked, scored, self._file.index.documents, self.items)

        return self._file.read(work)

    def _query(self, text: str, now: float | None) -> Query:
        return self._searcher.query(text, milliseconds(now))

    def doc(self, item_id: str) -> int:
        """
        Raises:
            MemoryStoreError: ``unknown_item``.
        """
        row = self._file.db.execute("SELECT doc FROM memory_items WHERE item_id = ?", (item_id,)).fetchone()
        if row is None:
            raise MemoryStoreError("unknown_item", f"There is no item {item_id[:64]!r}; it may have been forgotten.")
        return int(row[0])

    def items(self, docs: Sequence[int]) -> dict[int, Item]:
        """By document number."""
        return {
            doc: Item(item_id, COLLECTIONS[collection], source_ref, thread, created / 1000, content, digest.hex())
            for doc, item_id, collection, source_ref, thread, created, content, digest in self._file.db.execute(
                f"{_ITEM} WHERE doc IN ({_marks(docs)})", list(docs)
            )
        }

    def _contents(self, docs: Sequence[int]) -> list[str]:
        found = dict(
            self._file.db.execute(
                f"SELECT doc, content FROM memory_items WHERE doc IN ({_marks(docs)})",  # noqa: S608 - marks only
                list(docs),
            )
        )
        return [found[doc] for doc in docs]


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def collection_number(name: str) -> int:
    """
    Raises:
        MemoryStoreError: ``unknown_collection``.
    """
    if name not in COLLECTIONS:
        raise MemoryStoreError(
            "unknown_collection", f"There is no collection {name[:64]!r}.", f"There are {', '.join(COLLECTIONS)}."
        )
    return COLLECTIONS.index(name)


def milliseconds(at: float | None) -> int:
    """Of Unix seconds; None is now.

    Raises:
        MemoryStoreError: ``bad_time``.
    """
    if at is None:
        return time.time_ns() // 1_000_000
    if not _EARLIEST <= at <= _LATEST:
        raise MemoryStoreError("bad_time", "A time is in Unix seconds, from the year 1 to 9999.")
    return round(at * 1000)


def _limit(k: int) -> int:
    if not k >= 0:
        raise MemoryStoreError("bad_limit", "A number of results must not be negative.")
    return min(k, MAX_RESULTS)
