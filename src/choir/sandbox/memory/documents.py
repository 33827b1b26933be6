"""What ranking needs of every document, in memory: length, time, neighbours. Arrays that grow by pages. Pure.

A *link* is one occurrence: a document's first (its number, >= 0) or a repeat (``~repeat``, < 0); NONE is none.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from choir.sandbox.memory.postings import PAGE, PAGE_BITS, DamagedIndexError

NONE = np.iinfo(np.int32).min
MAX_LENGTH = 65_534

Ints = npt.NDArray[np.int32]

# Of a run of documents, one after the other in this order.
_COLUMNS = (("length", np.uint16), ("question", np.uint8), ("created", np.int64), ("previous", np.int32))
_WIDTH = sum(np.dtype(kind).itemsize for _, kind in _COLUMNS)


def distinct(numbers: Ints) -> Ints:
    """Ascending, each once; quicker than ``np.unique`` for the few thousand there are here."""
    if len(numbers) < 2:
        return numbers
    ordered = np.sort(numbers)
    return ordered[np.concatenate(([True], ordered[1:] != ordered[:-1]))]


def among(numbers: Ints, ascending: Ints) -> npt.NDArray[np.bool_]:
    """Which of ``numbers`` are in ``ascending``; as ``np.isin``, of which the first call alone takes 40 ms."""
    if not len(ascending):
        return np.zeros(len(numbers), np.bool_)
    at = ascending.searchsorted(numbers)
    np.minimum(at, len(ascending) - 1, out=at)
    found: npt.NDArray[np.bool_] = ascending.take(at) == numbers
    return found


@dataclass
class Totals:
    """Of one collection."""

    documents: int = 0
    length: int = 0

    @property
    def mean(self) -> float:
        return self.length / self.documents if self.documents else 1.0


@dataclass
class Documents:
    """``length`` is the number of terms plus one; 0 is no document, or a forgotten one. ``created`` is Unix
    milliseconds. ``following`` is derived from ``previous``."""

    length: npt.NDArray[np.uint16] = field(default_factory=lambda: np.zeros(0, np.uint16))
    question: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    created: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    previous: Ints = field(default_factory=lambda: np.zeros(0, np.int32))
    following: Ints = field(default_factory=lambda: np.zeros(0, np.int32))
    repeat_doc: Ints = field(default_factory=lambda: np.zeros(0, np.int32))
    repeat_previous: Ints = field(default_factory=lambda: np.zeros(0, np.int32))
    repeat_following: Ints = field(default_factory=lambda: np.zeros(0, np.int32))
    repeats: dict[int, list[int]] = field(default_factory=dict)
    collection_of_page: list[int] = field(default_factory=list)
    totals: dict[int, Totals] = field(default_factory=dict)
    repeat_count: int = 0
    longest: int = 1
    """No ``length`` is greater."""

    span: tuple[int, int] | None = None
    """The earliest and the latest time."""

    def add_page(self, page: int, collection: int) -> None:
        while len(self.collection_of_page) <= page:
            self.collection_of_page.append(-1)
        self.collection_of_page[page] = collection
        self.totals.setdefault(collection, Totals())
        missing = (page + 1) * PAGE - len(self.length)
        if missing > 0:
            self.length, self.question, self.created = (
                np.concatenate((each, np.zeros(missing, each.dtype)))
                for each in (self.length, self.question, self.created)
            )
            self.previous, self.following = (
                np.concatenate((each, np.full(missing, NONE, np.int32))) for each in (self.previous, self.following)
            )

    def add(self, doc: int, terms: int, question: bool, created: int, previous: int | None) -> None:
        self.length[doc] = length = min(terms, MAX_LENGTH) + 1
        self.longest = max(self.longest, length)
        self.question[doc] = question
        self.created[doc] = created
        self._count(doc >> PAGE_BITS, 1, min(terms, MAX_LENGTH))
        self._span(created, created)
        self.link(doc, NONE if previous is None else previous)

    def add_repeat(self, repeat: int, doc: int, previous: int | None) -> None:
        if repeat >= len(self.repeat_doc):
            grow = max(256, repeat + 1 - len(self.repeat_doc), len(self.repeat_doc))
            self.repeat_doc, self.repeat_previous, self.repeat_following = (
                np.concatenate((each, np.full(grow, NONE, np.int32)))
                for each in (self.repeat_doc, self.repeat_previous, self.repeat_following)
            )
        self.repeat_doc[repeat] = doc
        self.repeat_count = max(self.repeat_count, repeat + 1)
        self.repeats.setdefault(doc, []).append(repeat)
        self.link(~repeat, NONE if previous is None else previous)

    def link(self, link: int, previous: int) -> None:
        """Say what came before; both directions."""
        self._set(self.previous, self.repeat_previous, link, previous)
        if previous != NONE:
            self._set(self.following, self.repeat_following, previous, link)

    def end(self, link: int) -> None:
        """Nothing follows it any more."""
        self._set(self.following, self.repeat_following, link, NONE)

    @staticmethod
    def _set(docs: Ints, repeats: Ints, link: int, value: int) -> None:
        if link >= 0:
            docs[link] = value
        else:
            repeats[~link] = value

    def around(self, link: int) -> tuple[int, int]:
        """The links before and after it; NONE where there is none."""
        if link >= 0:
            return int(self.previous[link]), int(self.following[link])
        return int(self.repeat_previous[~link]), int(self.repeat_following[~link])

    def respan(self) -> None:
        """``span`` after something was removed."""
        created = self.created[self.length > 0]
        self.span = (int(created.min()), int(created.max())) if len(created) else None

    def remove(self, doc: int) -> None:
        self._count(doc >> PAGE_BITS, -1, 1 - int(self.length[doc]))
        self.length[doc] = 0
        for repeat in self.repeats.pop(doc, ()):
            self.repeat_doc[repeat] = NONE

    def drop_repeat(self, repeat: int) -> None:
        doc = int(self.repeat_doc[repeat])
        self.repeats[doc].remove(repeat)
        if not self.repeats[doc]:
            del self.repeats[doc]
        self.repeat_doc[repeat] = NONE

    def columns(self, start: int, end: int) -> bytes:
        return b"".join(getattr(self, name)[start:end].tobytes() for name, _ in _COLUMNS)

    def load(self, start: int, columns: bytes) -> int:
        """Take what ``columns`` gave; returns the number of documents. Call ``derive`` when all are in.

        Raises:
            DamagedIndexError: an impossible length.
        """
        size, rest = divmod(len(columns), _WIDTH)
        if rest or start + size > len(self.length):
            raise DamagedIndexError("the columns of a page have an impossible length")
        at = 0
        for name, kind in _COLUMNS:
            getattr(self, name)[start : start + size] = np.frombuffer(columns, kind, size, at)
            at += size * np.dtype(kind).itemsize
        part = self.length[start : start + size]
        self.longest = max(self.longest, int(part.max(initial=1)))
        living = int(np.count_nonzero(part))
        self._count(start >> PAGE_BITS, living, int(part.sum(dtype=np.int64)) - living)
        if living:
            created = self.created[start : start + size][part > 0]
            self._span(int(created.min()), int(created.max()))
        return size

    def derive(self) -> None:
        """``following`` from ``previous``."""
        for links, previous in (
            (np.arange(len(self.previous), dtype=np.int32), self.previous),
            (~np.arange(len(self.repeat_previous), dtype=np.int32), self.repeat_previous),
        ):
            after_doc = previous >= 0
            self.following[previous[after_doc]] = links[after_doc]
            after_repeat = (previous < 0) & (previous != NONE)
            self.repeat_following[~previous[after_repeat]] = links[after_repeat]

    def step(self, links: Ints, forward: bool) -> Ints:
        """Of each occurrence the one after (or before) it in its thread."""
        docs, repeats = (self.following, self.repeat_following) if forward else (self.previous, self.repeat_previous)
        return self._pick(links, docs, repeats)

    def docs_of(self, links: Ints) -> Ints:
        """The document of each occurrence; NONE stays."""
        if not len(self.repeat_doc):
            return links
        return self._pick(links, None, self.repeat_doc)

    def _pick(self, links: Ints, docs: Ints | None, repeats: Ints) -> Ints:
        found = np.where(links >= 0, links if docs is None else docs.take(links, mode="clip"), NONE)
        if len(repeats):
            again = (links < 0) & (links != NONE)
            found[again] = repeats[~links[again]]
        return found

    def _count(self, page: int, documents: int, length: int) -> None:
        totals = self.totals[self.collection_of_page[page]]
        totals.documents += documents
        totals.length += length

    def _span(self, earliest: int, latest: int) -> None:
        if self.span is not None:
            earliest, latest = min(self.span[0], earliest), max(self.span[1], latest)
        self.span = earliest, latest
