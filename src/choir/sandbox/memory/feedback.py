"""Pseudo-relevance feedback: words of the best items join the query (RM3, Abdul-Jaleel et al. 2004). Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

ITEMS = 8
TERMS = 12
"""Twenty find 0.2 % more on LoCoMo and 0.5 % less on Cranfield, and a question takes a tenth longer."""

SHARE = 0.4
"""Of the query's own weight, spread over the new terms: they never outweigh what was asked, however rare they are."""

Keys = npt.NDArray[np.int64]


def expansion(
    best: Sequence[tuple[float, Sequence[int]]],
    query: Sequence[int],
    idf: Callable[[Keys], npt.NDArray[np.float64]],
    own: float,
) -> list[tuple[int, float]]:
    """New terms and their weights.

    Args:
        best: (score, the keys of its terms) of the first items.
        query: the keys of its terms.
        idf: of keys; 0 for a term that is too common to be worth its cost.
        own: the sum of the weights of the query's terms.
    """
    total = sum(score for score, _ in best)
    if total <= 0:
        return []
    counts = [len(keys) for _, keys in best]
    each = np.array([score for score, _ in best]) / (total * np.array(counts))
    every = np.array([key for _, keys in best for key in keys], np.int64)
    order = np.argsort(every, kind="stable")
    every = every[order]
    begins = np.concatenate(([True], every[1:] != every[:-1]))
    keys = every[begins]
    weights = np.bincount(np.cumsum(begins) - 1, np.repeat(each, counts)[order]) * idf(keys)
    known = set(query)
    weights[[at for at, key in enumerate(keys.tolist()) if key in known]] = 0
    chosen = np.lexsort((-keys, -weights))[:TERMS]
    chosen = chosen[weights[chosen] > 0]
    whole = weights[chosen].sum()
    return [(int(keys[at]), float(SHARE * own * weights[at] / whole)) for at in chosen]
