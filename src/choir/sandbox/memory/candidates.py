"""The best documents by BM25 alone. Pure; arrays in, arrays out.

The postings of the weightiest terms are added to a board of all documents, until what the others can give is too little
for a document that has none of these (MaxScore, Turtle and Flood 1995). The others, mostly far more, are then only
looked up for the documents that can still be among the best.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from choir.sandbox.memory.documents import Documents, Ints, distinct
from choir.sandbox.memory.ranking import K1, Floats, Weighted, impacts, probe
from choir.sandbox.memory.term_postings import Postings

_SPARSE = 16
"""Times fewer postings than documents: then the postings are looked at instead of the board."""

_ROUNDING = 1 - 1e-4
"""Far more than what sums of float32 are wrong by."""

_LEAST = 1e-9


def candidates(
    terms: Sequence[Weighted], documents: Documents, table: Floats, collection: int, wanted: int, board: Floats
) -> Ints:
    """The best ``wanted`` documents of a collection, ascending by number; ties go to the newest.

    Args:
        table: K of BM25 by stored length, see ``ranking.lengths_table``.
        board: zeros, one per document; zeros again afterwards.
    """
    # Always in the same order: sums of float32 are the same however the index is stored.
    ordered = sorted(terms, key=lambda each: (-each.weight, each.term))
    left = [(each.weight, each.postings.within(collection)) for each in reversed(ordered)]  # the next is the last
    rests = [0.0]
    for weight, parts in left:
        rests.append(rests[-1] + _most(weight, parts, table))
    seen: list[Ints] = []
    while left and not _few_are_near(board, seen, wanted, rests[-1], rests[len(left)]):
        weight, parts = left.pop()
        for part in parts:
            np.add.at(board, part.docs, _weighted_impacts(weight, part, documents, table))
            seen.append(part.docs)
    pool, scores = _taken(board, seen, _bound(board, seen, wanted) - rests[len(left)])
    while True:
        near = scores >= _ROUNDING * float(nth(scores, wanted)) - rests[len(left)]
        pool, scores = pool[near], scores[near]
        if not left:
            break
        weight, parts = left.pop()
        norms = table.take(documents.length.take(pool))
        for part in parts:
            found = probe(part, pool)
            scores[found.docs] += np.float32(weight) * impacts(found.counts, norms.take(found.docs))
    return np.sort(pool[best(documents, pool, scores, wanted)])


def best(documents: Documents, docs: Ints, scores: Floats, wanted: int) -> npt.NDArray[np.intp]:
    """The indices of the best, in order; ties go to the newest."""
    near = (scores >= nth(scores, max(wanted, 1))).nonzero()[0]
    docs, scores = docs[near], scores[near]
    found: npt.NDArray[np.intp] = near[np.lexsort((-docs, -documents.created[docs], -scores))[:wanted]]
    return found


def _most(weight: float, parts: Sequence[Postings], table: Floats) -> float:
    """What a term can give a document at most: one as short as can be that has it as often as any."""
    counts = max((int(part.counts.max()) for part in parts), default=0)
    return weight * counts * (K1 + 1) / (counts + float(table[1]))


def _few_are_near(board: Floats, seen: Sequence[Ints], wanted: int, most: float, rest: float) -> bool:
    """Documents need half of what the best have so far to get among these with ``rest`` more; of ``most`` in all."""
    return most > 3 * rest and _bound(board, seen, wanted) > 2 * rest


def _bound(board: Floats, seen: Sequence[Ints], wanted: int) -> float:
    """No more than the ``wanted``-th best has."""
    enough = next((docs for docs in seen if len(docs) >= wanted), None)
    return 0.0 if enough is None else _ROUNDING * float(nth(board.take(enough), wanted))


def _taken(board: Floats, seen: Sequence[Ints], least: float) -> tuple[Ints, Floats]:
    """The documents that have so much, ascending, and their scores; the board is zeros again."""
    least = max(least, _LEAST)
    if _SPARSE * sum(map(len, seen)) < len(board):
        near = [docs[board.take(docs) >= least] for docs in seen]
        pool = distinct(np.concatenate(near)) if near else np.zeros(0, np.int32)
        scores = board.take(pool)
        for docs in seen:
            board[docs] = 0
    else:
        pool = (board >= np.float32(least)).nonzero()[0].astype(np.int32)
        scores = board.take(pool)
        board.fill(0)
    return pool, scores


def _weighted_impacts(weight: float, part: Postings, documents: Documents, table: Floats) -> Floats:
    """weight * ``ranking.impacts``, quick since most counts are 1."""
    once = np.float32(weight) * (np.float32(K1 + 1) / (1 + table))
    lengths = documents.length.take(part.docs)
    found: Floats = once.take(lengths)
    often = part.often()
    if len(often):
        found[often] = np.float32(weight) * impacts(part.counts.take(often), table.take(lengths.take(often)))
    return found


def nth(values: Floats, rank: int) -> np.float32:
    """The value of the rank-th largest; 0 when there are fewer."""
    if len(values) > 16 * rank:  # few are near the top; sort those alone
        highest = values.max()
        for share in (0.75, 0.5, 0.25):
            near = values >= highest * np.float32(share)
            if np.count_nonzero(near) >= rank:
                values = values[near]
                break
    if len(values) < rank:
        return np.float32(0)
    return np.float32(np.partition(values, len(values) - rank)[len(values) - rank])
