from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.hypervisor.lifecycle import (
    ALIVE,
    SETTLED,
    TRANSITIONS,
    Event,
    EventName,
    Failure,
    IllegalMove,
    Reached,
    StateName,
    Status,
    advance,
)
from choir.isolation.contract import Phase

STATES = get_args(StateName)
EVENTS = get_args(EventName)


def event(name: EventName, **more: object) -> Event:
    return Event(name=name, now=1.0, **more)  # type: ignore[arg-type]


def test_every_state_has_a_row_and_every_target_is_a_state() -> None:
    assert set(TRANSITIONS) == set(STATES)
    for row in TRANSITIONS.values():
        assert set(row) <= set(EVENTS)
        assert set(row.values()) <= set(STATES)


def test_failed_can_come_from_anywhere_and_is_left_only_by_start() -> None:
    assert all(row["failed"] == "failed" for row in TRANSITIONS.values())
    assert {name for name, target in TRANSITIONS["failed"].items() if target != "failed"} == {"start"}


def test_stop_is_taken_in_every_state() -> None:
    assert all("stop" in row for row in TRANSITIONS.values())


@pytest.mark.parametrize(
    ("state", "name", "target"),
    [
        ("absent", "start", "starting"),
        ("starting", "phase", "starting"),
        ("starting", "ready", "ready"),
        ("starting", "stop", "stopping"),
        ("starting", "ended", "failed"),
        ("ready", "ended", "failed"),
        ("ready", "stop", "stopping"),
        ("stopping", "phase", "stopping"),
        ("stopping", "ready", "stopping"),
        ("stopping", "ended", "stopped"),
        ("stopping", "failed", "failed"),
        ("stopped", "start", "starting"),
        ("failed", "start", "starting"),
        ("failed", "stop", "failed"),
    ],
)
def test_moves(state: StateName, name: EventName, target: StateName) -> None:
    assert advance(Status(state=state), event(name)).state == target


@pytest.mark.parametrize(
    ("state", "name"),
    [
        ("ready", "start"),
        ("stopping", "start"),
        ("starting", "start"),
        ("absent", "ready"),
        ("stopped", "phase"),
        ("failed", "ended"),
    ],
)
def test_senseless_moves_are_refused(state: StateName, name: EventName) -> None:
    with pytest.raises(IllegalMove):
        advance(Status(state=state), event(name))


def test_a_start_forgets_the_last_life() -> None:
    failed = Status(
        state="failed", sandbox_id="a", phases=(Reached("keeper", 0.1),), failure=Failure(reason="r", message="m")
    )
    again = advance(failed, event("start", sandbox_id="b"))
    assert again == Status(state="starting", sandbox_id="b", since=1.0, started=1.0)


def test_the_first_reason_stays() -> None:
    first, second = Failure(reason="credential", message=""), Failure(reason="start_timeout", message="")
    status = advance(Status(state="starting"), event("failed", failure=first))
    assert advance(status, event("failed", failure=second)).failure == first


@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.sampled_from(get_args(Phase)))))
def test_any_order_keeps_the_invariants(moves: list[tuple[EventName, Phase]]) -> None:
    status = Status()
    for number, (name, phase) in enumerate(moves):
        reached = Reached(phase, float(number)) if name in ("phase", "ready") else None
        try:
            after = advance(status, event(name, sandbox_id=str(number), reached=reached))
        except IllegalMove:
            assert name not in TRANSITIONS[status.state]
            continue
        assert (after.failure is not None) == (after.state == "failed")
        assert len({each.phase for each in after.phases}) == len(after.phases)
        assert after.sandbox_id == status.sandbox_id or name == "start"
        assert msgspec.json.decode(msgspec.json.encode(after), type=Status) == after
        status = after


def test_alive_and_settled() -> None:
    assert {"starting", "ready", "stopping"} == ALIVE
    assert set(STATES) - {"starting", "stopping"} == SETTLED
