from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.sandbox.memory import candidates, ranking
from choir.sandbox.memory.documents import Ints
from choir.sandbox.memory.ranking import Weighted
from choir.sandbox.memory.term_postings import Postings
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
            postings({doc: min(count, lengths[doc]) for doc, count in counts.items() if doc < len(lengths)}),
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
        ranking.shares(everything, weighted, (), 0, docs, table, board),
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
        Weighted("a", postings(dict.fromkeys(range(4), 1)), 1.0),
        Weighted("b", postings({4: 1, 5: 1}), 0.95),
    ]
    board = np.zeros(len(docs.length), np.float32)
    assert candidates.candidates(terms, docs, table, 0, 2, board).tolist() == [4, 5]


def test_common_terms_are_only_looked_up_for_what_may_be_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    docs = documents([8] * 120)
    table = ranking.lengths_table(docs, 8.0)
    terms = [
        Weighted("common", postings(dict.fromkeys(range(120), 1)), 0.5),
        Weighted("less", postings({doc: 1 + doc % 2 for doc in range(0, 120, 3)}), 1.0),
        Weighted("rare", postings(dict.fromkeys(range(40, 60), 1)), 9.0),
    ]
    looked_up: list[int] = []

    def probe(part: Postings, pool: Ints) -> ranking.Place:
        looked_up.append(len(pool))
        return ranking.probe(part, pool)

    monkeypatch.setattr(candidates, "probe", probe)
    found = candidates.candidates(terms, docs, table, 0, 3, np.zeros(len(docs.length), np.float32))
    assert found.tolist() == [45, 51, 57]  # twice "less"
    assert looked_up
    assert max(looked_up) <= 20
    assert looked_up[-1] < looked_up[0]
