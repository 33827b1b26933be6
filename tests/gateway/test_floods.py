from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from choir.gateway.floods import MINUTE, PER_MINUTE, Floods


def test_beyond_the_rate_refusals_are_counted_by_outcome() -> None:
    floods = Floods()
    assert all(floods.count("refused:a", 401, 10, 1000.0, 5.0) for _ in range(PER_MINUTE))
    assert floods.due(100.0) == []
    floods = Floods()
    for _ in range(PER_MINUTE):
        floods.count("refused:a", 401, 10, 1000.0, 5.0)
    for n in range(7):
        assert not floods.count("refused:a" if n % 2 else "refused:b", 429, 10, 1001.0 + n, 6.0)
    assert floods.due(6.0) == []
    assert floods.due(5.0 + MINUTE - 0.01) == []
    b, a = floods.due(5.0 + MINUTE)
    assert (b.outcome, b.status, b.count, b.bytes_out, b.since) == ("refused:b", 429, 4, 40, 1001.0)
    assert (a.outcome, a.count) == ("refused:a", 3)
    assert floods.due(1000.0) == []
    assert floods.count("refused:a", 401, 10, 1100.0, 66.0), "a new minute"


def test_at_once() -> None:
    floods = Floods()
    for _ in range(PER_MINUTE + 2):
        floods.count("refused:a", 401, 10, 0.0, 5.0)
    assert [summary.count for summary in floods.due(5.0, at_once=True)] == [2]
    assert not floods.count("refused:a", 401, 10, 0.0, 6.0), "the minute goes on"


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 900), st.sampled_from("ab"), st.booleans()), max_size=30))
def test_none_is_lost_and_the_rate_is_held(steps: list[tuple[int, int, str, bool]]) -> None:
    floods, now = Floods(), 0.0
    made: Counter[str] = Counter()
    found: Counter[str] = Counter()
    own: list[float] = []
    for wait, number, outcome, tick in steps:
        now += wait
        made[outcome] += number
        for _ in range(number):
            if floods.count(outcome, 400, 0, 0.0, now):
                found[outcome] += 1
                own.append(now)
        if tick:
            for summary in floods.due(now):
                found[summary.outcome] += summary.count
        assert sum(now - at < MINUTE for at in own) <= 2 * PER_MINUTE
    for summary in floods.due(now, at_once=True):
        found[summary.outcome] += summary.count
    assert found == made
