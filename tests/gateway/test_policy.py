from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.config import Limits
from choir.gateway.policy import WINDOW, Budget, model_refusal


def test_admits_exactly_so_many() -> None:
    budget = Budget(Limits(requests_per_minute=3, concurrent_requests=9))
    assert [budget.reserve(at) for at in (0.0, 1.0, 2.0)] == [None] * 3
    refusal = budget.reserve(10.0)
    assert refusal is not None
    assert (refusal.status, refusal.outcome, refusal.retry_after) == (429, "refused:requests_per_minute", 50)
    assert "the gateway limits, not the provider" in refusal.message
    assert budget.reserve(60.0) is None
    assert budget.reserve(60.5) is not None


def test_concurrency_comes_back_and_a_refusal_costs_nothing() -> None:
    budget = Budget(Limits(requests_per_minute=3, concurrent_requests=2))
    assert budget.reserve(0.0) is None
    assert budget.reserve(0.0) is None
    for _ in range(10):
        refusal = budget.reserve(0.1)
        assert refusal is not None
        assert refusal.outcome == "refused:concurrent_requests"
    budget.release()
    assert budget.reserve(0.2) is None
    budget.release()
    budget.release()
    with pytest.raises(AssertionError):
        budget.release()


def test_limits_may_change_while_calls_are_open() -> None:
    budget = Budget(Limits(requests_per_minute=5, concurrent_requests=5))
    for at in range(5):
        assert budget.reserve(float(at)) is None
    budget.limits = Limits(requests_per_minute=2, concurrent_requests=5)
    refusal = budget.reserve(10.0)
    assert refusal is not None
    assert refusal.retry_after == 53, "when the fourth of the five leaves the window"
    for _ in range(5):
        budget.release()
    budget.limits = Limits(requests_per_minute=0, concurrent_requests=5)
    assert budget.reserve(1000.0) is not None


@given(
    st.integers(1, 6),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 80).map(lambda n: n / 4), st.booleans()), max_size=60),
)
def test_never_more_than_the_limits(per_minute: int, concurrent: int, steps: list[tuple[float, bool]]) -> None:
    budget = Budget(Limits(requests_per_minute=per_minute, concurrent_requests=concurrent))
    now, open_calls, admitted = 0.0, 0, list[float]()
    for wait, finish in steps:
        now += wait
        if finish and open_calls:
            budget.release()
            open_calls -= 1
        in_window = sum(now - at < WINDOW for at in admitted)
        refusal = budget.reserve(now)
        assert (refusal is None) == (in_window < per_minute and open_calls < concurrent)
        if refusal is None:
            admitted.append(now)
            open_calls += 1
        elif refusal.outcome.endswith("minute"):
            assert refusal.retry_after is not None
            assert sum(now + refusal.retry_after - at < WINDOW for at in admitted) < per_minute, "the advice holds"
        assert budget.active == open_calls


def test_models() -> None:
    assert model_refusal((), None) is None
    assert model_refusal(("a", "b"), "b") is None
    refusals = [model_refusal(("a", "b"), model) for model in ("c", None, "A", "")]
    assert [refusal and refusal.status for refusal in refusals] == [403, 400, 403, 403]
