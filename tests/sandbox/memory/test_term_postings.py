from __future__ import annotations

import numpy as np

from choir.sandbox.memory.postings import gather
from choir.sandbox.memory.term_postings import Postings, TermPostings
from tests.sandbox.memory.arrays import listed


def test_parts_of_a_term() -> None:
    lengths = np.arange(200_000).astype(np.uint16)
    lists = [(0, [(2, {0: (2, 3)})]), (1, [(1, {7: (1, 1)})]), (0, [(0, {1: (1, 0), 5: (9, 4)})])]
    parts = TermPostings.of(
        (collection, Postings.of(gather([(page, listed(entries)) for page, entries in own]), lengths))
        for collection, own in lists
    )
    assert len(parts) == 4
    assert [part.docs.tolist() for part in parts.within(0)] == [[131072], [1, 5]]
    assert [part.often.tolist() for part in parts.within(0)] == [[0], [1]]
    assert parts.within(0)[1].lengths.tolist() == [1, 5]
    assert parts.within(2) == ()
    docs, counts, _ = parts.whole()
    assert docs.tolist() == [1, 5, 65543, 131072]
    assert counts.tolist() == [1, 9, 1, 2]
    assert len(TermPostings.of([]).whole()[0]) == 0
