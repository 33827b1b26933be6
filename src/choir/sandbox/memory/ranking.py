"""How items are ranked: BM25 over an item and its neighbours, then priors. Pure; arrays in, arrays out.

1. *Candidates*: the best documents by BM25 alone, see ``candidates``.
2. *Context*: the candidates and what is near them in their threads are scored anew; each term counts as its maximum
   over the item (1) and its neighbours (``BACK``, ``FORWARD``). An answer rarely repeats its question's words.
3. *Factors*: a question is rarely the answer to one; a few words say little; a date in the query.

The constants were chosen on five LoCoMo conversations with a look at Cranfield, see ``bench/memory``; none is sharp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from choir.sandbox.memory.documents import NONE, Documents, Ints, among, distinct
from choir.sandbox.memory.term_postings import Postings, TermPostings

K1 = 1.0
B = 0.5
PAIR = 0.5
BACK = (0.7, 0.5, 0.4, 0.3)
FORWARD = (0.5, 0.4, 0.3)
QUESTION = 0.75
SHORT = 0.6
SHORT_TERMS = 8
DATE = 1.0
DAY = 86_400_000
DATE_BEFORE, DATE_AFTER = DAY, 7 * DAY
OCCURRENCES = 8
"""Of one document, the latest that are looked at."""

_MANY = 4
"""Times as many postings as documents: then the documents are looked up in the postings."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Weighted:
    """A term of the query with where it is: ``weight`` is idf times how often the query has it."""

    term: str
    postings: TermPostings
    weight: float
    origin: str = "query"


def idf(documents: int, having: int) -> float:
    """Robertson's, never negative (as Lucene's)."""
    return math.log(1 + (documents - having + 0.5) / (having + 0.5))


def lengths_table(documents: Documents, mean: float) -> Floats:
    """K of BM25 for each stored length (which is the number of terms plus one)."""
    terms = np.arange(-1, documents.longest, dtype=np.float32)
    return (K1 * (1 - B + B * terms / max(mean, 1.0))).astype(np.float32)


def impacts(counts: npt.NDArray[np.uint8], norms: Floats) -> Floats:
    """BM25's tf part."""
    tf = counts.astype(np.float32)
    return tf * np.float32(K1 + 1) / (tf + norms)


@dataclass(slots=True)
class Place:
    """Which of some documents have a term (indices), how often and where first."""

    docs: npt.NDArray[np.intp]
    counts: npt.NDArray[np.uint8]
    first: npt.NDArray[np.uint8]


def probe(part: Postings, docs: Ints) -> Place:
    """
    Args:
        docs: ascending.
    """
    at = part.docs.searchsorted(docs)
    np.minimum(at, len(part) - 1, out=at)
    have = (part.docs.take(at) == docs).nonzero()[0]
    at = at.take(have)
    return Place(have, part.counts.take(at), part.first.take(at))


def find(terms: Sequence[Sequence[Postings]], docs: Ints, board: Floats) -> tuple[npt.NDArray[np.intp], Place]:
    """(indices of the terms, where these are)

    Args:
        terms: each in parts.
        docs: ascending.
        board: zeros, one per document of the store; zeros again afterwards.
    """
    numbers: list[npt.NDArray[np.intp]] = []
    places: list[Place] = []
    few: list[tuple[int, Postings]] = []
    for number, parts in enumerate(terms):
        for part in parts:
            if len(part) < _MANY * len(docs):
                few.append((number, part))
            else:
                places.append(probe(part, docs))
                numbers.append(np.full(len(places[-1].docs), number, np.intp))
    if few:  # all at once
        board[docs] = np.arange(1, len(docs) + 1, dtype=np.float32)  # where in ``docs`` it is; exact up to 2**24
        at = board.take(np.concatenate([part.docs for _, part in few]))
        board[docs] = 0
        have = at.nonzero()[0]
        numbers.append(np.repeat([number for number, _ in few], [len(part) for _, part in few]).take(have))
        counts = np.concatenate([part.counts for _, part in few]).take(have)
        first = np.concatenate([part.first for _, part in few]).take(have)
        places.append(Place(at.take(have).astype(np.intp) - 1, counts, first))
    if not places:
        return np.zeros(0, np.intp), Place(np.zeros(0, np.intp), np.zeros(0, np.uint8), np.zeros(0, np.uint8))
    return np.concatenate(numbers), Place(
        np.concatenate([each.docs for each in places]),
        np.concatenate([each.counts for each in places]),
        np.concatenate([each.first for each in places]),
    )


