from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.sandbox.memory import candidates, ranking
from choir.sandbox.memory.ranking import Weighted
from tests.sandbox.memory.arrays import documents, postings


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=120),
    st.lists(st.tuples(st.dictionaries(st.integers(0, 119), st.integers(1, 5)), st.floats(0.01, 9)), max_size=6),
    st.integers(1, 6),
    st.booleans(),
)
def test_candidates_are_the_best_by_brute_force(
    lengths: list[int], terms: list[tuple[dict[int, int], float]], wanted: int, sparse: bool
) -> None:
    docs = documents(lengths)
    table = ranking.lengths_table(docs, 8.0)
    weighted = [
        Weighted(
            str(at),
            postings(docs, {doc: min(count, lengths[doc]) for doc, count in counts.items() if doc < len(lengths)}),
            weight,
        )
        for at, (counts, weight) in enumerate(terms)
    ]
    board = np.zeros(len(docs.length), np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "_SPARSE", 0 if sparse else 1 << 30)
        found = candidates.candidates(weighted, docs, table, 0, wanted, board)
    assert not board.any()
    everything = np.arange(len(lengths), dtype=np.int32)
    scores = sum(
        ranking.shares(everything, weighted, (), 0, docs, table),
        np.zeros(len(lengths), np.float64),
    )
    assert len(found) == min(wanted, np.count_nonzero(scores))
    if len(found):
        rest = np.setdiff1d(everything, found)
        assert scores[found].min() > 0
        assert not len(rest) or scores[found].min() >= scores[rest].max() - 1e-4


def test_a_document_without_the_weightiest_term_may_still_be_the_best() -> None:
    docs = documents([30] * 4 + [1] * 4)
    table = ranking.lengths_table(docs, 8.0)
    terms = [
        Weighted("a", postings(docs, dict.fromkeys(range(4), 1)), 1.0),
        Weighted("b", postings(docs, {4: 1, 5: 1}), 0.95),
    ]
    board = np.zeros(len(docs.length), np.float32)
    assert candidates.candidates(terms, docs, table, 0, 2, board).tolist() == [4, 5]
