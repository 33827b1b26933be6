"""The windows of a desktop: each command, what is refused, and their place in the event store."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.sandbox.event_store import EventStore
from choir.sandbox.windows import (
    APPS,
    FIRST,
    MAX_WINDOWS,
    SMALLEST,
    WHOLE,
    Layout,
    WindowError,
    Windows,
    as_data,
    changed,
    restored,
)


def after(*commands: dict[str, Any], layout: Layout = FIRST) -> Layout:
    for command in commands:
        layout = changed(layout, command)
    return layout


def ids(layout: Layout) -> list[str]:
    return [window.id for window in layout]


@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        ([{"op": "open", "app": "files"}], ["activity", "prompt", "files"]),
        ([{"op": "open", "app": "activity"}], ["prompt", "activity"]),
        ([{"op": "open", "app": "terminal"}] * 2, ["activity", "prompt", "terminal-1", "terminal-2"]),
        ([{"op": "raise", "id": "activity"}], ["prompt", "activity"]),
        ([{"op": "close", "id": "prompt"}], ["activity"]),
        ([{"op": "minimise", "id": "prompt"}], ["prompt", "activity"]),
        ([{"op": "close", "id": "prompt"}, {"op": "tidy"}], ["activity", "prompt"]),
        (
            [
                {"op": "open", "app": "terminal"},
                {"op": "open", "app": "terminal"},
                {"op": "close", "id": "terminal-1"},
                {"op": "open", "app": "terminal"},
            ],
            ["activity", "prompt", "terminal-2", "terminal-1"],
        ),
    ],
)
def test_commands(commands: list[dict[str, Any]], expected: list[str]) -> None:
    assert ids(after(*commands)) == expected


def test_minimise_and_maximise_and_back() -> None:
    (*_, window) = after({"op": "maximise", "id": "prompt"})
    assert (window.maximised, window.minimised) == (True, False)
    (*_, window) = after({"op": "maximise", "id": "prompt"}, {"op": "restore", "id": "prompt"})
    assert window == FIRST[-1]
    (window, *_) = after({"op": "minimise", "id": "prompt"})
    assert window.minimised
    (*_, window) = after({"op": "minimise", "id": "prompt"}, {"op": "raise", "id": "prompt"})
    assert window == FIRST[-1]


def test_a_place_is_kept_and_brought_back_to_where_it_can_be_grasped() -> None:
    (*_, window) = after({"op": "place", "id": "prompt", "x": 100, "y": 200, "width": 3000, "height": 4000})
    assert (window.x, window.y, window.width, window.height) == (100, 200, 3000, 4000)
    (*_, window) = after({"op": "place", "id": "prompt", "x": 99_999, "y": -5, "width": 1, "height": 99_999})
    assert (window.x, window.y, window.width, window.height) == (9500, 0, SMALLEST, WHOLE)


@pytest.mark.parametrize(
    "command",
    [
        {},
        {"op": "open"},
        {"op": "open", "app": "browser"},
        {"op": "open", "app": ["prompt"]},
        {"op": "close", "id": "nothing"},
        {"op": "fly", "id": "prompt"},
        {"op": "place", "id": "prompt", "x": 1, "y": 1, "width": 5000},
        {"op": "place", "id": "prompt", "x": 1.5, "y": 1, "width": 5000, "height": 5000},
        {"op": "place", "id": "prompt", "x": True, "y": 1, "width": 5000, "height": 5000},
    ],
)
def test_what_cannot_be_done_is_refused(command: dict[str, Any]) -> None:
    with pytest.raises(WindowError, match=r"\w") as caught:
        changed(FIRST, command)
    assert caught.value.reason == "bad_window"


def test_there_is_a_most() -> None:
    layout = after(*[{"op": "open", "app": "terminal"}] * (MAX_WINDOWS - len(FIRST)))
    with pytest.raises(WindowError, match="Close one first"):
        changed(layout, {"op": "open", "app": "terminal"})


numbers = st.integers(-(10**6), 10**6)
some_id = st.sampled_from(["prompt", "activity", "terminal-1", "terminal-2", "files"])
commands = st.one_of(
    st.builds(lambda app: {"op": "open", "app": app}, st.sampled_from(APPS)),
    st.builds(
        lambda op, name: {"op": op, "id": name},
        st.sampled_from(["close", "raise", "minimise", "maximise", "restore"]),
        some_id,
    ),
    st.builds(
        lambda name, x, y, w, h: {"op": "place", "id": name, "x": x, "y": y, "width": w, "height": h},
        some_id, numbers, numbers, numbers, numbers,
    ),
)  # fmt: skip


@given(st.lists(commands, max_size=20))
def test_whatever_is_done_the_layout_stays_one(wanted: list[dict[str, Any]]) -> None:
    layout = FIRST
    for command in wanted:
        try:
            layout = changed(layout, command)
        except WindowError:
            continue
        assert len(set(ids(layout))) == len(layout)
        for window in layout:
            assert SMALLEST <= window.width <= WHOLE
            assert SMALLEST <= window.height <= WHOLE
            assert window.x + window.width >= SMALLEST // 2
            assert window.x <= WHOLE - SMALLEST // 2
            assert 0 <= window.y <= WHOLE - SMALLEST // 2
        assert restored(as_data(layout)) == layout


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"windows": 1},
        {"windows": [{"id": "prompt"}]},
        {"windows": [{**as_data(FIRST)["windows"][0], "more": 1}]},
        {"windows": [{**as_data(FIRST)["windows"][0], "app": "browser"}]},
        {"windows": [{**as_data(FIRST)["windows"][0], "x": "0"}]},
        {"windows": as_data(FIRST)["windows"][:1] * 2},
    ],
)
def test_an_event_that_is_no_layout_gives_the_first_one(data: Any) -> None:
    assert restored(data) == FIRST


def test_the_layout_is_kept_in_the_event_store(tmp_path: Path) -> None:
    async def life(*commands: dict[str, Any]) -> tuple[Layout, list[str]]:
        store = EventStore(str(tmp_path / "events.db"))
        store.start()
        try:
            windows = Windows(store)
            for command in commands:
                await windows.change(command)
            await store.append("other", {})
            return await windows.layout(), [event.kind for event in await store.read()]
        finally:
            await store.stop()

    opened = {"op": "open", "app": "memory"}
    layout, kinds = asyncio.run(life(opened, {"op": "raise", "id": "memory"}, {"op": "minimise", "id": "prompt"}))
    assert ids(layout) == ["prompt", "activity", "memory"]
    assert kinds == ["windows", "windows", "other"]  # raising what is on top changes nothing
    again, _ = asyncio.run(life())
    assert again == layout