@dataclass(frozen=True, slots=True)
class Window:
    """Occurrences and their neighbours.

    Args:
        links: the occurrences scored.
        docs: all documents that count for them, ascending.
        around: for each offset a row of indices into ``docs``, -1 for none; row 0 is the occurrence itself.
        decays: of the rows.
    """

    links: Ints
    docs: Ints
    around: npt.NDArray[np.intp]
    decays: tuple[float, ...]

    def targets(self) -> npt.NDArray[np.intp]:
        row: npt.NDArray[np.intp] = self.around[0]
        return row

    def part(self, found: Ints, own: Floats) -> tuple[Window, Floats]:
        """Of the documents ``found`` (ascending) alone, each of which occurs once; ``own`` are the ``shares``."""
        columns = among(self.docs.take(self.around[0]), found).nonzero()[0]
        around = self.around[:, columns]
        used = np.zeros(len(self.docs) + 1, np.bool_)  # the last place is for -1, none
        used[around] = True
        used[-1] = False
        place = np.cumsum(used) - 1
        place[-1] = -1
        keep = used.nonzero()[0]
        return Window(self.links[columns], self.docs.take(keep), place[around], self.decays), own[:, keep]


def window(documents: Documents, found: Ints, spread: bool = True) -> Window:
    """Of the documents ``found`` and, with ``spread``, of those that have one of them for a neighbour."""
    links = _occurrences(documents, found)
    if spread:
        near = [links]
        for reach, forward in ((len(BACK), True), (len(FORWARD), False)):
            step = links
            for _ in range(reach):
                step = documents.step(step, forward)
                step = step[step != NONE]
                near.append(step)
        links = distinct(np.concatenate(near))
    rows = [links]
    for decays, forward in ((BACK, False), (FORWARD, True)):
        step = links
        for _ in decays:
            step = documents.step(step, forward)
            rows.append(step)
    every = documents.docs_of(np.concatenate(rows)).reshape(len(rows), -1)
    docs = distinct(every.ravel())
    if len(docs) and docs[0] == NONE:
        docs = docs[1:]
    around = docs.searchsorted(every)
    around[every == NONE] = -1
    return Window(links, docs, around, (1.0, *BACK, *FORWARD))


def _occurrences(documents: Documents, docs: Ints) -> Ints:
    if not documents.repeats:
        return docs
    again = [~repeat for doc in docs.tolist() for repeat in documents.repeats.get(doc, ())[-OCCURRENCES:]]
    return np.concatenate((docs, np.array(again, np.int32)))


def shares(
    docs: Ints,
    terms: Sequence[Weighted],
    pairs: Sequence[tuple[int, int]],
    collection: int,
    documents: Documents,
    table: Floats,
    board: Floats,
) -> Floats:
    """What each term, then each pair of neighbouring words (indices into ``terms``), gives each of ``docs``
    (ascending). ``board`` as in ``find``."""
    numbers, places = find([each.postings.within(collection) for each in terms], docs, board)
    norms = table.take(documents.length.take(docs))
    weights = np.array([each.weight for each in terms], np.float32)
    rows = np.zeros((len(terms) + len(pairs), len(docs)), np.float32)
    rows[numbers, places.docs] = weights.take(numbers) * impacts(places.counts, norms.take(places.docs))
    if pairs:
        first = np.full((len(terms), len(docs)), -2, np.int32)
        first[numbers, places.docs] = np.where(places.first == 255, -2, places.first)  # 255: somewhere late
        left, right = (first[list(side)] for side in zip(*pairs, strict=True))
        beside = (right - left == 1) & (left >= 0)
        gives = np.array([pair_weight(terms, *pair) for pair in pairs], np.float32)
        rows[len(terms) :] = beside * (gives[:, None] * (np.float32(K1 + 1) / (1 + norms)))
    return rows


def pair_weight(terms: Sequence[Weighted], left: int, right: int) -> float:
    return PAIR * (terms[left].weight + terms[right].weight) / 2


def spread(window: Window, own: Floats) -> Floats:
    """(terms, occurrences): each term's maximum over an occurrence and its neighbours."""
    padded = np.concatenate((own, np.zeros((len(own), 1), np.float32)), axis=1)
    best = padded[:, window.around[0]]
    for row, decay in zip(window.around[1:], window.decays[1:], strict=True):
        np.maximum(best, padded[:, row] * np.float32(decay), out=best)
    return best


def factors(documents: Documents, docs: Ints, spans: Sequence[tuple[int, int]]) -> dict[str, Floats]:
    """What the sum is multiplied by, by name."""
    terms = documents.length[docs].astype(np.float32) - 1
    found = {
        "not_a_question": np.where(documents.question[docs] == 1, np.float32(QUESTION), np.float32(1)),
        "length": (1 - SHORT + SHORT * terms / (terms + SHORT_TERMS)).astype(np.float32),
    }
    if spans:
        created = documents.created[docs]
        near = np.zeros(len(docs), np.float32)
        for start, end in spans:
            outside = np.where(created < start, (start - created) / DATE_BEFORE, (created - end) / DATE_AFTER)
            near = np.maximum(near, np.clip(1 - np.maximum(outside, 0), 0, 1).astype(np.float32))
        found["date"] = 1 + np.float32(DATE) * near
    return found


def relevance(score: float, ideal: float) -> float:
    """In [0, 1), see ``model.Found``."""
    return 1 - 4.0 ** -(score / ideal) if ideal > 0 else 0.0
