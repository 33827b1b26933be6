"""How much disk a sandbox's folders take, measured from outside in small slices.

Whoever owns the folders changes them meanwhile: they are walked by descriptors, no link is followed, no other file
system entered. Standard library only: the keeper imports this.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time

from choir.isolation import tree
from choir.isolation.limits import pause

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

DEEPEST = 200  # levels; each holds two descriptors while it is walked
_SLICE = 256  # entries
_STEP = 0.005  # seconds of measuring at a time
_BREATH = 10  # steps' worth of pause after one: a tenth of one processor at most
_REST = 20  # times as long as measuring took is not measured again
_IDLE = 120.0  # seconds after which it is measured although the disks hardly changed
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class TooDeep(Exception):  # noqa: N818 - a finding
    """The folders are nested deeper than can be measured."""


class DiskFull(Exception):  # noqa: N818 - a finding
    """They take more than they may.

    Args:
        used: bytes, at least.
    """

    def __init__(self, used: int) -> None:
        super().__init__(used)
        self.used = used


def measure(folder: int) -> Iterator[int]:
    """Bytes below the folder with descriptor ``folder``, hard links once: what came together in each slice.

    Raises:
        TooDeep: more than ``DEEPEST`` levels.
    """
    device = os.fstat(folder).st_dev
    linked: set[int] = set()
    total = entries = 0
    levels = [_Level(folder)]
    try:
        while levels:
            entry = levels[-1].next()
            if entry is None:
                levels.pop().close(keep=folder)
                continue
            entries += 1
            if entries % _SLICE == 0:
                yield total
                total = 0
            try:
                info = entry.stat(follow_symlinks=False)
            except OSError:  # gone
                continue
            is_folder = stat.S_ISDIR(info.st_mode)
            if info.st_dev != device or info.st_ino in linked:
                continue
            if info.st_nlink > 1 and not is_folder:
                linked.add(info.st_ino)
            total += info.st_blocks * 512
            if is_folder:
                if len(levels) >= DEEPEST:
                    raise TooDeep
                with contextlib.suppress(OSError):
                    levels.append(_Level(os.open(entry.name, _FOLDER, dir_fd=levels[-1].descriptor)))
        yield total
    finally:
        for level in levels:
            level.close(keep=folder)


class _Level:
    """A folder being listed."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        try:
            self._entries = os.scandir(descriptor)
        except OSError:
            os.close(descriptor)
            raise

    def next(self) -> os.DirEntry[str] | None:
        try:
            return next(self._entries, None)
        except OSError:
            return None

    def close(self, keep: int) -> None:
        self._entries.close()
        if self.descriptor != keep:
            os.close(self.descriptor)


def free(folders: list[int]) -> int:
    """Free bytes of the file systems that ``folders`` lie on."""
    found: dict[int, int] = {}
    for folder in folders:
        info = os.statvfs(folder)
        found[os.fstat(folder).st_dev] = info.f_bfree * info.f_frsize
    return sum(found.values())


class DiskWatch:
    """Looks at a sandbox's folders as often as they could outgrow the limit, judged by the free space of their disks.

    The home counts as it is, everything else by how much it grew. A home that was too large from the beginning may
    still be entered, to tidy it up: then it may grow by a sixteenth of the limit.

    Args:
        home: descriptor of its folder.
        others: descriptors of other writable folders.
        log: descriptor of the log file, or -1.
        limit: bytes.
    """

    def __init__(self, home: int, others: list[int], log: int, limit: int) -> None:
        self._home, self._others, self._log = home, others, log
        self.limit = limit
        self.used = 0
        """Bytes, as far as they count."""
        self._allowed = limit
        self._base: int | None = None  # of the others and the log, at the first measurement
        self._scan: Iterator[tuple[int, int]] | None = None
        self._found = (0, 0)
        self._spent = self._free = 0.0
        self._last = -_IDLE

    def look(self, now: float, first: int) -> float:
        """Take a step; when to take the next.

        Args:
            first: host pid of pid 1 inside.

        Raises:
            DiskFull: the limit is passed.
        """
        if self._scan is None:
            dropped = self._free - free([self._home, *self._others])
            headroom = max(0, self._allowed - self.used)
            idle = now - self._last
            if idle < self._spent * _REST or (dropped < headroom / 2 and idle < _IDLE):
                return now + pause(headroom)
            self._spent = 0.0
            self._free = free([self._home, *self._others])
            self._scan = self._measure(first)
        begun = time.monotonic()
        for found in self._scan:
            self._found = found
            if self._base is not None and sum(found) - self._base > self._allowed:
                raise DiskFull(sum(found) - self._base)
            if time.monotonic() - begun > _STEP:
                self._spent += time.monotonic() - begun
                return now + _STEP * _BREATH
        self._spent += time.monotonic() - begun
        self._scan, self._last = None, now
        home, others = self._found
        if self._base is None:
            self._base = others
            self._allowed = max(self.limit, home + self.limit // 16)
        self.used = home + others - self._base
        return now + pause(self._allowed - self.used)

    def _measure(self, first: int) -> Iterator[tuple[int, int]]:
        """(bytes of the home, bytes of everything else) so far."""
        home = others = 0
        for part in measure(self._home):
            home += part
            yield home, others
        for folder in self._others:
            for part in measure(folder):
                others += part
                yield home, others
        if self._log >= 0:
            others += os.fstat(self._log).st_blocks * 512
        if self._base is not None:  # before, there is nobody who could have unlinked anything
            devices = {os.fstat(folder).st_dev for folder in (self._home, *self._others)}
            others += tree.unlinked(tree.pids(first), devices)
        yield home, others

    def close(self) -> None:
        self._scan = None
        for descriptor in (self._home, *self._others):
            os.close(descriptor)
