"""The memory's file and the index over it, kept in step: transactions, other writers, mending."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from choir.sandbox.memory import schema
from choir.sandbox.memory.index import Index
from choir.sandbox.memory.model import MemoryStoreError
from choir.sandbox.memory.postings import DamagedIndexError
from choir.sandbox.memory.tokenize import Tokenizer, fingerprint
from choir.sandbox.memory.upkeep import mark_stale, rebuild_page

ATTEMPTS = 3
"""Rebuilds for one request."""

T = TypeVar("T")


class MemoryFile:
    """``notes`` say what was mended. Errors as ``schema.faults`` and ``schema.connect`` raise them."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.db = schema.connect(path)
        self.notes: list[str] = []
        self.tokenizer = Tokenizer()
        self.index = Index(self.db, self.tokenizer)
        self._data_version = -1
        try:
            with schema.faults(path):
                self._adopt()
            self.read(lambda: None)
        except BaseException:
            self.db.close()
            raise

    def _adopt(self) -> None:
        """An index of another version's terms is made anew."""
        made_with, now = schema.read_meta(self.db, "terms"), fingerprint()
        if made_with == now:
            return
        with schema.transaction(self.db):
            schema.write_meta(self.db, "terms", now)
        if made_with:
            self.mark_stale("the words are taken apart in another way now")

    def read(self, work: Callable[[], T]) -> T:
        """Run ``work`` on one state of the store. A damaged index is made anew, and said in ``stats``, not passed off
        as an empty result."""
        with schema.faults(self.path):
            for _ in range(ATTEMPTS):
                try:
                    self.db.execute("BEGIN")
                    try:
                        self._sync()
                        if not self.index.stale():
                            return work()
                    finally:
                        if self.db.in_transaction:
                            self.db.execute("COMMIT")
                except DamagedIndexError as error:
                    self.mark_stale(str(error))
                self.finish_rebuild()
        raise self._hopeless()

    def write(self, work: Callable[[], T]) -> T:
        """As ``read``, in one transaction that is committed or leaves nothing."""
        with schema.faults(self.path):
            for _ in range(ATTEMPTS):
                try:
                    with schema.transaction(self.db):
                        self._sync()
                        if not self.index.stale():
                            return work()
                except DamagedIndexError as error:
                    self.mark_stale(str(error))
                except BaseException:
                    self._data_version = -1  # what is in memory may be ahead of the file
                    raise
                self.finish_rebuild()
        raise self._hopeless()

    def _hopeless(self) -> MemoryStoreError:
        return MemoryStoreError("store_corrupt", f"The index in {self.path} stays damaged although it was made anew.")

    def _sync(self) -> None:
        """Take over what other connections committed. Inside a transaction."""
        self.db.execute("SELECT 1 FROM memory_meta").fetchone()  # a snapshot begins with the first read
        version = self.db.execute("PRAGMA data_version").fetchone()[0]
        if version == self._data_version:
            return
        if self._data_version < 0 or schema.read_meta(self.db, "generation") != self.index.generation:
            self._data_version = -1
            self.index.load()
        else:
            self.index.load_new()
        self._data_version = version

    def mark_stale(self, why: str) -> None:
        """Give the index up; ``finish_rebuild`` makes it anew."""
        self._data_version = -1
        with schema.transaction(self.db):
            self.index.generation = schema.read_meta(self.db, "generation")
            mark_stale(self.index)
        self.notes.append(f"the index was made anew: {why}")

    def finish_rebuild(self) -> None:
        """Page by page, so that it goes on where a killed one ended."""
        stale = True
        while stale:
            self._data_version = -1
            with schema.transaction(self.db):
                self.index.load()
                stale = bool(self.index.stale())
                if stale:
                    rebuild_page(self.index, self.index.stale()[0])
