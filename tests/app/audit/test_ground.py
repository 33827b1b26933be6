from __future__ import annotations

from typing import Any

from choir.app.audit.ground import Ground
from choir.config import load
from choir.paths import State


def opened(state: State) -> Any:
    none: Any = None
    return Ground.open(load(None), state, none, none)


def test_what_a_killed_audit_left_goes_with_the_next(state: State) -> None:
    (state.homes / "verify-killed/deep").mkdir(parents=True)
    (state.homes / "ada-1").mkdir()
    with opened(state) as ground:
        assert sorted(path.name for path in state.homes.iterdir()) == ["ada-1"]
        home = ground.home()
        with opened(state):  # another at the same time takes nothing from it
            assert home.is_dir()
    assert sorted(path.name for path in state.homes.iterdir()) == ["ada-1"]
