"""All postings of one term, over the pages, as arrays ready to be read. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from choir.sandbox.memory.postings import Bytes, Docs, Raw, join


@dataclass(slots=True)
class Postings:
    """One term over several pages: document numbers ascending."""

    docs: Docs
    counts: Bytes
    first: Bytes

    def __len__(self) -> int:
        return len(self.docs)

    def often(self) -> npt.NDArray[np.intp]:
        """The indices of counts above 1."""
        found: npt.NDArray[np.intp] = (self.counts > 1).nonzero()[0]
        return found


@dataclass(slots=True)
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
            return join(((),))[0]
        docs = np.concatenate([each.docs for each in parts])
        order = np.argsort(docs, kind="stable")
        return (
            docs[order],
            np.concatenate([each.counts for each in parts])[order],
            np.concatenate([each.first for each in parts])[order],
        )
