"""Mounts over paths of a workspace that somebody changes meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from choir.errors import StartError
from choir.isolation import guards


def test_identity(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    info = (tmp_path / "a" / "b").stat()
    assert guards.identity(str(tmp_path), str(tmp_path / "a" / "b")) == (info.st_dev, info.st_ino)
    assert guards.identity(str(tmp_path), str(tmp_path / "a" / "c")) is None
    assert guards.identity(str(tmp_path), str(tmp_path / "c" / "b")) is None


@pytest.mark.parametrize("path", ["link", "link/b", "to/nothing", "file/below"])
def test_nothing_leads_through_a_link(tmp_path: Path, path: str) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "to").symlink_to("nothing")
    (tmp_path / "file").touch()
    for folder in (tmp_path, Path("/")):
        with pytest.raises(StartError) as caught:
            guards.identity(str(folder), str(tmp_path / path))
        assert caught.value.reason == "workspace_changed"


@pytest.mark.parametrize("folder", ["link", "file", "nothing"])
def test_a_folder_that_is_none_any_more(tmp_path: Path, folder: str) -> None:
    (tmp_path / "link").symlink_to("/")
    (tmp_path / "file").touch()
    with pytest.raises(StartError) as caught:
        guards.identity(str(tmp_path / folder), str(tmp_path / folder / "etc"))
    assert caught.value.reason == "workspace_changed"


@pytest.mark.parametrize(
    ("mounts", "refused"),
    [
        ({"/w": (1, (1, 1)), "/w/a": (2, (1, 2)), "/w/b": (3, (1, 3))}, ""),
        ({"/w": (1, (1, 1)), "/w/a": (1, (1, 2)), "/w/b": (3, (1, 3))}, "/w/a"),  # it was mounted elsewhere
        ({"/w": (1, (1, 1)), "/w/a": (2, (1, 2)), "/w/b": (2, (1, 3))}, "/w/b"),  # two places in one mount
        ({"/w": (1, (1, 1)), "/w/a": (2, (1, 9)), "/w/b": (3, (1, 3))}, "/w/a"),  # something else was mounted
        ({"/w": (1, (1, 1)), "/w/a": (2, (9, 2)), "/w/b": (3, (1, 3))}, "/w/a"),
        ({"/w": (1, (1, 1)), "/w/b": (3, (1, 3))}, "/w/a"),  # it is gone
        ({"/w": (1, (1, 9)), "/w/a": (2, (1, 2)), "/w/b": (3, (1, 3))}, "/w"),  # the workspace is another
        ({"/w": (1, (1, 1)), "/w/a": (2, (1, 2)), "/w/b": (3, (1, 9))}, ""),  # was made for it
    ],
)
def test_each_guard_is_a_mount_of_its_own(
    monkeypatch: pytest.MonkeyPatch, mounts: dict[str, tuple[int, guards.Identity]], refused: str
) -> None:
    def mount(path: str) -> tuple[int, guards.Identity]:
        if path not in mounts:
            raise FileNotFoundError(path)
        return mounts[path]

    monkeypatch.setattr(guards, "_mount", mount)
    wanted: list[tuple[str, guards.Identity | None]] = [("/w", (1, 1)), ("/w/a", (1, 2)), ("/w/b", None)]
    if not refused:
        guards.check(wanted)
        return
    with pytest.raises(StartError, match=f"{refused} "):
        guards.check(wanted)


def test_what_is_no_mount_is_no_guard(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    seen = [(str(path), guards.identity("/", str(path))) for path in (tmp_path, tmp_path / "a")]
    with pytest.raises(StartError):
        guards.check(seen)
