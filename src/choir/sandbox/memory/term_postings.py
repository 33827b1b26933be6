"""All postings of one term, over the pages, as arrays ready to be read. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from choir.sandbox.memory.postings import Bytes, Docs, Raw, Slots, gather


@dataclass(frozen=True, slots=True)
class Postings:
    """One term over several pages: document numbers ascending. For reading all of them quickly there are the
    documents' ``lengths`` as ``Documents`` has them and ``often``, the indices of counts above 1."""

    docs: Docs
    counts: Bytes
    first: Bytes
    lengths: Slots
    often: npt.NDArray[np.intp]

    @classmethod
    def of(cls, raw: Raw, lengths: Slots) -> Postings:
        """
        Args:
            lengths: of all documents.
        """
        docs, counts, first = raw
        return cls(docs, counts, first, lengths.take(docs), (counts > 1).nonzero()[0])

    def __len__(self) -> int:
        return len(self.docs)


@dataclass(frozen=True, slots=True)
class TermPostings:
    """One term over all pages, in parts that have no document in common, by collection."""

    parts: dict[int, tuple[Postings, ...]]
    size: int

    @classmethod
    def of(cls, parts: Iterable[tuple[int, Postings]]) -> TermPostings:
        found: dict[int, tuple[Postings, ...]] = {}
        size = 0
        for collection, each in parts:
            found[collection] = (*found.get(collection, ()), each)
            size += len(each)
        return cls(found, size)

    def within(self, collection: int) -> tuple[Postings, ...]:
        return self.parts.get(collection, ())

    def __len__(self) -> int:
        return self.size

    def whole(self) -> Raw:
        """All as one."""
        parts = [each for parts in self.parts.values() for each in parts]
        if not parts:
            return gather([])
        docs = np.concatenate([each.docs for each in parts])
        order = np.argsort(docs, kind="stable")
        return (
            docs[order],
            np.concatenate([each.counts for each in parts])[order],
            np.concatenate([each.first for each in parts])[order],
        )
