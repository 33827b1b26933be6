"""How items are ranked: BM25 over an item and its neighbours, then priors. Pure; arrays in, arrays out.

1. *Candidates*: the best documents by BM25 alone, with MaxScore (Turtle and Flood 1995): once the terms that are left
   cannot lift a new document over the threshold, only documents already seen are scored on.
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

from choir.sandbox.memory.documents import NONE, Documents, Ints, distinct
from choir.sandbox.memory.postings import Postings

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
CANDIDATES = 128
OCCURRENCES = 8
"""Of one document, the latest that are looked at."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Weighted:
    """A term of the query with where it is: ``weight`` is idf times how often the query has it."""

    term: str
    postings: Postings
    weight: float
    origin: str = "query"


def idf(documents: int, having: int) -> float:
    """Robertson's, never negative (as Lucene's)."""
    return math.log(1 + (documents - having + 0.5) / (having + 0.5))


def lengths_table(documents: Documents, mean: float) -> Floats:
    """K of BM25 for each stored length (which is the number of terms plus one)."""
    longest = max(int(documents.length.max(initial=1)), 1)
    terms = np.arange(-1, longest, dtype=np.float32)
    return (K1 * (1 - B + B * terms / max(mean, 1.0))).astype(np.float32)


def impacts(counts: npt.NDArray[np.uint8], table_at: Floats) -> Floats:
    """BM25's tf part."""
    tf = counts.astype(np.float32)
    return tf * np.float32(K1 + 1) / (tf + table_at)


def _weighted_impacts(
    weight: float, counts: npt.NDArray[np.uint8], lengths: npt.NDArray[np.uint16], table: Floats
) -> Floats:
    """weight * impacts, quick where most counts are 1."""
    once = np.float32(weight) * (np.float32(K1 + 1) / (1 + table))
    found: Floats = once[lengths]
    more = np.flatnonzero(counts > 1)
    if len(more):
        found[more] = np.float32(weight) * impacts(counts[more], table[lengths[more]])
    return found


def candidates(
    terms: Sequence[Weighted], documents: Documents, table: Floats, collection: int | None, wanted: int, board: Floats
) -> Ints:
    """The best ``wanted`` documents by BM25 alone, ascending by number; ties go to the newest.

    Args:
        board: zeros, one per document; zeros again afterwards.
    """
    ordered = sorted(terms, key=lambda each: (-each.weight, each.term))
    bounds = [each.weight * _highest(each.postings, table) for each in ordered]
    seen: list[Ints] = []
    threshold = 0.0
    at = 0
    for at, each in enumerate(ordered):
        if threshold > 0 and sum(bounds[at:]) < threshold:
            break
        docs, counts = each.postings.docs, each.postings.counts
        if collection is not None:
            own = documents.of_collection(docs, collection)
            docs, counts = docs[own], counts[own]
        board[docs] += _weighted_impacts(each.weight, counts, documents.length[docs], table)
        seen.append(docs)
        if at + 1 < len(ordered) and sum(bounds[: at + 1]) > sum(bounds[at + 1 :]):  # else it cannot be enough
            threshold = max(threshold, _nth(board[docs], wanted))
    else:
        at = len(ordered)
    if not seen:
        return np.zeros(0, np.int32)
    reached = [board[docs] for docs in seen]
    least = max(_nth(each, wanted) for each in reached) - np.float32(sum(bounds[at:]))
    pool = distinct(np.concatenate([docs[each >= least] for docs, each in zip(seen, reached, strict=True)]))
    scores = board[pool]
    for docs in seen:
        board[docs] = 0
    for number, each in enumerate(ordered[at:], at):
        keep = scores + np.float32(sum(bounds[number:])) >= _nth(scores, wanted)
        pool, scores = pool[keep], scores[keep]
        scores = scores + np.float32(each.weight) * looked_up(each.postings, pool, documents, table)
    if len(pool) > wanted:
        # Exact order of ties, so that the same items are found however the index is stored.
        border = _nth(scores, wanted)
        pool, scores = pool[scores >= border], scores[scores >= border]
        if len(pool) > wanted:
            order = np.lexsort((-pool, -documents.created[pool], -scores))[:wanted]
            pool = np.sort(pool[order])
    return pool


