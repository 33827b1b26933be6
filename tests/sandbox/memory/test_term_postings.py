from __future__ import annotations

from choir.sandbox.memory.term_postings import TermPostings
from tests.sandbox.memory.arrays import part


def test_parts_of_a_term() -> None:
    parts = TermPostings.of([(0, part([131072], [2])), (1, part([65543], [1])), (0, part([1, 5], [1, 9]))])
    assert len(parts) == 4
    assert [each.docs.tolist() for each in parts.within(0)] == [[131072], [1, 5]]
    assert [each.often().tolist() for each in parts.within(0)] == [[0], [1]]
    assert parts.within(2) == ()
    docs, counts, _ = parts.whole()
    assert docs.tolist() == [1, 5, 65543, 131072]
    assert counts.tolist() == [1, 9, 1, 2]
    assert len(TermPostings.of([]).whole()[0]) == 0
