from __future__ import annotations

from pathlib import Path

import pytest

from choir.sandbox.agent.files import MOST_CHARACTERS, FileError, Files


@pytest.fixture
def files(tmp_path: Path) -> Files:
    (tmp_path / "outside").write_text("x")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "link").symlink_to(tmp_path / "outside")
    return Files(str(tmp_path / "work"))


def test_write_read_edit_list(files: Files) -> None:
    files.write("a/b.txt", "one\ntwo\nthree\n")
    assert files.read("a/b.txt") == "one\ntwo\nthree\n"
    assert files.read("a/b.txt", 2, 1) == "two\n\n[1 more lines]"
    assert files.read(f"{files.root}/a/b.txt", 3) == "three\n"
    files.edit("a/b.txt", "two\n", "2\r\n")
    assert Path(files.root, "a/b.txt").read_bytes() == b"one\n2\r\nthree\n"
    assert files.list() == "a/\nlink  " + f"{len(str(Path(files.root).parent / 'outside'))} bytes"
    files.write("empty", "")
    assert files.read("empty") == "[empty]"
    files.write("long", "x" * (MOST_CHARACTERS + 1))
    assert "cut after" in files.read("long")


def test_a_file_keeps_its_mode(files: Files) -> None:
    path = Path(files.root, "run.sh")
    path.write_text("old")
    path.chmod(0o755)
    files.write("run.sh", "new")
    assert path.stat().st_mode & 0o777 == 0o755
    assert [each.name for each in path.parent.iterdir() if "partial" in each.name] == []


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "link", "a/../../outside", "link/x"])
def test_nothing_outside(files: Files, name: str) -> None:
    for act in (files.read, files.list, lambda name: files.write(name, "x"), lambda name: files.edit(name, "x", "y")):
        with pytest.raises(FileError, match="outside"):
            act(name)
    assert Path(files.root).parent.joinpath("outside").read_text() == "x"


def test_what_cannot_be_done_is_said(files: Files) -> None:
    files.write("twice", "a a")
    Path(files.root, "binary").write_bytes(b"\xff\xfe")
    for act, words in (
        (lambda: files.read("gone"), "no file"),
        (lambda: files.read("binary"), "no text"),
        (lambda: files.list("gone"), "cannot be listed"),
        (lambda: files.write("twice/x", ""), "cannot be written"),
        (lambda: files.edit("twice", "a", "b"), "2 times"),
        (lambda: files.edit("twice", "", "b"), "0 times"),
    ):
        with pytest.raises(FileError, match=words):
            act()
