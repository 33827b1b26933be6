"""The memory's file and the index over it, kept in step: transactions, other writers, mending."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from choir.sandbox.memory import compaction, schema
from choir.sandbox.memory.checkpoint import Checkpointer
from choir.sandbox.memory.index import Index
from choir.sandbox.memory.model import MemoryStoreError, RebuildingError
from choir.sandbox.memory.postings import DamagedIndexError
from choir.sandbox.memory.rebuild import DROPPING, mark_stale, rebuild, waiting
from choir.sandbox.memory.tokenize import Tokenizer, fingerprint

ATTEMPTS = 3
"""Rebuilds one after the other, none of which came to its end."""

AT_ONCE = 4096
"""Items of which an index is made anew while the caller waits (about half a second)."""

T = TypeVar("T")


class MemoryFile:
    """``notes`` say what was mended. Errors as ``schema.faults`` and ``schema.connect`` raise them."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.db = schema.connect(path)
        self.notes: list[str] = []
        self.tokenizer = Tokenizer()
        self.index = Index(self.db, self.tokenizer)
        self._checkpointer = Checkpointer(path, self.db)
        self._data_version = -1
        self._given_up = 0
        try:
            with schema.faults(path):
                self._adopt()
            with contextlib.suppress(RebuildingError):
                self.read(lambda: None)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._checkpointer.close()
        self.db.close()

    def _adopt(self) -> None:
        """An index of another version's terms is made anew."""
        made_with, now = schema.read_meta(self.db, "terms"), fingerprint()
        if made_with == now:
            return
        with schema.transaction(self.db):
            schema.write_meta(self.db, "terms", now)
        if made_with:
            self.mark_stale("this version takes words apart or keeps them in another way")

    def read(self, work: Callable[[], T]) -> T:
        """Run ``work`` on one state of the store. A damaged index is made anew, and said in ``stats``, not passed off
        as an empty result.

        Raises:
            RebuildingError: it is large; ``step`` makes it.
        """
        with schema.faults(self.path):
            while True:
                try:
                    self.db.execute("BEGIN")
                    try:
                        self._sync()
                        if not self.index.stale():
                            result = work()
                            self._given_up = 0
                            return result
                    finally:
                        if self.db.in_transaction:
                            self.db.execute("COMMIT")
                except DamagedIndexError as error:
                    self.mark_stale(str(error))
                self._mend()

    def write(self, work: Callable[[], T], meanwhile: bool = False) -> T:
        """As ``read``, in one transaction that is committed or leaves nothing.

        Args:
            meanwhile: ``work`` can be done while a large index is made anew.
        """
        with schema.faults(self.path):
            while True:
                try:
                    with self._transaction():
                        self._sync()
                        if not self.index.stale():
                            result = work()
                            self._given_up = 0
                            return result
                        if meanwhile and waiting(self.index)[1] > AT_ONCE:
                            return work()
                except DamagedIndexError as error:
                    self.mark_stale(str(error))
                except BaseException:
                    self._data_version = -1  # what is in memory may be ahead of the file
                    raise
                self._mend()

    def step(self) -> bool:
        """One small piece of what can wait: of a merge, a rebuild or a compaction. False when there is none."""
        if self._data_version >= 0 and not self._is_unfinished():
            return False
        with schema.faults(self.path):
            try:
                with self._transaction():
                    self._sync()  # another process may have been quicker
                    return self._step()
            except DamagedIndexError as error:
                self.mark_stale(str(error))
                return True
            except BaseException:
                self._data_version = -1
                raise

    def _step(self) -> bool:
        number, stale = self.index.merging(), self.index.stale()
        if number is not None and not any(self.index.pages[each].step == DROPPING for each in stale):
            self.index.merge(number)
            return True
        if stale:
            rebuild(self.index)
            return True
        return compaction.step(self.index)

    def _is_unfinished(self) -> bool:
        return bool(self.index.stale()) or self.index.merging() is not None or compaction.due(self.index) is not None

    def empty_log(self) -> None:
        """After something was forgotten."""
        if not self._checkpointer.empty():
            self.notes.append("what was forgotten is readable in the log until no other process reads the store")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with schema.transaction(self.db):
            yield
        self._checkpointer.written()

    def _mend(self) -> None:
        left, total = waiting(self.index)
        if total > AT_ONCE:
            raise RebuildingError(1 - left / total)
        self.finish_rebuild()

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
        """Give the index up; ``step`` or ``finish_rebuild`` makes it anew.

        Raises:
            MemoryStoreError: ``store_corrupt``: that was tried before, and did not help.
        """
        self._given_up += 1
        if self._given_up > ATTEMPTS:
            raise MemoryStoreError(
                "store_corrupt", f"The index in {self.path} stays damaged although it was made anew."
            )
        self._data_version = -1
        with schema.transaction(self.db):
            self.index.generation = schema.read_meta(self.db, "generation")
            mark_stale(self.index)
        self.notes.append(f"the index was made anew: {why}")

    def finish_rebuild(self) -> None:
        """However long it takes."""
        while self._data_version < 0 or self.index.stale():
            self.step()
