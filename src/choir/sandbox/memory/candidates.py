"""The best documents by BM25 alone. Pure; arrays in, arrays out.

Every posting is added to a board of all documents. Skipping (MaxScore, WAND) was measured against it: with numpy,
working out what may be skipped costs more than the 6 ns of a posting, up to a million items at least.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from choir.sandbox.memory.documents import Documents, Ints, distinct
from choir.sandbox.memory.ranking import K1, Floats, Weighted, impacts
from choir.sandbox.memory.term_postings import Postings

_SPARSE = 32
"""Times fewer postings than documents: then the postings are looked at instead of the board."""

_LEAST = np.float32(1e-9)


def candidates(
    terms: Sequence[Weighted], documents: Documents, table: Floats, collection: int, wanted: int, board: Floats
) -> Ints:
    """The best ``wanted`` documents of a collection, ascending by number; ties go to the newest.

    Args:
        table: K of BM25 by stored length, see ``ranking.lengths_table``.
        board: zeros, one per document; zeros again afterwards.
    """
    seen: list[Ints] = []
    # Always in the same order: sums of float32 are the same however the index is stored.
    for each in sorted(terms, key=lambda each: (-each.weight, each.term)):
        for part in each.postings.within(collection):
            np.add.at(board, part.docs, _weighted_impacts(each.weight, part, table))
            seen.append(part.docs)
    if not seen:
        return np.zeros(0, np.int32)
    if _SPARSE * sum(map(len, seen)) < len(board):
        pool = distinct(np.concatenate(seen))
        scores = board.take(pool)
        board[pool] = 0
        best = scores >= max(nth(scores, wanted), _LEAST)
        pool, scores = pool[best], scores[best]
    else:
        pool = (board >= max(nth(board, wanted), _LEAST)).nonzero()[0].astype(np.int32)
        scores = board.take(pool)
        board.fill(0)
    if len(pool) > wanted:
        order = np.lexsort((-pool, -documents.created[pool], -scores))[:wanted]
        pool = np.sort(pool[order])
    return pool


def _weighted_impacts(weight: float, part: Postings, table: Floats) -> Floats:
    """weight * ``ranking.impacts``, quick since most counts are 1."""
    once = np.float32(weight) * (np.float32(K1 + 1) / (1 + table))
    found: Floats = once.take(part.lengths)
    if len(part.often):
        counts, norms = part.counts.take(part.often), table.take(part.lengths.take(part.often))
        found[part.often] = np.float32(weight) * impacts(counts, norms)
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
