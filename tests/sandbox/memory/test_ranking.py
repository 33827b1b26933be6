from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from choir.sandbox.memory import ranking
from choir.sandbox.memory.documents import Documents
from choir.sandbox.memory.postings import Postings
from choir.sandbox.memory.ranking import Weighted


def documents(lengths: list[int], previous: list[int | None] | None = None) -> Documents:
    found = Documents()
    found.add_page(0, 0)
    for doc, length in enumerate(lengths):
        found.add(doc, length, False, 1000 + doc % 3, previous[doc] if previous else None)
    return found


def postings(counts: dict[int, int]) -> Postings:
    docs = sorted(counts)
    return Postings(
        np.array(docs, np.int32), np.array([counts[each] for each in docs], np.uint8), np.zeros(len(docs), np.uint8)
    )


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=40),
    st.lists(st.tuples(st.dictionaries(st.integers(0, 39), st.integers(1, 5)), st.floats(0.01, 9)), max_size=6),
    st.integers(1, 6),
)
def test_candidates_are_the_best_by_brute_force(
    lengths: list[int], terms: list[tuple[dict[int, int], float]], wanted: int
) -> None:
    docs = documents(lengths)
    table = ranking.lengths_table(docs, 8.0)
    weighted = [
        Weighted(str(at), postings({doc: count for doc, count in counts.items() if doc < len(lengths)}), weight)
        for at, (counts, weight) in enumerate(terms)
    ]
    board = np.zeros(len(docs.length), np.float32)
    found = ranking.candidates(weighted, docs, table, None, wanted, board)
    assert not board.any()
    everything = np.arange(len(lengths), dtype=np.int32)
    scores = sum(
        (each.weight * ranking.looked_up(each.postings, everything, docs, table) for each in weighted),
        np.zeros(len(lengths), np.float64),
    )
    assert len(found) == min(wanted, np.count_nonzero(scores))
    if len(found):
        rest = np.setdiff1d(everything, found)
        assert scores[found].min() > 0
        assert not len(rest) or scores[found].min() >= scores[rest].max() - 1e-4


def test_context_is_the_maximum_over_neighbours() -> None:
    # A thread of five; one without a thread, which is nobody's neighbour.
    docs = documents([8] * 6, [None, 0, 1, 2, 3, None])
    table = ranking.lengths_table(docs, 8.0)
    term = Weighted("t", postings({1: 1, 5: 1}), 1.0)
    window = ranking.window(docs, np.array([1, 5], np.int32))
    own = ranking.shares(window, [term], (), docs, table)
    scores = dict(zip(window.links.tolist(), ranking.spread(window, own).sum(axis=0).tolist(), strict=True))
    one = scores[5]
    assert scores[1] == one
    assert scores[0] == np.float32(one * np.float32(ranking.FORWARD[0]))
    assert [scores[2], scores[3], scores[4]] == [np.float32(one * np.float32(each)) for each in ranking.BACK[:3]]
    assert set(scores) == {0, 1, 2, 3, 4, 5}


def test_a_repeat_has_neighbours_of_its_own() -> None:
    docs = documents([8, 8, 8], [None, 0, None])  # 0-1 in one thread
    docs.add_repeat(0, 1, 2)  # 2-1 in another
    docs.add_repeat(1, 0, ~0)  # ... and 0 again
    window = ranking.window(docs, np.array([1], np.int32), spread=False)
    near = {
        tuple(sorted(window.docs[each] for each in row if each >= 0)) for row in np.transpose(window.around).tolist()
    }
    assert near == {(0, 1), (0, 1, 2)}


def test_pairs_count_when_side_by_side() -> None:
    docs = documents([8, 8])
    table = ranking.lengths_table(docs, 8.0)
    both = np.array([0, 1], np.int32)
    left = Weighted("l", Postings(both, np.ones(2, np.uint8), np.array([3, 3], np.uint8)), 1.0)
    right = Weighted("r", Postings(both, np.ones(2, np.uint8), np.array([4, 5], np.uint8)), 1.0)
    own = ranking.shares(ranking.window(docs, both), [left, right], [(0, 1)], docs, table)
    assert own[2].tolist() == [np.float32(ranking.PAIR) * own[0][0], 0.0]


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0.001, 1e3))
def test_relevance(one: float, other: float, ideal: float) -> None:
    low, high = sorted((ranking.relevance(one, ideal), ranking.relevance(other, ideal)))
    assert 0 <= low <= high <= 1
    assert ranking.relevance(min(one, other), ideal) == low
    assert ranking.relevance(ideal, ideal) == 0.75


def test_a_document_without_the_weightiest_term_may_still_be_the_best() -> None:
    docs = documents([30] * 4 + [1] * 4)
    table = ranking.lengths_table(docs, 8.0)
    terms = [Weighted("a", postings(dict.fromkeys(range(4), 1)), 1.0), Weighted("b", postings({4: 1, 5: 1}), 0.95)]
    board = np.zeros(len(docs.length), np.float32)
    assert ranking.candidates(terms, docs, table, None, 2, board).tolist() == [4, 5]
