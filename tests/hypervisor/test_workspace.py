from __future__ import annotations

import io
import os
import socket
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from choir.errors import ChoirError
from choir.hypervisor import workspace as module
from choir.hypervisor import workspace_tar
from choir.hypervisor.beneath import FOLDER
from choir.hypervisor.workspace import Workspaces
from choir.hypervisor.workspace_tar import pack, unpack
from choir.paths import State

ROOT = os.geteuid() == 0
UID = 1_900_000_007


@pytest.fixture
def workspaces(state: State) -> Workspaces:
    home = state.homes / "ada-1"
    home.mkdir(mode=0o700)
    (home / "work").mkdir()
    (home / "work" / "notes").write_text("first")
    return Workspaces(state, keep=3)


def contents(folder: Path) -> dict[str, Any]:
    """Everything in it: kind, mode, time, content."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        kind = stat.S_IFMT(info.st_mode)
        if path.is_symlink():
            content: Any = os.readlink(path)
        else:
            content = path.read_bytes() if path.is_file() else None
        mode = 0 if path.is_symlink() else stat.S_IMODE(info.st_mode)
        found[str(path.relative_to(folder))] = (kind, mode, round(info.st_mtime, 3), content)
    return found


def archive_of(folder: Path) -> tuple[io.BytesIO, int]:
    out = io.BytesIO()
    descriptor = os.open(folder, FOLDER)
    try:
        left_out = pack(descriptor, out)
    finally:
        os.close(descriptor)
    out.seek(0)
    return out, left_out


def unpacked(archive: io.BytesIO, folder: Path) -> Path:
    folder.mkdir()
    descriptor = os.open(folder, FOLDER)
    try:
        unpack(archive, descriptor, None)
    finally:
        os.close(descriptor)
    return folder


def test_there_and_back(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "a" / ("long" * 40) / "b").mkdir(parents=True)
    (home / "a" / "ünï").write_bytes(os.urandom(100_000))
    (home / "empty").touch()
    (home / "run").write_text("#!/bin/sh\n")
    (home / "run").chmod(0o755)
    (home / "python").symlink_to("/usr/bin/python3")
    (home / "dangling").symlink_to("nowhere")
    os.link(home / "run", home / "a" / "same")
    os.utime(home / "empty", (1, 1_000_000_000.25))
    (home / "a").chmod(0o500)
    archive, left_out = archive_of(home)
    assert left_out == 0
    again = unpacked(archive, tmp_path / "again")
    assert contents(again) == contents(home)
    assert (again / "run").stat().st_ino == (again / "a" / "same").stat().st_ino
    (home / "a").chmod(0o700)
    (again / "a").chmod(0o700)


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=40)
names = names.filter(lambda name: name not in (".", "..") and len(os.fsencode(name)) < 200)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(files=st.dictionaries(names, st.binary(max_size=2000), max_size=8))
def test_any_names_and_contents(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    base = tmp_path_factory.mktemp("any")
    (base / "home").mkdir()
    for name, data in files.items():
        (base / "home" / name).write_bytes(data)
    archive, _ = archive_of(base / "home")
    assert contents(unpacked(archive, base / "again")) == contents(base / "home")


def test_what_is_no_file_is_left_out_and_counted(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.mkfifo(home / "pipe")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(home / "s"))
        archive, left_out = archive_of(home)
    assert left_out == 2
    with tarfile.open(fileobj=archive) as source:
        assert source.getnames() == []


def test_a_setuid_bit_is_not_kept(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "tool").touch()
    (home / "tool").chmod(0o6755)
    archive, _ = archive_of(home)
    assert stat.S_IMODE((unpacked(archive, tmp_path / "again") / "tool").stat().st_mode) == 0o755


def test_a_link_is_packed_as_a_link(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("not yours")
    home = tmp_path / "home"
    home.mkdir()
    (home / "folder").symlink_to(tmp_path)
    (home / "file").symlink_to(tmp_path / "secret")
    archive, _ = archive_of(home)
    assert b"not yours" not in archive.getvalue()


def test_an_entry_that_became_a_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exchanged between being looked at and being opened."""
    (tmp_path / "secret").write_text("not yours")
    home = tmp_path / "home"
    home.mkdir()
    (home / "file").touch()
    really = workspace_tar.open_beneath

    def late(folder: int, path: str, flags: int, mode: int = 0) -> int:
        if path == "file":
            (home / "file").unlink()
            (home / "file").symlink_to(tmp_path / "secret")
        return really(folder, path, flags, mode)

    monkeypatch.setattr(workspace_tar, "open_beneath", late)
    with pytest.raises(ChoirError) as caught:
        archive_of(home)
    assert caught.value.reason == "link_refused"


