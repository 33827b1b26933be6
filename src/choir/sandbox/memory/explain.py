"""Why an item ranks where it does. Pure but for looking up the neighbours' ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from choir.sandbox.memory import ranking
from choir.sandbox.memory.documents import Documents
from choir.sandbox.memory.model import Explanation, Item, TermShare
from choir.sandbox.memory.search import Ranked, Scored


def explain(
    doc: int,
    ranked: Ranked,
    scored: Scored,
    documents: Documents,
    items: Callable[[Sequence[int]], dict[int, Item]],
) -> Explanation:
    """``scored`` is of ``doc`` alone."""
    query, window = scored.query, scored.window
    best = int(ranking.spread(window, scored.own).sum(axis=0).argmax())
    around = window.around[:, best]
    found: list[tuple[str, str, float, int, float, float]] = []
    for (name, origin, rarity), row in zip(_rows(scored, documents), scored.own, strict=True):
        shares = np.where(around >= 0, row[around], 0) * np.array(window.decays, np.float32)
        at = int(shares.argmax())
        if shares[at] > 0:
            found.append((name, origin, rarity, int(window.docs[around[at]]), window.decays[at], float(shares[at])))
    known = items(sorted({doc, *(each[3] for each in found)}))
    factors = ranking.factors(documents, np.array([doc], np.int32), query.spans)
    score = float(ranked.scores[0]) if len(ranked.scores) else 0.0
    return Explanation(
        item=known[doc],
        relevance=ranking.relevance(score, query.ideal),
        shares=tuple(
            TermShare(name, origin, rarity, None if source == doc else known[source].item_id, decay, share)
            for name, origin, rarity, source, decay, share in sorted(found, key=lambda each: (-each[5], each[0]))
        ),
        factors={name: float(values[0]) for name, values in factors.items()},
        ideal=query.ideal,
        missing=query.missing,
    )


def _rows(scored: Scored, documents: Documents) -> list[tuple[str, str, float]]:
    """(term, origin, idf) of each row of ``scored.own``: the query's terms, its pairs, the terms of the feedback."""
    total = sum(each.documents for each in documents.totals.values())
    own = scored.query.terms

    def single(each: ranking.Weighted) -> tuple[str, str, float]:
        return each.term, each.origin, ranking.idf(total, len(each.postings))

    pairs = [
        (f"{own[left].term} {own[right].term}", "pair", min(single(own[left])[2], single(own[right])[2]))
        for left, right in scored.query.pairs
    ]
    return [*map(single, own), *pairs, *map(single, scored.terms[len(own) :])]
