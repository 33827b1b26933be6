"""The windows of a desktop: what is open, where, what lies on top. Pure decisions, and their place in the event store.

Every change becomes one event (kind ``windows``) with the whole layout, so that the last one is all that is needed.
Places are parts of ten thousand of the desktop's area: the same layout fits every screen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from choir.errors import ChoirError
from choir.sandbox.event_store import EventStore

APPS = ("prompt", "terminal", "files", "memory", "activity")
WHOLE = 10_000
SMALLEST = 1_000
MAX_WINDOWS = 24
KIND = "windows"


class WindowError(ChoirError):
    """``bad_window``: a change that cannot be made."""


@dataclass(frozen=True, slots=True)
class Window:
    """``x``, ``y``, ``width`` and ``height`` in parts of ``WHOLE``. ``id`` is the app's name, of terminals with a
    number."""

    id: str
    app: str
    x: int
    y: int
    width: int
    height: int
    minimised: bool = False
    maximised: bool = False


Layout = tuple[Window, ...]
"""From the bottom to the top."""

FIRST: Layout = (
    Window("activity", "activity", 6900, 0, 3100, WHOLE),
    Window("prompt", "prompt", 0, 0, 6800, WHOLE),
)
_PLACES = {
    "prompt": (0, 0, 6800, WHOLE),
    "activity": (6900, 0, 3100, WHOLE),
    "terminal": (900, 3400, 6400, 6000),
    "files": (1400, 700, 6400, 7200),
    "memory": (2200, 500, 5600, 8200),
}
_STEP = 240
_SIZES = ("x", "y", "width", "height")


def changed(layout: Layout, command: Mapping[str, Any]) -> Layout:
    """``layout`` after one command.

    ``{"op": "open", "app"}``, ``{"op": "close" | "raise" | "minimise" | "maximise" | "restore", "id"}``,
    ``{"op": "place", "id", "x", "y", "width", "height"}``, ``{"op": "tidy"}``.

    Raises:
        WindowError: ``bad_window``.
    """
    op = command.get("op")
    if op == "open":
        return _opened(layout, command.get("app"))
    if op == "tidy":
        return FIRST
    window = next((each for each in layout if each.id == command.get("id")), None)
    if window is None:
        raise WindowError("bad_window", "There is no such window any more.")
    others = tuple(each for each in layout if each is not window)
    match op:
        case "close":
            return others
        case "raise":
            return (*others, replace(window, minimised=False))
        case "minimise":
            return (replace(window, minimised=True), *others)
        case "maximise":
            return (*others, replace(window, minimised=False, maximised=True))
        case "restore":
            return (*others, replace(window, minimised=False, maximised=False))
        case "place":
            sizes = [command.get(name) for name in _SIZES]
            if not all(type(size) is int for size in sizes):
                raise WindowError("bad_window", "A place is four whole numbers.")
            x, y, width, height = _within(*sizes)
            return (*others, replace(window, x=x, y=y, width=width, height=height, maximised=False))
    raise WindowError("bad_window", "That cannot be done with a window.")


def _opened(layout: Layout, app: object) -> Layout:
    if app not in APPS:
        raise WindowError("bad_window", "There is no such app.")
    assert isinstance(app, str)
    taken = {each.id for each in layout}
    if app != "terminal" and app in taken:
        return changed(layout, {"op": "raise", "id": app})
    if len(layout) >= MAX_WINDOWS:
        raise WindowError("bad_window", f"{MAX_WINDOWS} windows are the most. Close one first.")
    number = next(number for number in range(1, MAX_WINDOWS + 2) if f"{app}-{number}" not in taken)
    x, y, width, height = _PLACES[app]
    step = _STEP * sum(each.app == app for each in layout)
    name = f"{app}-{number}" if app == "terminal" else app
    return (*layout, Window(name, app, *_within(x + step, y + step, width, height)))


def _within(x: Any, y: Any, width: Any, height: Any) -> tuple[int, int, int, int]:
    """That place, brought back to where a person can still grasp the window."""
    width, height = (min(max(size, SMALLEST), WHOLE) for size in (width, height))
    x = min(max(x, SMALLEST // 2 - width), WHOLE - SMALLEST // 2)
    return x, min(max(y, 0), WHOLE - SMALLEST // 2), width, height


def restored(data: Any) -> Layout:
    """A layout from an event's data; the first one when it is none."""
    names = {field.name: field.type for field in fields(Window)}
    try:
        layout = tuple(Window(**each) for each in data["windows"])
        for window in layout:
            if window.app not in APPS or any(type(getattr(window, n)).__name__ != kind for n, kind in names.items()):
                return FIRST
    except (TypeError, KeyError):
        return FIRST
    return layout if len({each.id for each in layout}) == len(layout) <= MAX_WINDOWS else FIRST


def as_data(layout: Layout) -> dict[str, Any]:
    return {"windows": [asdict(window) for window in layout]}


class Windows:
    """The layout of this desktop and its history in ``store``."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._layout: Layout | None = None

    async def layout(self) -> Layout:
        """
        Raises:
            EventStoreError: the store cannot be used.
        """
        if self._layout is None:
            last = await self._store.latest(KIND)
            if self._layout is None:
                self._layout = FIRST if last is None else restored(last.data)
        return self._layout

    async def change(self, command: Mapping[str, Any]) -> Layout | None:
        """The layout after ``command``, stored; None when nothing changed.

        Raises:
            WindowError, EventStoreError: nothing was changed.
        """
        before = await self.layout()
        after = changed(before, command)
        if after == before:
            return None
        self._layout = after  # before the next command, which may come while this one is stored
        await self._store.append(KIND, as_data(after))
        return after
