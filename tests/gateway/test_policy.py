from __future__ import annotations

import calendar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from choir.config import Limits
from choir.gateway.policy import DAY, WINDOW, Budget, Reservation, Spending, model_refusal
from choir.gateway.prices import USD
from choir.gateway.refusals import Refusal


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


NEW_YEARS_EVE = calendar.timegm((2026, 12, 31, 12, 0, 0))


def test_tokens_a_minute() -> None:
    spending, limits = Spending(), Limits(tokens_per_minute=100)
    first = spending.reserve(limits, 60, 0, 0.0, 0.0)
    assert isinstance(first, Reservation)
    refusal = spending.reserve(limits, 41, 0, 1.0, 1.0)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.reason, refusal.retry_after) == (429, "tokens_per_minute", 1)
    spending.settle(first, 30, 0, 10.0, 10.0)
    second = spending.reserve(limits, 70, 0, 11.0, 11.0)
    assert isinstance(second, Reservation)
    spending.settle(second, 70, 0, 12.0, 12.0)
    refusal = spending.reserve(limits, 50, 0, 13.0, 13.0)
    assert isinstance(refusal, Refusal)
    assert refusal.retry_after == 59, "when the second has left the window"
    assert isinstance(spending.reserve(limits, 30, 0, 70.0, 70.0), Reservation)
    refusal = spending.reserve(limits, 101, 0, 1000.0, 1000.0)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.reason) == (403, "bound_over_limit"), "waiting would not help"


