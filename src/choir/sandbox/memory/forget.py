"""Forgetting: occurrences leave their threads, items go with the last of them, the index with the items."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from choir.sandbox.memory.documents import NONE
from choir.sandbox.memory.index import Index
from choir.sandbox.memory.removal import remove, write_columns

_CHUNK = 500


class Forgetter:
    """For one transaction of the caller's."""

    def __init__(self, db: sqlite3.Connection, index: Index) -> None:
        self._db = db
        self._index = index
        self._changed: set[int] = set()

    def items(self, docs: Iterable[int]) -> int:
        """With all their occurrences. Returns how many are gone."""
        gone = set(docs)
        for doc in gone:
            for repeat in list(self._index.documents.repeats.get(doc, ())):
                self._drop_repeat(repeat)
        return self._finish(gone)

    def occurrences(self, condition: str, value: str | int) -> int:
        """Those that a condition on ``source_ref`` or ``created_at`` holds for. Returns how many items are gone."""
        db, documents = self._db, self._index.documents
        repeats = f"SELECT repeat FROM memory_repeats WHERE {condition}"  # noqa: S608 - a constant of the caller's
        for (repeat,) in db.execute(repeats, (value,)).fetchall():
            self._drop_repeat(repeat)
        items = f"SELECT doc FROM memory_items WHERE {condition}"  # noqa: S608
        docs = {doc for (doc,) in db.execute(items, (value,))}
        for doc in sorted(docs & documents.repeats.keys()):
            self._promote(doc, documents.repeats[doc][0])
            docs.discard(doc)
        return self._finish(docs)

    def _finish(self, docs: set[int]) -> int:
        documents = self._index.documents
        ordered = sorted(docs)
        for at in range(0, len(ordered), _CHUNK):
            part = ordered[at : at + _CHUNK]
            marks = ",".join("?" * len(part))
            query = f"SELECT doc, content FROM memory_items WHERE doc IN ({marks})"  # noqa: S608 - marks only
            contents = dict(self._db.execute(query, part).fetchall())
            for doc in part:
                self._unlink(doc)
            remove(self._index, contents)
            self._db.execute(f"DELETE FROM memory_items WHERE doc IN ({marks})", part)  # noqa: S608
        self._db.execute("DELETE FROM memory_threads WHERE last IS NULL")
        documents.respan()
        write_columns(self._index, self._changed | docs)
        return len(docs)

    def _drop_repeat(self, repeat: int) -> None:
        self._unlink(~repeat)
        self._db.execute("DELETE FROM memory_repeats WHERE repeat = ?", (repeat,))
        self._index.documents.drop_repeat(repeat)

    def _promote(self, doc: int, repeat: int) -> None:
        """A repeat becomes the item's first occurrence."""
        documents = self._index.documents
        self._unlink(doc)
        before, after = documents.around(~repeat)
        source_ref, thread, created = self._db.execute(
            "SELECT source_ref, thread, created_at FROM memory_repeats WHERE repeat = ?", (repeat,)
        ).fetchone()
        self._db.execute(
            "UPDATE memory_items SET source_ref = ?, thread = ?, created_at = ? WHERE doc = ?",
            (source_ref, thread, created, doc),
        )
        self._db.execute("UPDATE memory_threads SET last = ? WHERE last = ?", (doc, ~repeat))
        self._set_previous(doc, before)
        if after != NONE:
            self._set_previous(after, doc)
        self._db.execute("DELETE FROM memory_repeats WHERE repeat = ?", (repeat,))
        documents.created[doc] = created
        documents.drop_repeat(repeat)
        self._changed.add(doc)

    def _unlink(self, link: int) -> None:
        """Take an occurrence out of its thread; those before and after become neighbours."""
        documents = self._index.documents
        before, after = documents.around(link)
        if after != NONE:
            self._set_previous(after, before)
        else:
            if before != NONE:
                documents.end(before)
            last = None if before == NONE else before
            self._db.execute("UPDATE memory_threads SET last = ? WHERE last = ?", (last, link))
        documents.link(link, NONE)
        documents.end(link)

    def _set_previous(self, link: int, previous: int) -> None:
        value = None if previous == NONE else previous
        if link >= 0:
            self._db.execute("UPDATE memory_items SET previous = ? WHERE doc = ?", (value, link))
            self._changed.add(link)
        else:
            self._db.execute("UPDATE memory_repeats SET previous = ? WHERE repeat = ?", (value, ~link))
        self._index.documents.link(link, previous)
