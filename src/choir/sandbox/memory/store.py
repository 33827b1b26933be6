"""The memory store: items in SQLite, the index over them, and what can be asked of both.

For one thread at a time. Other processes may have the same file open, and write: each operation first takes over what
they committed.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from choir.ids import new_id
from choir.sandbox.memory import schema
from choir.sandbox.memory.file import MemoryFile
from choir.sandbox.memory.forget import Forgetter
from choir.sandbox.memory.model import COLLECTIONS, MAX_CONTENT, Draft, Ingested, MemoryStoreError, Stats
from choir.sandbox.memory.recall import Recall, collection_number, milliseconds
from choir.sandbox.memory.upkeep import dump, stored_bytes, verify

MERGE_EVERY = 32
"""Ingested items between two steps of a merge."""

_EXPORT = """
SELECT i.collection, i.item_id, i.content, i.chunk_hash, o.source_ref, t.name, o.created_at
FROM (
  SELECT doc, source_ref, thread, created_at, -1 AS repeat FROM memory_items
  UNION ALL SELECT doc, source_ref, thread, created_at, repeat FROM memory_repeats
) o JOIN memory_items i ON i.doc = o.doc LEFT JOIN memory_threads t ON t.thread = o.thread
ORDER BY o.repeat, o.doc
"""


class MemoryStore(Recall):
    """
    Args:
        path: the SQLite file; made when missing, may hold other tables.

    Raises:
        MemoryStoreError: here and from every method: ``store_unusable``, ``store_corrupt``, ``store_too_new``,
            ``store_busy``, ``no_space``, and what the method names. From all that look something up in a store of more
            than ``file.AT_ONCE`` items ``rebuilding``, see ``RebuildingError``, as long as ``maintain`` makes its index
            anew: it was damaged, or another version made it.
    """

    def __init__(self, path: str) -> None:
        super().__init__(MemoryFile(path))
        self._unmerged = 0

    def close(self) -> None:
        self._file.close()

    # Remembering

    def ingest(self, drafts: Sequence[Draft]) -> list[Ingested]:
        """All of them or, on an error, none. What is returned survives a killed process and is found from now on.

        Raises:
            MemoryStoreError: ``unknown_collection``, ``content_too_long``, ``content_not_text`` or ``bad_time``.
        """
        prepared = [
            (draft, COLLECTIONS.index(draft.collection), _hash(draft), milliseconds(draft.created_at))
            for draft in map(_checked, drafts)
        ]
        results = self._file.write(lambda: [self._ingest(*each) for each in prepared], meanwhile=True)
        self._unmerged += len(drafts)
        while self._unmerged >= MERGE_EVERY:
            self._unmerged -= MERGE_EVERY
            if not self._maintain_later():
                self._unmerged %= MERGE_EVERY
        return results

    def _maintain_later(self) -> bool:
        """``maintain`` for who has something else to answer: what is wrong is told by the next call."""
        try:
            return self.maintain()
        except MemoryStoreError:
            return False

    def _ingest(self, draft: Draft, collection: int, digest: bytes, created: int) -> Ingested:
        db, documents = self._file.db, self._file.index.documents
        known = db.execute(
            "SELECT doc, item_id FROM memory_items WHERE collection = ? AND chunk_hash = ?", (collection, digest)
        ).fetchone()
        thread, previous = self._thread(collection, draft.thread)
        if known is not None:
            repeat = documents.repeat_count
            db.execute(
                "INSERT INTO memory_repeats VALUES (?, ?, ?, ?, ?, ?)",
                (repeat, known[0], draft.source_ref, thread, previous, created),
            )
            documents.add_repeat(repeat, known[0], previous)
            link = ~repeat
            item_id = known[1]
        else:
            link = self._file.index.allocate(collection)
            item_id = new_id()
            db.execute(
                "INSERT INTO memory_items VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (link, item_id, collection, draft.source_ref, thread, previous, created, digest, draft.content),
            )
            self._file.index.add(link, draft.content, created, previous)
            self._file.index.flush()
        if thread is not None:
            db.execute("UPDATE memory_threads SET last = ? WHERE thread = ?", (link, thread))
        return Ingested(item_id, known is not None)

    def _thread(self, collection: int, name: str | None) -> tuple[int | None, int | None]:
        """(number, link of its last occurrence)."""
        if name is None:
            return None, None
        row = self._file.db.execute(
            "SELECT thread, last FROM memory_threads WHERE collection = ? AND name = ?", (collection, name)
        ).fetchone()
        if row is None:
            row = self._file.db.execute(
                "INSERT INTO memory_threads (collection, name) VALUES (?, ?) RETURNING thread, last", (collection, name)
            ).fetchone()
        return row[0], row[1]

    def maintain(self) -> bool:
        """One small piece of the work that can wait; False when there is none."""
        return self._file.step()

    def mend(self) -> None:
        """Finish a rebuild, however long it takes: for a process that has nothing else to do meanwhile."""
        with schema.faults(self._file.path):
            self._file.finish_rebuild()

    # Forgetting

    def forget(
        self, *, item_ids: Sequence[str] | None = None, source_ref: str | None = None, before: float | None = None
    ) -> int:
        """Forget items, or all occurrences from one source, or all from before a time (Unix seconds): exactly one of
        them. An item goes with its last occurrence, and nothing of it stays in the file or the index. All or nothing.

        Returns:
            The number of items that are gone.

        Raises:
            MemoryStoreError: ``unknown_item``, ``bad_request`` or ``bad_time``.
        """
        if sum(each is not None for each in (item_ids, source_ref, before)) != 1:
            raise MemoryStoreError(
                "bad_request", "Say what to forget: items, a source or a time, and only one of them."
            )

        border = milliseconds(before)

        def work() -> int:
            forgetter = Forgetter(self._file.db, self._file.index)
            if item_ids is not None:
                return forgetter.items([self.doc(each) for each in item_ids])
            if source_ref is not None:
                return forgetter.occurrences("source_ref = ?", source_ref)
            return forgetter.occurrences("created_at < ?", border)

        with schema.faults(self._file.path):
            self._file.db.execute("PRAGMA secure_delete = ON")  # zeros over all of it
            try:
                gone = self._file.write(work)
            finally:
                self._file.db.execute("PRAGMA secure_delete = FAST")
            self._file.empty_log()
        return gone

    # Keeping

    def check(self) -> str:
        """Read the whole store and compare. Returns what was wrong, or ``""``; an index that is wrong is made anew, a
        large one by ``maintain``.

        Raises:
            MemoryStoreError: ``store_corrupt``: the items themselves are damaged.
        """
        with schema.faults(self._file.path):
            found = self._file.db.execute("PRAGMA quick_check").fetchall()
            if found != [("ok",)]:
                with contextlib.suppress(sqlite3.DatabaseError):
                    self._file.db.execute("REINDEX")
                if self._file.db.execute("PRAGMA quick_check").fetchall() != [("ok",)]:
                    raise MemoryStoreError(
                        "store_corrupt", f"{self._file.path} is damaged: {found[0][0]}.", "Restore it from a snapshot."
                    )
                self._file.notes.append("an index of SQLite's own was damaged and made anew")
        wrong = self._file.read(lambda: verify(self._file.index))
        if wrong:
            with schema.faults(self._file.path):
                self._file.mark_stale(wrong)
        return wrong

    def rebuild(self) -> None:
        """Make the index anew from the items, however long it takes. A killed rebuild goes on in the next process."""
        with schema.faults(self._file.path):
            self._file.mark_stale("asked to")
            self._file.finish_rebuild()

    def stats(self) -> Stats:
        def work() -> Stats:
            documents = self._file.index.documents
            totals = {
                name: documents.totals[number].documents if number in documents.totals else 0
                for number, name in enumerate(COLLECTIONS)
            }
            pages, size = (
                self._file.db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size")
            )
            repeats = sum(map(len, documents.repeats.values()))
            pending = sum(page.state == "merging" for page in self._file.index.pages.values())
            return Stats(
                totals, repeats, stored_bytes(self._file.index), pages * size, pending, tuple(self._file.notes)
            )

        return self._file.read(work)

    def export(self) -> Iterator[dict[str, Any]]:
        """Every occurrence as ``ingest`` would take it, and the item's
        id and hash: first the items, then the repeats. One consistent state."""
        reader = schema.connect(self._file.path)
        with contextlib.closing(reader), schema.faults(self._file.path):
            for collection, item_id, content, digest, source_ref, thread, created in reader.execute(_EXPORT):
                yield {
                    "item_id": item_id,
                    "collection": COLLECTIONS[collection],
                    "source_ref": source_ref,
                    "thread": thread,
                    "created_at": created / 1000,
                    "content": content,
                    "chunk_hash": digest.hex(),
                }

    def dump(self) -> list[tuple[int, list[tuple[int, int, int]]]]:
        """The index's content, however it is stored; for comparing."""
        return self._file.read(lambda: list(dump(self._file.index)))


def _checked(draft: Draft) -> Draft:
    collection_number(draft.collection)
    if len(draft.content) > MAX_CONTENT:
        raise MemoryStoreError(
            "content_too_long", f"An item has at most {MAX_CONTENT:,} characters.", "Ingest it in parts."
        )
    for text in (draft.content, draft.source_ref, draft.thread or ""):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise MemoryStoreError("content_not_text", "A text holds half a character (a lone surrogate).") from error
    return draft


def _hash(draft: Draft) -> bytes:
    return hashlib.sha256(draft.content.encode()).digest()
