from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from choir.sandbox.memory import ranking
from choir.sandbox.memory.ranking import Weighted
from choir.sandbox.memory.term_postings import TermPostings
from tests.sandbox.memory.arrays import board, documents, part, postings


def test_context_is_the_maximum_over_neighbours() -> None:
    # A thread of five; one without a thread, which is nobody's neighbour.
    docs = documents([8] * 6, [None, 0, 1, 2, 3, None])
    table = ranking.lengths_table(docs, 8.0)
    term = Weighted("t", postings({1: 1, 5: 1}), 1.0)
    window = ranking.window(docs, np.array([1, 5], np.int32))
    own = ranking.shares(window.docs, [term], (), 0, docs, table, board(docs))
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
    left, right = (
        Weighted("w", TermPostings.of([(0, part([0, 1], [1, 1], first))]), 1.0) for first in ([3, 3], [4, 5])
    )
    own = ranking.shares(both, [left, right], [(0, 1)], 0, docs, table, board(docs))
    assert own[2].tolist() == [np.float32(ranking.PAIR) * own[0][0], 0.0]


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0.001, 1e3))
def test_relevance(one: float, other: float, ideal: float) -> None:
    low, high = sorted((ranking.relevance(one, ideal), ranking.relevance(other, ideal)))
    assert 0 <= low <= high <= 1
    assert ranking.relevance(min(one, other), ideal) == low
    assert ranking.relevance(ideal, ideal) == 0.75


@given(st.sets(st.integers(0, 19), min_size=1))
def test_a_part_of_a_window_is_the_window_of_that_part(found: set[int]) -> None:
    docs = documents([8] * 20, [None, *range(12), None, *range(13, 19)])
    table = ranking.lengths_table(docs, 8.0)
    terms = [
        Weighted("a", postings(dict.fromkeys(range(0, 20, 3), 1)), 1.0),
        Weighted("b", postings({4: 2}), 2.0),
    ]
    whole = ranking.window(docs, np.arange(20, dtype=np.int32))
    few = np.array(sorted(found), np.int32)
    part, own = whole.part(few, ranking.shares(whole.docs, terms, [(0, 1)], 0, docs, table, board(docs)))
    alone = ranking.window(docs, few, spread=False)
    assert part.links.tolist() == alone.links.tolist()
    assert part.docs.tolist() == alone.docs.tolist()
    assert part.around.tolist() == alone.around.tolist()
    assert own.tolist() == ranking.shares(alone.docs, terms, [(0, 1)], 0, docs, table, board(docs)).tolist()
