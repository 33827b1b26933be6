"""Files beneath a folder: what can be done, and every way out that is refused."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.sandbox import files as files_module
from choir.sandbox.files import FileError, Files, is_text, mark, names


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    root = tmp_path / "home"
    root.mkdir()
    (root / "a").mkdir()
    (root / "a/text").write_text("hello")
    (root / "Beta").write_text("b")
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "a/up").symlink_to("../..")
    (root / "leak").symlink_to(tmp_path / "outside/secret")
    return root


@pytest.fixture
def files(root: Path) -> Iterator[Files]:
    before = len(os.listdir("/proc/self/fd"))
    files = Files(str(root))
    yield files
    files.close()
    assert len(os.listdir("/proc/self/fd")) == before


def save(files: Files, path: str, data: bytes, replaces: str | None = None) -> str:
    draft = files.write(path)
    draft.add(data)
    return draft.keep(replaces=replaces)


def refused(reason: str, act: Callable[[], object]) -> None:
    with pytest.raises(FileError) as caught:
        act()
    assert caught.value.reason == reason


def test_a_folder_is_listed_folders_first_and_links_as_links(files: Files) -> None:
    assert [(entry.name, entry.kind) for entry in files.list("").entries] == [
        ("a", "folder"),
        ("Beta", "file"),
        ("leak", "link"),
        ("out", "link"),
    ]
    assert [(entry.name, entry.size) for entry in files.list("a").entries if entry.kind == "file"] == [("text", 5)]


def test_reading(files: Files) -> None:
    descriptor, status = files.open("a/text")
    try:
        assert os.read(descriptor, 100) == b"hello"
        assert status.st_size == 5
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)
    refused("file_missing", lambda: files.open("a/nothing"))
    refused("not_a_file", lambda: files.open("a"))


def test_a_pipe_does_not_hang_the_reader(files: Files, root: Path) -> None:
    os.mkfifo(root / "pipe")
    refused("not_a_file", lambda: files.open("pipe"))


@pytest.mark.parametrize("path", ["leak", "out/secret", "a/up/outside/secret", "out", "a/up"])
def test_no_link_is_followed(files: Files, path: str) -> None:
    refused("link_refused", lambda: files.open(path))
    refused("link_refused", lambda: files.list(path))
    if "/" in path and path != "a/up":
        refused("link_refused", lambda: files.write(path))
        refused("link_refused", lambda: files.delete(path))
        refused("link_refused", lambda: files.rename(path, "mine"))
        refused("link_refused", lambda: files.rename("Beta", path + "2"))
        refused("link_refused", lambda: files.make_folder(path + "2"))


def test_a_link_can_be_renamed_and_deleted_but_not_what_it_leads_to(files: Files, root: Path) -> None:
    files.rename("leak", "other")
    assert (root / "other").is_symlink()
    files.delete("other")
    files.delete("out")
    assert (root.parent / "outside/secret").read_text() == "secret"


def test_writing_through_a_link_replaces_nothing(files: Files, root: Path) -> None:
    refused("file_exists", lambda: save(files, "leak", b"x"))
    refused("not_a_file", lambda: save(files, "leak", b"x", mark(os.stat(root / "leak"))))
    assert (root.parent / "outside/secret").read_text() == "secret"
    assert sorted(os.listdir(root)) == ["Beta", "a", "leak", "out"]


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "..", "a/../..", "a//text", "./a", "a/", "x\0y", "x" * 256, "/".join("d" * 300)]
)
def test_what_is_no_path(files: Files, path: str) -> None:
    for act in (files.list, files.open, files.write, files.delete, files.make_folder):
        refused("bad_path", lambda act=act: act(path))  # type: ignore[misc]
    refused("bad_path", lambda: files.rename("Beta", path))


def test_what_choir_keeps_is_out_of_reach(files: Files, root: Path) -> None:
    (root / ".choir").mkdir()
    (root / ".choir/choir.db").write_text("kept")
    (root / "d/.choir").mkdir(parents=True, exist_ok=True)
    assert ".choir" not in [entry.name for entry in files.list("").entries]
    assert ".choir" in [entry.name for entry in files.list("d").entries]
    for path in (".choir", ".choir/choir.db"):
        for act in (files.list, files.open, files.write, files.delete):
            refused("not_permitted", lambda act=act, path=path: act(path))  # type: ignore[misc]
        refused("not_permitted", lambda path=path: files.rename(path, "mine"))
    refused("not_permitted", lambda: files.rename("Beta", ".choir/choir.db"))


def test_the_folder_itself_stays(files: Files) -> None:
    for act in (files.open, files.write, files.delete, files.make_folder):
        refused("bad_path", lambda act=act: act(""))  # type: ignore[misc]


@given(st.text(max_size=40))
def test_a_path_is_refused_or_stays_beneath(path: str) -> None:
    try:
        parts = names(path)
    except FileError:
        return
    assert "/".join(parts) == path
    assert not {"", ".", ".."} & set(parts)


def test_a_new_file(files: Files, root: Path) -> None:
    given = save(files, "a/new", b"new")
    assert (root / "a/new").read_bytes() == b"new"
    assert given == mark(os.stat(root / "a/new"))
    refused("file_exists", lambda: save(files, "a/new", b"again"))
    assert (root / "a/new").read_bytes() == b"new"
    assert sorted(os.listdir(root / "a")) == ["new", "text", "up"]


def test_an_edit_keeps_the_mode_and_sees_who_was_faster(files: Files, root: Path) -> None:
    script = root / "script"
    script.write_text("one")
    script.chmod(0o750)
    first = mark(os.stat(script))
    second = save(files, "script", b"two", first)
    assert script.read_text() == "two"
    assert stat.S_IMODE(script.stat().st_mode) == 0o750
    refused("file_changed", lambda: save(files, "script", b"three", first))
    os.utime(script, ns=(1, 1))
    refused("file_changed", lambda: save(files, "script", b"three", second))
    script.unlink()
    refused("file_changed", lambda: save(files, "script", b"three", second))
    assert sorted(os.listdir(root)) == ["Beta", "a", "leak", "out"]


def test_an_upload_that_breaks_off_leaves_nothing(files: Files, root: Path) -> None:
    draft = files.write("big")
    draft.add(b"x" * 100_000)
    draft.drop()
    assert sorted(os.listdir(root)) == ["Beta", "a", "leak", "out"]


def test_renaming_never_replaces(files: Files, root: Path) -> None:
    files.rename("Beta", "a/beta")
    assert (root / "a/beta").read_text() == "b"
    refused("file_exists", lambda: files.rename("a/beta", "a/text"))
    refused("file_exists", lambda: files.rename("a/beta", "out"))
    refused("file_missing", lambda: files.rename("nothing", "b"))
    files.make_folder("d")
    files.rename("a", "d/a")
    assert (root / "d/a/text").read_text() == "hello"
    refused("bad_path", lambda: files.rename("d", "d/a/d"))


def test_deleting(files: Files, root: Path) -> None:
    files.make_folder("a/deep")
    save(files, "a/deep/file", b"")
    files.delete("a")
    assert sorted(os.listdir(root)) == ["Beta", "leak", "out"]
    assert (root.parent / "outside/secret").exists()
    refused("file_missing", lambda: files.delete("a"))


@pytest.mark.skipif(os.getuid() == 0, reason="root may everything")
def test_what_may_not_be_read_says_so(files: Files, root: Path) -> None:
    (root / "a").chmod(0)
    refused("not_permitted", lambda: files.list("a"))
    (root / "a").chmod(0o700)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", True),
        (b"plain\ttext\r\n", True),
        ("grüße 漢字".encode(), True),
        (b"\x7fELF\x00\x01", False),
        (b"\xff\xfe", False),
        ("é".encode()[:1], False),
        (b"x" * 9000 + b"\xff", False),  # edited, it would not come back as it was
        (b"x" * 9000 + b"\0", False),
    ],
)
def test_what_is_text(content: bytes, expected: bool) -> None:
    assert is_text(content) is expected


@pytest.mark.parametrize(("most", "truncated"), [(3, True), (4, False)])
def test_a_listing_says_whether_there_is_more(
    files: Files, monkeypatch: pytest.MonkeyPatch, most: int, truncated: bool
) -> None:
    monkeypatch.setattr(files_module, "MAX_ENTRIES", most)
    listing = files.list("")
    assert (len(listing.entries), listing.truncated) == (most, truncated)
