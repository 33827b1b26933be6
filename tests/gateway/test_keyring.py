from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from choir.gateway.keyring import FIRST_REST, LONGEST_REST, LONGEST_TOLD, Keyring, KeyState, label


def test_one_key_is_used_until_it_is_turned_away() -> None:
    ring = Keyring(["env:A", "env:B", "env:C"])
    assert [ring.choose(float(now)) for now in range(3)] == [0, 0, 0]
    assert ring.turned_away(0, "limited", 30.0, 3.0)
    assert ring.choose(3.0) == 1
    assert ring.choose(40.0) == 1, "what is cached by key stays of use"
    assert ring.turned_away(1, "refused", None, 40.0)
    assert ring.choose(40.0) == 2
    assert ring.turned_away(2, "limited", None, 41.0)
    assert ring.choose(41.0) == 0, "its rest is over"
    assert ring.accepted(0)
    assert not ring.accepted(0)
    assert [state.state for state in ring.states(41.0)] == ["in use", "refused", "limited"]
    assert ring.states(41.0)[1] == KeyState("env:B", "refused", 9)


def test_many_calls_under_way_are_one_strike() -> None:
    ring = Keyring(["env:A", "env:B"])
    assert [ring.turned_away(0, "refused", None, 0.0) for _ in range(50)] == [True] + [False] * 49
    assert ring.states(0.0)[0].seconds == FIRST_REST["refused"]
    ring.turned_away(0, "limited", 100.0, 1.0)
    assert ring.states(1.0)[0].seconds == 100, "a longer rest that is told later counts"


def test_each_rest_is_twice_as_long_up_to_a_bound() -> None:
    ring = Keyring(["env:A", "env:B"])
    now, rests = 0.0, []
    for _ in range(9):
        ring.turned_away(0, "refused", None, now)
        rests.append(ring.states(now)[0].seconds)
        now += rests[-1]
    assert rests == [10, 20, 40, 80, 160, 320, 600, 600, 600]
    ring.accepted(0)
    ring.turned_away(0, "refused", None, now)
    assert ring.states(now)[0].seconds == 10


def test_the_only_key_never_rests() -> None:
    ring = Keyring(["env:A"])
    assert not ring.turned_away(0, "refused", None, 0.0)
    assert not ring.turned_away(0, "limited", 100.0, 0.0)
    assert not ring.troubled
    assert ring.choose(0.0) == 0


@pytest.mark.parametrize(
    ("verdicts", "status", "outcome", "text", "wait"),
    [
        (("limited", "limited"), 429, "upstream:keys_limited", "(A: limited, key.txt: limited)", 5),
        (("refused", "limited"), 429, "upstream:keys_limited", "(A: refused, key.txt: limited)", 5),
        (("refused", "refused"), 502, "upstream:keys_refused", "(A: refused, key.txt: refused)", 10),
    ],
)
def test_a_call_is_told_which_keys_rest(verdicts: tuple, status: int, outcome: str, text: str, wait: int) -> None:
    ring = Keyring(["env:A", "file:/etc/choir/key.txt"])
    for index, verdict in enumerate(verdicts):
        ring.turned_away(index, verdict, None, 0.0)
    assert ring.choose(0.0) is None
    refusal = ring.refusal("p", 0.0)
    assert (refusal.status, refusal.outcome, refusal.retry_after) == (status, outcome, wait)
    assert text in refusal.message
    assert "/etc" not in refusal.message
    assert ring.choose(float(wait)) is not None


def test_labels() -> None:
    assert [label(each) for each in ("env:A", "file:/a/b", "service:local")] == ["A", "b", "local"]


class Machine(RuleBasedStateMachine):
    """``rests`` is when each key's rest ends at the latest."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.ring = Keyring(["env:A", "env:B", "env:C"])
        self.rests = [0.0, 0.0, 0.0]

    @rule(seconds=st.floats(0, 700))
    def later(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        index=st.integers(0, 2),
        verdict=st.sampled_from(["refused", "limited"]),
        told=st.none() | st.floats(0, 10**6),
    )
    def turned_away(self, index: int, verdict: str, told: float | None) -> None:
        rested = self.ring.states(self.now)[index].seconds > 0
        news = self.ring.turned_away(index, verdict, told, self.now)  # type: ignore[arg-type]
        assert news != rested
        longest = LONGEST_REST[verdict] if told is None else min(max(told, 1.0), LONGEST_TOLD)  # type: ignore[index]
        self.rests[index] = max(self.rests[index], self.now + longest)

    @precondition(lambda self: self.ring.choose(self.now) is not None)
    @rule()
    def accepted(self) -> None:
        index = self.ring.choose(self.now)
        assert index is not None
        self.ring.accepted(index)
        self.rests[index] = 0.0

    @invariant()
    def a_key_that_rests_is_not_chosen_and_one_that_does_not_is_found(self) -> None:
        states = self.ring.states(self.now)
        resting = [state.state in ("refused", "limited") for state in states]
        chosen = self.ring.choose(self.now)
        assert (chosen is None) == all(resting)
        if chosen is None:
            wait = self.ring.refusal("p", self.now).retry_after
            assert wait is not None
            assert 1 <= wait <= LONGEST_TOLD + 1
            assert self.ring.choose(self.now + wait) is not None
        else:
            assert not resting[chosen]

    @invariant()
    def no_rest_is_longer_than_it_may_be(self) -> None:
        for until, state in zip(self.rests, self.ring.states(self.now), strict=True):
            assert state.seconds <= max(0.0, until - self.now) + 1
        if self.ring.choose(self.now) is not None and not self.ring.troubled:
            assert all(state.seconds == 0 for state in self.ring.states(self.now))


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=30, suppress_health_check=list(HealthCheck))
