from __future__ import annotations

from dataclasses import replace

import pytest

from choir.hypervisor.culler import BUSY, LOOKS, Signs, idle_note, is_idle, last_work, pause

QUIET = Signs(last_work=100.0, looked=900.0, last_call=0.0, last_input=0.0, calls=0, processor=0.0)
NOW = 1000.0


@pytest.mark.parametrize(
    ("signs", "worked"),
    [
        (QUIET, 100.0),
        (replace(QUIET, last_call=950.0), 950.0),
        (replace(QUIET, last_input=960.0), 960.0),
        (replace(QUIET, last_call=50.0, last_input=60.0), 100.0),
        (replace(QUIET, calls=1), NOW),
        (replace(QUIET, processor=BUSY * 100 * 1.1), NOW),
        (replace(QUIET, processor=BUSY * 100 * 0.9), 100.0),
        (replace(QUIET, processor=BUSY * 0.9, looked=NOW), 100.0),
    ],
    ids=["nothing", "a call", "a person", "older signs", "a call under way", "busy", "hardly busy", "looked just now"],
)
def test_signs_of_work(signs: Signs, worked: float) -> None:
    assert last_work(signs, NOW) == worked


@pytest.mark.parametrize(
    ("worked", "seconds", "idle"), [(0.0, 0.0, False), (900.0, 100.0, True), (901.0, 100.0, False), (0.0, 1e9, False)]
)
def test_idle(worked: float, seconds: float, idle: bool) -> None:
    assert is_idle(worked, NOW, seconds) is idle


def test_looks_are_rare() -> None:
    assert pause(3600.0) == 3600.0 / LOOKS
    assert pause(0.5) == 1.0


@pytest.mark.parametrize(("seconds", "words"), [(1800.0, "30 minutes"), (90.0, "90 seconds")])
def test_the_note(seconds: float, words: str) -> None:
    assert words in idle_note(seconds)
