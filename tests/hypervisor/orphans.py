"""Everybody that descends from this test: orphans come to it too, since it is their subreaper (PR_SET_CHILD_SUBREAPER,
prctl(2)), so none can hide by losing its parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from types import TracebackType

from choir.isolation.template import own_template
from choir.isolation.tree import pids

_SUBREAPER = 36
SECONDS = 15.0


class Family:
    """While it is entered, this process inherits orphans. ``known``: who was there before; ``mine``: children that
    somebody in this process waits for."""

    def __init__(self) -> None:
        self.known: set[int] = set()
        self.mine: set[int] = set()

    def __enter__(self) -> Family:
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
        own_template().start()  # it stays with this process; what it forks does not
        self.known = set(pids(os.getpid()))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        ctypes.CDLL(None).prctl(_SUBREAPER, 0, 0, 0, 0)
        for pid in self.living():
            with contextlib.suppress(OSError):
                os.kill(pid, 9)

    def living(self) -> dict[int, str]:
        """Those that came since, by pid, with their command lines; the dead among them are laid to rest."""
        found = {}
        for pid in pids(os.getpid()):
            if pid in self.known:
                continue
            try:
                with open(f"/proc/{pid}/stat") as file:
                    state, parent = file.read().rpartition(")")[2].split()[:2]
                with open(f"/proc/{pid}/cmdline", "rb") as line:
                    command = line.read().replace(b"\0", b" ").decode(errors="replace").strip()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state != "Z":
                found[pid] = command[:200]
            elif int(parent) == os.getpid() and pid not in self.mine:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
        return found

    def assert_nobody(self, *but: int) -> None:
        """Nobody lives, apart from ``but`` and their descendants, after a moment in which the killed may die."""
        deadline = time.monotonic() + SECONDS
        while left := {pid: line for pid, line in self.living().items() if not any(pid in pids(one) for one in but)}:
            assert time.monotonic() < deadline, f"still there: {left}"
            time.sleep(0.02)
