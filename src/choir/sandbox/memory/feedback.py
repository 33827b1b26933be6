"""Pseudo-relevance feedback: words of the best items join the query (RM3, Abdul-Jaleel et al. 2004). Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

ITEMS = 8
TERMS = 20
SHARE = 0.4
"""Of the query's own weight, spread over the new terms: they never outweigh what was asked, however rare they are."""


def expansion(
    best: Sequence[tuple[float, Sequence[int]]], query: set[int], idf: Callable[[int], float | None], own: float
) -> list[tuple[int, float]]:
    """New terms and their weights.

    Args:
        best: (score, the keys of its terms) of the first items.
        idf: of a key; None when the term is too common to be worth its cost.
        own: the sum of the weights of the query's terms.
    """
    total = sum(score for score, _ in best)
    weights: dict[int, float] = {}
    if total <= 0:
        return []
    for score, keys in best:
        each = score / total / len(keys)
        for key in keys:
            weights[key] = weights.get(key, 0.0) + each
    ranked = []
    for key, weight in weights.items():
        if key in query:
            continue
        rarity = idf(key)
        if rarity is not None:
            ranked.append((weight * rarity, key))
    ranked.sort(reverse=True)
    chosen = ranked[:TERMS]
    whole = sum(weight for weight, _ in chosen)
    return [(key, SHARE * own * weight / whole) for weight, key in chosen] if whole > 0 else []