def _highest(postings: Postings, table: Floats) -> float:
    """The most its impact can be: its highest count in the shortest document."""
    count = int(postings.counts.max(initial=0))
    return count * (K1 + 1) / (count + float(table[1]))


def _nth(values: Floats, rank: int) -> float:
    """The value of the rank-th largest; 0 when there are fewer."""
    if len(values) > 16 * rank:  # few are near the top; sort those alone if they are enough
        top = values[values >= values.max() * np.float32(0.5)]
        values = top if len(top) >= rank else values
    return float(np.partition(values, len(values) - rank)[len(values) - rank]) if len(values) >= rank else 0.0


def looked_up(postings: Postings, docs: Ints, documents: Documents, table: Floats) -> Floats:
    """The impact of one term on each of ``docs``."""
    return _impacts_at(_find(postings, docs), postings, docs, documents, table)


def _impacts_at(place: Place, postings: Postings, docs: Ints, documents: Documents, table: Floats) -> Floats:
    at, have = place
    found = np.zeros(len(docs), np.float32)
    found[have] = impacts(postings.counts[at], table[documents.length[docs[have]]])
    return found


def _positions(place: Place, postings: Postings, docs: Ints) -> Ints:
    """Where each of ``docs`` first has the term; -2 where it has it not, or late."""
    at, have = place
    found = np.full(len(docs), -2, np.int32)
    found[have] = postings.first[at]
    found[found == 255] = -2
    return found


Place = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]
"""Indices into postings, and of the documents they belong to."""


def _find(postings: Postings, docs: Ints) -> Place:
    if len(postings) < len(docs):  # the shorter into the longer
        at = np.searchsorted(docs, postings.docs)
        np.minimum(at, len(docs) - 1, out=at)
        own = np.flatnonzero(docs[at] == postings.docs)
        return own, at[own]
    if not len(docs):
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    at = np.searchsorted(postings.docs, docs)
    np.minimum(at, len(postings) - 1, out=at)
    have = np.flatnonzero(postings.docs[at] == docs)
    return at[have], have


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
    docs_of = [documents.docs_of(row) for row in rows]
    docs = distinct(np.concatenate(docs_of))
    if len(docs) and docs[0] == NONE:
        docs = docs[1:]
    around = np.stack([np.where(row == NONE, -1, np.searchsorted(docs, row)) for row in docs_of])
    return Window(links, docs, around, (1.0, *BACK, *FORWARD))


def _occurrences(documents: Documents, docs: Ints) -> Ints:
    if not documents.repeats:
        return docs
    again = [~repeat for doc in docs.tolist() for repeat in documents.repeats.get(doc, ())[-OCCURRENCES:]]
    return np.concatenate((docs, np.array(again, np.int32)))


def shares(
    window: Window, terms: Sequence[Weighted], pairs: Sequence[tuple[int, int]], documents: Documents, table: Floats
) -> Floats:
    """What each term, then each pair of neighbouring words (indices into ``terms``), gives each of ``window.docs``."""
    docs = window.docs
    found = [_find(each.postings, docs) for each in terms]
    rows = np.zeros((len(terms) + len(pairs), len(docs)), np.float32)
    for row, place, each in zip(rows, found, terms, strict=False):
        row[:] = np.float32(each.weight) * _impacts_at(place, each.postings, docs, documents, table)
    if pairs:
        places = {at: _positions(found[at], terms[at].postings, docs) for pair in pairs for at in pair}
        one = impacts(np.ones(len(docs), np.uint8), table[documents.length[docs]])
        for row, (left, right) in zip(rows[len(terms) :], pairs, strict=True):
            beside = (places[left] >= 0) & (places[right] - places[left] == 1)
            row[beside] = np.float32(pair_weight(terms, left, right)) * one[beside]
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
