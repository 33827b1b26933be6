from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.hypervisor.restart import BACK_OFF, WINDOW, after_crash, loop_hint


@pytest.mark.parametrize(
    ("before", "wait"),
    [
        ((), BACK_OFF[0]),
        ((900.0,), BACK_OFF[1]),
        ((800.0, 900.0), BACK_OFF[2]),
        ((700.0, 800.0, 900.0), None),
        ((1000.0 - WINDOW,), BACK_OFF[0]),
        ((1.0, 2.0, 3.0, 900.0), BACK_OFF[1]),
    ],
)
def test_waits_grow_and_end(before: tuple[float, ...], wait: float | None) -> None:
    recent, seconds = after_crash(before, 1000.0)
    assert seconds == wait
    assert recent[-1] == 1000.0


@given(st.lists(st.floats(0, 2 * WINDOW), max_size=200))
def test_never_more_restarts_than_the_back_off_has(gaps: list[float]) -> None:
    crashes: tuple[float, ...] = ()
    now, restarts = 0.0, []
    for gap in gaps:
        now += gap
        crashes, wait = after_crash(crashes, now)
        assert list(crashes) == sorted(crashes)
        if wait is None:
            crashes = ()  # a person starts it again
            restarts = []
        else:
            restarts.append(now)
            assert sum(now - at < WINDOW for at in restarts) <= len(BACK_OFF)


def test_a_loop_is_named() -> None:
    assert "4 times" in loop_hint(4)