def test_a_file_that_changes_size_keeps_the_archive_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "shrinks").write_bytes(b"x" * 10_000)
    (home / "then").write_text("still right")
    really = workspace_tar._Exactly.read

    def shrinking(self: Any, size: int) -> bytes:
        if (home / "shrinks").stat().st_size == 10_000:
            os.truncate(home / "shrinks", 5)
        return really(self, size)

    monkeypatch.setattr(workspace_tar._Exactly, "read", shrinking)
    archive, _ = archive_of(home)
    again = unpacked(archive, tmp_path / "again")
    assert (again / "shrinks").read_bytes() == b"xxxxx" + bytes(9_995)
    assert (again / "then").read_text() == "still right"


def test_too_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace_tar, "DEEPEST", 3)
    (tmp_path / "home" / "a" / "b" / "c").mkdir(parents=True)
    with pytest.raises(ChoirError) as caught:
        archive_of(tmp_path / "home")
    assert caught.value.reason == "too_deep"


def crafted(*members: tuple[str, bytes, str]) -> io.BytesIO:
    """A tar file of (name, type, link target)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            archive.addfile(member)
    out.seek(0)
    return out


@pytest.mark.parametrize(
    "members",
    [
        [("../up", tarfile.REGTYPE, "")],
        [("..", tarfile.REGTYPE, "")],
        [("a", tarfile.SYMTYPE, "/tmp"), ("a/file", tarfile.REGTYPE, "")],
        [("a", tarfile.SYMTYPE, ".."), ("a/file", tarfile.REGTYPE, "")],
        [("hard", tarfile.LNKTYPE, "../outside")],
        [("device", tarfile.CHRTYPE, "")],
        [("twice", tarfile.REGTYPE, ""), ("twice", tarfile.REGTYPE, "")],
        [("none/file", tarfile.REGTYPE, "")],
    ],
)
def test_a_crafted_archive_gets_nothing_out(tmp_path: Path, members: list[tuple[str, bytes, str]]) -> None:
    (tmp_path / "outside").write_text("")
    with pytest.raises(ChoirError) as caught:
        unpacked(crafted(*members), tmp_path / "home")
    assert caught.value.reason in ("link_refused", "snapshot_broken")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "outside"]
    assert (tmp_path / "outside").stat().st_nlink == 1


# Snapshots.


def test_snapshot_and_restore(state: State, workspaces: Workspaces) -> None:
    home = state.homes / "ada-1"
    before = contents(home)
    taken = workspaces.snapshot("ada-live", "ada-1")
    assert stat.S_IMODE(taken.path.stat().st_mode) == 0o600
    (home / "work" / "notes").write_text("second")
    (home / "more").touch()
    owner = UID if ROOT else None
    with taken.path.open("rb") as archive:
        workspaces.restore(archive, "ada-1", owner)
    assert contents(home) == before
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    if ROOT:
        assert {path.lstat().st_uid for path in (home, *home.rglob("*"))} == {UID}
    assert [path.name for path in state.homes.iterdir()] == ["ada-1"]


def test_the_oldest_go(workspaces: Workspaces) -> None:
    taken = [workspaces.snapshot("ada-live", "ada-1").name for _ in range(5)]
    assert [each.name for each in workspaces.snapshots("ada-live")] == taken[:1:-1]
    assert workspaces.snapshots("ada-dev") == []
    with pytest.raises(ChoirError) as caught:
        workspaces.find("ada-live", taken[0])
    assert caught.value.reason == "unknown_snapshot"
    assert workspaces.find("ada-live", taken[-1]).name == taken[-1]


@pytest.mark.parametrize("damage", ["cut", "garbage", "members"])
def test_a_broken_snapshot_changes_nothing(state: State, workspaces: Workspaces, damage: str) -> None:
    before = contents(state.homes / "ada-1")
    whole = workspaces.snapshot("ada-live", "ada-1").path.read_bytes()
    data = {"cut": whole[:700], "garbage": b"\x00\x01" * 5000}.get(
        damage, crafted(("x/../../y", tarfile.REGTYPE, "")).getvalue()
    )
    with pytest.raises(ChoirError):
        workspaces.restore(io.BytesIO(data), "ada-1", None)
    assert contents(state.homes / "ada-1") == before
    assert [path.name for path in state.homes.iterdir()] == ["ada-1"]


def test_a_full_disk_is_said_so_and_leaves_nothing(
    state: State, workspaces: Workspaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "pack", full)
    with pytest.raises(ChoirError) as caught:
        workspaces.snapshot("ada-live", "ada-1")
    assert caught.value.reason == "no_space"
    assert list((state.root / "snapshots" / "ada-live").iterdir()) == []


def test_what_was_interrupted_is_tidied_up(state: State, workspaces: Workspaces) -> None:
    taken = workspaces.snapshot("ada-live", "ada-1")
    taken.path.with_name("20260101T000000Z.partial").touch()
    (state.homes / ".restoring-ada-1" / "half").mkdir(parents=True)
    workspaces.tidy()
    assert [path.name for path in state.homes.iterdir()] == ["ada-1"]
    assert list(taken.path.parent.iterdir()) == [taken.path]


# Setting a file aside.


def test_a_file_is_set_aside(state: State, workspaces: Workspaces) -> None:
    home = state.homes / "ada-1"
    (home / ".aws").mkdir()
    (home / ".aws" / "credentials").write_text("value")
    moved = workspaces.set_aside("ada-live", "ada-1", ".aws/credentials")
    assert moved.parent == state.root / "quarantine" / "ada-live"
    assert moved.read_text() == "value"
    assert (moved.stat().st_uid, stat.S_IMODE(moved.stat().st_mode)) == (os.geteuid(), 0o600)
    assert list((home / ".aws").iterdir()) == []
    with pytest.raises(ChoirError) as caught:
        workspaces.set_aside("ada-live", "ada-1", ".aws/credentials")
    assert caught.value.reason == "file_gone"


@pytest.mark.parametrize("file", ["out/secret", "../secret", "..", "", "work/..", "work/", "."])
def test_nothing_outside_is_set_aside(state: State, workspaces: Workspaces, file: str) -> None:
    (state.homes / "secret").write_text("not yours")
    (state.homes / "ada-1" / "out").symlink_to(state.homes)
    with pytest.raises(ChoirError) as caught:
        workspaces.set_aside("ada-live", "ada-1", file)
    assert caught.value.reason == "link_refused"
    assert (state.homes / "secret").exists()
    assert (state.homes / "ada-1" / "work").exists()


def test_a_link_is_set_aside_itself(state: State, workspaces: Workspaces) -> None:
    (state.homes / "secret").write_text("not yours")
    (state.homes / "secret").chmod(0o644)
    (state.homes / "ada-1" / ".env").symlink_to(state.homes / "secret")
    moved = workspaces.set_aside("ada-live", "ada-1", ".env")
    assert moved.is_symlink()
    assert stat.S_IMODE((state.homes / "secret").stat().st_mode) == 0o644
