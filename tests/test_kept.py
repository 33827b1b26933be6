from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from choir.kept import folder, kept


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "choir"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_text("one")
    return path


def counting() -> tuple[list[int], Callable[[], Any]]:
    made: list[int] = []

    def make() -> Any:
        made.append(len(made))
        return {"number": len(made)}

    return made, make


def test_it_is_made_once(source: Path, cache: Path) -> None:
    made, make = counting()
    assert [kept("thing", [str(source)], make) for _ in range(3)] == [{"number": 1}] * 3
    assert made == [0]
    assert (cache / "thing.json").stat().st_mode & 0o777 == 0o600
    assert cache.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in cache.iterdir()] == ["thing.json"]


def write(path: Path) -> None:
    path.write_text("other")


def replace(path: Path) -> None:
    """By one of the same size and time."""
    info = path.stat()
    other = path.with_name("other")
    other.write_text("two")
    os.utime(other, ns=(info.st_atime_ns, info.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [write, replace, Path.unlink])
def test_it_is_made_anew_when_a_source_changes(source: Path, change: Callable[[Path], None]) -> None:
    made, make = counting()
    kept("thing", [str(source)], make)
    change(source)
    assert kept("thing", [str(source)], make) == {"number": 2}
    assert len(made) == 2


def test_a_source_that_was_not_there_counts(source: Path, tmp_path: Path) -> None:
    _, make = counting()
    later = tmp_path / "later"
    kept("thing", [str(source), str(later)], make)
    later.write_text("")
    assert kept("thing", [str(source), str(later)], make) == {"number": 2}


def test_other_sources_are_another_thing(source: Path, tmp_path: Path) -> None:
    _, make = counting()
    kept("thing", [str(source)], make)
    assert kept("thing", [str(tmp_path / "none")], make) == {"number": 2}


def open_to_all(path: Path) -> None:
    path.chmod(0o666)


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def damage(path: Path) -> None:
    path.write_text('{"made_of": ')


def other_shape(path: Path) -> None:
    path.write_text("[]")


def another_thing(path: Path) -> None:
    """Of the same sources."""
    kept("other", [str(path.parent.parent.parent / "source")], lambda: {"number": 7})
    path.with_name("other.json").replace(path)


def open_folder(path: Path) -> None:
    path.parent.chmod(0o777)


def linked_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))
    path.parent.symlink_to(path.parent.with_name("elsewhere"))


@pytest.mark.parametrize("spoil", [open_folder, linked_folder])
def test_a_folder_that_others_may_write_to_is_not_believed(
    source: Path, cache: Path, spoil: Callable[[Path], None]
) -> None:
    _, make = counting()
    kept("thing", [str(source)], make)
    spoil(cache / "thing.json")
    assert kept("thing", [str(source)], make) == {"number": 2}


@pytest.mark.parametrize("spoil", [open_to_all, link, fifo, damage, other_shape, another_thing])
def test_what_somebody_else_may_have_written_is_not_believed(
    source: Path, cache: Path, spoil: Callable[[Path], None]
) -> None:
    _, make = counting()
    kept("thing", [str(source)], make)
    spoil(cache / "thing.json")
    assert kept("thing", [str(source)], make) == {"number": 2}
    assert kept("thing", [str(source)], make) == {"number": 2}, "it was not put right"


def test_without_a_place_to_keep_it_it_is_made_each_time(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    _, make = counting()
    assert [kept("thing", [str(source)], make) for _ in range(2)] == [{"number": 1}, {"number": 2}]
    assert folder() == "/proc/nowhere/choir"


def test_what_cannot_be_made_is_not_kept(source: Path, cache: Path) -> None:
    def fail() -> Any:
        raise LookupError

    with pytest.raises(LookupError):
        kept("thing", [str(source)], fail)
    assert not cache.exists()