def test_money_a_day_and_a_month() -> None:
    spending, limits = Spending(), Limits(usd_per_day=1.0, usd_per_month=1.5)
    spending.load(USD // 2, USD, NEW_YEARS_EVE)
    assert isinstance(spending.reserve(limits, 0, USD // 2 + 1, 0.0, NEW_YEARS_EVE), Refusal)
    held = spending.reserve(limits, 0, USD // 2, 0.0, NEW_YEARS_EVE)
    assert isinstance(held, Reservation)
    refusal = spending.reserve(limits, 0, 1, 0.0, NEW_YEARS_EVE)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.reason, refusal.retry_after) == (429, "usd_per_month", 1), "a call may end sooner"
    assert "0.5000 reserved" in refusal.message
    spending.settle(held, 0, USD // 2, 1.0, NEW_YEARS_EVE + 1)
    refusal = spending.reserve(limits, 0, 1, 2.0, NEW_YEARS_EVE + 2)
    assert isinstance(refusal, Refusal)
    assert refusal.retry_after == DAY // 2 - 2
    assert isinstance(spending.reserve(limits, 0, USD, 3.0, NEW_YEARS_EVE + DAY // 2), Reservation)


def test_a_call_over_midnight_is_of_the_day_it_began() -> None:
    spending, limits = Spending(), Limits(usd_per_day=1.0)
    held = spending.reserve(limits, 0, USD, 0.0, NEW_YEARS_EVE)
    assert isinstance(held, Reservation)
    tomorrow = NEW_YEARS_EVE + DAY
    assert isinstance(spending.reserve(limits, 0, 1, 0.0, tomorrow), Refusal), "it could still be charged"
    spending.settle(held, 0, USD, 1.0, tomorrow)
    assert isinstance(spending.reserve(limits, 0, USD, 2.0, tomorrow), Reservation)


def test_the_month_goes_on_after_the_day() -> None:
    spending, limits = Spending(), Limits(usd_per_day=1.0, usd_per_month=1.5)
    start = calendar.timegm((2026, 3, 3, 0, 0, 0))
    spending.spend(USD, start, start)
    assert isinstance(spending.reserve(limits, 0, USD // 2 + 1, 0.0, start + DAY), Refusal)
    refusal = spending.reserve(limits, 0, USD // 2 + 1, 0.0, start + DAY)
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.retry_after) == ("usd_per_month", 28 * DAY)
    assert isinstance(spending.reserve(limits, 0, USD // 2, 0.0, start + DAY), Reservation)


class Spendings(RuleBasedStateMachine):
    """Two sandboxes of one user: whatever happens in whatever order, the limits hold and nothing stays reserved."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = Limits(
            tokens_per_minute=100, usd_per_day=50 / USD, usd_per_month=120 / USD, requests_per_minute=9
        )
        self.spending = Spending()
        self.budgets = [Budget(self.limits), Budget(self.limits)]
        self.now, self.wall = 0.0, float(NEW_YEARS_EVE - 40 * DAY)
        self.open: list[tuple[Budget, Reservation]] = []
        self.used: list[tuple[float, int]] = []
        self.spent: list[tuple[float, int]] = []

    @staticmethod
    def month(wall: float) -> int:
        return int(wall // DAY) >= calendar.timegm((2026, 12, 1, 0, 0, 0)) // DAY

    def in_window(self) -> int:
        return sum(tokens for at, tokens in self.used if self.now - at < WINDOW)

    def today(self) -> int:
        return sum(cost for wall, cost in self.spent if wall // DAY == self.wall // DAY)

    def this_month(self) -> int:
        return sum(cost for wall, cost in self.spent if self.month(wall) == self.month(self.wall))

    @rule(which=st.integers(0, 1), tokens=st.integers(0, 120), cost=st.integers(0, 60))
    def start(self, which: int, tokens: int, cost: int) -> None:
        budget = self.budgets[which]
        if budget.reserve(self.now) is not None:
            return
        held_tokens = sum(reservation.tokens for _, reservation in self.open)
        held_cost = sum(reservation.cost for _, reservation in self.open)
        fits = (
            self.in_window() + held_tokens + tokens <= 100
            and self.today() + held_cost + cost <= 50
            and self.this_month() + held_cost + cost <= 120
        )
        reserved = self.spending.reserve(self.limits, tokens, cost, self.now, self.wall)
        assert isinstance(reserved, Reservation) == fits
        if isinstance(reserved, Reservation):
            self.open.append((budget, reserved))
        else:
            budget.release()

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        budget, reserved = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        tokens = data.draw(st.integers(0, reserved.tokens))
        cost = data.draw(st.integers(0, reserved.cost))
        self.spending.settle(reserved, tokens, cost, self.now, self.wall)
        budget.release()
        self.used.append((self.now, tokens))
        self.spent.append((reserved.wall, cost))

    @rule(seconds=st.sampled_from([0.5, 10, 59, 3600, DAY // 2, 9 * DAY]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds

    @rule()
    def restart(self) -> None:
        """The ledger has what was settled; the open calls are gone with the process."""
        old = self.spending
        self.spending = Spending()
        self.spending.load(self.today(), self.this_month(), self.wall)
        for budget, _ in self.open:
            budget.release()
        self.open.clear()
        self.used.clear()
        del old

    @invariant()
    def limits_hold(self) -> None:
        assert self.in_window() + sum(reservation.tokens for _, reservation in self.open) <= 100
        assert self.today() <= 50
        assert self.this_month() <= 120
        assert self.spending.tokens == sum(reservation.tokens for _, reservation in self.open)
        assert self.spending.cost == sum(reservation.cost for _, reservation in self.open)

    def teardown(self) -> None:
        for _, reserved in self.open:
            self.spending.settle(reserved, 0, 0, self.now, self.wall)
        assert (self.spending.tokens, self.spending.cost) == (0, 0)


TestSpendings = Spendings.TestCase


def test_settled_twice_is_a_defect() -> None:
    spending = Spending()
    held = spending.reserve(Limits(), 1, 1, 0.0, 0.0)
    assert isinstance(held, Reservation)
    spending.settle(held, 1, 1, 0.0, 0.0)
    with pytest.raises(AssertionError):
        spending.settle(held, 1, 1, 0.0, 0.0)
