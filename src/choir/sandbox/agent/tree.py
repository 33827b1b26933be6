"""The processes that descend from one, and their end. Linux only, by /proc."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time

PATIENCE = 5.0
_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """From now on orphans among this process's descendants become its children, so that none gets away (prctl(2))."""
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> dict[int, list[int]]:
    """Parent → children, of all processes that are to be seen and are no zombies."""
    found: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            # The command's name is in parentheses and may hold any bytes.
            state, parent = file.read().rpartition(b")")[2].split()[:2]
            if state not in b"ZX":
                found.setdefault(int(parent), []).append(int(name))
    return found


def descendants(pid: int) -> list[int]:
    below = children()
    found: list[int] = []
    waiting = list(below.get(pid, ()))
    while waiting:
        each = waiting.pop()
        found.append(each)
        waiting += below.get(each, ())
    return found


def kill_below(pid: int) -> None:
    """Kill every descendant of ``pid``, until there is none or ``PATIENCE`` is over. They are stopped first, so that
    none forks meanwhile. Reaps the caller's children."""
    until = time.monotonic() + PATIENCE
    while (found := descendants(pid)) and time.monotonic() < until:
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for each in found:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(each, number)
        _reap()
        time.sleep(0.002)
    _reap()


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
