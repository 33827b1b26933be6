from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from choir.gateway.breaker import FIRST_PAUSE, LONGEST_PAUSE, TRY_SECONDS, WINDOW, Breaker

FAILURES = 5


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker(FAILURES)
    assert [breaker.failed("ann", "reset", now) for _ in range(FAILURES)] == [False] * (FAILURES - 1) + [True]
    return breaker


def test_failures_in_a_row_open_it() -> None:
    breaker = opened()
    assert (breaker.closed, breaker.state(0.0), breaker.opened) == (False, "open", 1)
    assert not breaker.admit("ann", FIRST_PAUSE - 0.1)
    refusal = breaker.refusal("p", 1.0)
    assert (refusal.status, refusal.outcome, refusal.retry_after) == (503, "refused:circuit_open", 4)
    assert "p failed several times in a row, last with `reset`, and is tried again in 4 s" in refusal.message


def test_one_answer_between_them_does_not() -> None:
    breaker = Breaker(FAILURES)
    for _ in range(10):
        for _ in range(FAILURES - 1):
            assert not breaker.failed("ann", "http_500", 0.0)
        assert not breaker.answered()
    assert breaker.closed


def test_failures_that_are_far_apart_do_not() -> None:
    breaker = Breaker(FAILURES)
    for turn in range(50):
        assert not breaker.failed("ann", "http_500", turn * (WINDOW / (FAILURES - 1) + 0.01))
    assert breaker.closed


def test_after_the_pause_one_call_tries() -> None:
    breaker = opened()
    assert breaker.state(FIRST_PAUSE) == "half-open"
    assert [breaker.admit("ann", FIRST_PAUSE) for _ in range(3)] == [True, False, False]
    assert breaker.answered()
    assert breaker.closed
    assert breaker.admit("ann", FIRST_PAUSE)
    assert not breaker.failed("ann", "reset", FIRST_PAUSE), "it counts from nothing again"


def test_a_try_that_fails_makes_the_pause_longer() -> None:
    breaker, now, pauses = opened(), 0.0, []
    for _ in range(6):
        pause = breaker.wait(now)
        pauses.append(pause)
        now += pause
        assert breaker.admit("ann", now)
        assert breaker.failed("ann", "connect_timeout", now)
    assert pauses == [5, 10, 20, 40, 60, 60]
    assert breaker.wait(now) == LONGEST_PAUSE
    now += LONGEST_PAUSE
    assert breaker.admit("ann", now)
    breaker.answered()
    for _ in range(FAILURES):
        breaker.failed("ann", "reset", now)
    assert breaker.wait(now) == FIRST_PAUSE


def test_calls_that_began_before_do_not_make_it_longer() -> None:
    breaker = opened()
    assert not breaker.failed("ann", "reset", 1.0)
    assert not breaker.failed("ann", "reset", FIRST_PAUSE), "nobody tries"
    assert breaker.wait(0.0) == FIRST_PAUSE


def test_a_try_without_an_outcome_does_not_block() -> None:
    breaker = opened()
    assert breaker.admit("ann", FIRST_PAUSE)
    breaker.left()
    assert breaker.admit("ann", FIRST_PAUSE)
    assert not breaker.admit("ann", FIRST_PAUSE + TRY_SECONDS - 1)
    assert breaker.admit("ann", FIRST_PAUSE + TRY_SECONDS)


def test_one_users_failures_do_not_cut_off_another() -> None:
    breaker = opened()
    assert breaker.admit("bob", 0.0)
    assert not breaker.admit("bob", 0.0), "once"
    assert not breaker.failed("bob", "http_500", 1.0)
    assert breaker.wait(0.0) == FIRST_PAUSE
    assert breaker.admit("eve", 1.0)
    assert breaker.answered()
    assert breaker.admit("ann", 1.0)


def test_it_never_opens_where_the_operator_says_so() -> None:
    breaker = Breaker(0)
    assert not any(breaker.failed("ann", "reset", 0.0) for _ in range(100))
    assert breaker.closed


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(FAILURES)
        self.now = 0.0
        self.row = 0

    @rule(seconds=st.floats(0, 100))
    def later(self, seconds: float) -> None:
        self.now += seconds

    @rule(user=st.sampled_from("abc"))
    def admit(self, user: str) -> None:
        if self.breaker.closed:
            assert self.breaker.admit(user, self.now)
            return
        before = [self.breaker.admit(user, self.now) for _ in range(3)]
        assert sum(before) <= 2, "a user's own try and the one for all"

    @rule(user=st.sampled_from("abc"))
    def failed(self, user: str) -> None:
        self.row += 1
        closed = self.breaker.closed
        opens = self.breaker.failed(user, "reset", self.now)
        if closed and opens:
            assert self.row >= FAILURES
        assert self.breaker.failing

    @rule()
    def answered(self) -> None:
        self.row = 0
        assert self.breaker.answered() == (not self.breaker.closed) or self.breaker.closed
        assert self.breaker.closed
        assert not self.breaker.failing

    @rule()
    def left(self) -> None:
        self.breaker.left()

    @invariant()
    def a_pause_is_bounded_and_then_somebody_may_try(self) -> None:
        if not self.breaker.closed:
            assert 1 <= self.breaker.wait(self.now) <= LONGEST_PAUSE
            assert self.breaker.failing


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, suppress_health_check=list(HealthCheck))
