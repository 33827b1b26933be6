"""Measuring folders that somebody else changes meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from choir.isolation import disk
from choir.isolation.disk import DiskFull, DiskWatch, TooDeep

KB = 1024


@pytest.fixture
def open_folder() -> Iterator[object]:
    opened: list[int] = []

    def make(path: Path) -> int:
        path.mkdir(exist_ok=True)
        opened.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
        return os.dup(opened[-1])

    yield make
    for descriptor in opened:
        os.close(descriptor)


def fill(path: Path, kilobytes: int) -> None:
    path.write_bytes(os.urandom(kilobytes * KB))
    with open(path, "rb") as file:
        os.fsync(file.fileno())  # blocks are allocated late


def size(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    before = len(os.listdir("/proc/self/fd"))
    try:
        return sum(disk.measure(descriptor))
    finally:
        assert len(os.listdir("/proc/self/fd")) == before
        os.close(descriptor)


def test_measure(tmp_path: Path) -> None:
    (tmp_path / "measured" / "sub").mkdir(parents=True)
    empty = size(tmp_path / "measured")
    fill(tmp_path / "measured" / "sub" / "file", 100)
    found = size(tmp_path / "measured") - empty
    assert 100 * KB <= found <= 120 * KB
    os.link(tmp_path / "measured" / "sub" / "file", tmp_path / "measured" / "again")  # the same blocks
    fill(tmp_path / "outside", 500)
    (tmp_path / "measured" / "file").symlink_to(tmp_path / "outside")
    (tmp_path / "measured" / "folder").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "measured" / "fifo")
    assert size(tmp_path / "measured") - empty <= 120 * KB
    with open(tmp_path / "measured" / "sparse", "wb") as file:
        file.truncate(10**12)
    assert size(tmp_path / "measured") - empty <= 128 * KB


def test_a_folder_of_many_comes_in_slices(tmp_path: Path) -> None:
    for number in range(disk._SLICE * 2):
        (tmp_path / str(number)).touch()
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    assert len(list(disk.measure(descriptor))) == 3
    os.close(descriptor)


def test_too_deep(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(disk.DEEPEST):
        os.mkdir("d", dir_fd=folder)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    with pytest.raises(TooDeep):
        size(tmp_path)


class Clock:
    """Looks at a watch whenever it wants to be, up to a minute."""

    def __init__(self, watch: DiskWatch) -> None:
        self.watch, self.now = watch, 1000.0

    def run(self, seconds: float = 300.0) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now = self.watch.look(self.now, os.getpid())


def test_the_home_counts_as_it_is_and_the_rest_by_its_growth(tmp_path: Path, open_folder) -> None:  # type: ignore[no-untyped-def]
    home, work = open_folder(tmp_path / "home"), open_folder(tmp_path / "work")
    fill(tmp_path / "work" / "old", 2000)
    fill(tmp_path / "home" / "old", 300)
    watch = DiskWatch(home, [work], -1, limit=1000 * KB)
    clock = Clock(watch)
    clock.run()
    assert 300 * KB <= watch.used <= 320 * KB
    fill(tmp_path / "work" / "new", 500)
    clock.run()
    assert 800 * KB <= watch.used <= 820 * KB
    fill(tmp_path / "home" / "new", 300)
    with pytest.raises(DiskFull) as caught:
        clock.run()
    assert caught.value.used >= 1000 * KB
    watch.close()


def test_a_home_that_is_full_already_can_be_tidied_up_but_not_filled(tmp_path: Path, open_folder) -> None:  # type: ignore[no-untyped-def]
    home = open_folder(tmp_path / "home")
    fill(tmp_path / "home" / "old", 2000)
    watch = DiskWatch(home, [], -1, limit=1000 * KB)
    clock = Clock(watch)
    clock.run()
    fill(tmp_path / "home" / "list", 8)
    clock.run()
    fill(tmp_path / "home" / "more", 200)
    with pytest.raises(DiskFull):
        clock.run()
    watch.close()


def test_the_log_and_unlinked_files_count(tmp_path: Path, open_folder) -> None:  # type: ignore[no-untyped-def]
    home = open_folder(tmp_path / "home")
    with open(tmp_path / "log", "wb") as log, open(tmp_path / "home" / "gone", "wb") as gone:
        os.unlink(tmp_path / "home" / "gone")
        watch = DiskWatch(home, [], log.fileno(), limit=1000 * KB)
        clock = Clock(watch)
        clock.run()
        for file, more in ((log, 300), (gone, 400)):
            before = watch.used
            file.write(os.urandom(more * KB))
            file.flush()
            os.fsync(file.fileno())
            clock.run()
            assert watch.used - before >= more * KB
    watch.close()
