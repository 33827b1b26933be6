from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from choir.errors import ChoirError
from choir.hypervisor.beneath import FOLDER, exchange, open_beneath


@pytest.fixture
def home(tmp_path: Path) -> Iterator[int]:
    """A home with what a hostile owner could put there; beside it a file that is not its."""
    (tmp_path / "secret").write_text("not yours")
    inside = tmp_path / "home"
    (inside / "a" / "b").mkdir(parents=True)
    (inside / "a" / "b" / "file").write_text("mine")
    (inside / "out").symlink_to(tmp_path)
    (inside / "file").symlink_to(tmp_path / "secret")
    (inside / "within").symlink_to("a")
    (inside / "a" / "up").symlink_to("../..")
    (inside / "proc").symlink_to("/proc/self/root")
    descriptor = os.open(inside, FOLDER)
    yield descriptor
    os.close(descriptor)


def test_what_is_there_is_opened(home: int) -> None:
    descriptor = open_beneath(home, "a/b/file", os.O_RDONLY)
    assert os.read(descriptor, 9) == b"mine"
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize(
    "path", ["out/secret", "file", "within/b/file", "a/up/secret", "../secret", "a/../../secret", "proc/etc/passwd"]
)
def test_nothing_leads_out_and_no_link_is_followed(home: int, path: str) -> None:
    with pytest.raises(ChoirError) as caught:
        open_beneath(home, path, os.O_RDONLY)
    assert caught.value.reason == "link_refused"


def test_an_absolute_path_is_refused(home: int, tmp_path: Path) -> None:
    with pytest.raises(ChoirError):
        open_beneath(home, str(tmp_path / "secret"), os.O_RDONLY)


def test_what_is_not_there_is_an_ordinary_error(home: int) -> None:
    with pytest.raises(FileNotFoundError):
        open_beneath(home, "a/none", os.O_RDONLY)


def test_exchange(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    exchange(str(tmp_path / "one"), str(tmp_path / "two"))
    assert (tmp_path / "one" / "two").exists()
    assert (tmp_path / "two" / "one").exists()
    with pytest.raises(FileNotFoundError):
        exchange(str(tmp_path / "one"), str(tmp_path / "none"))
