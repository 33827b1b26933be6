"""Stopping and resuming every process of a sandbox, so that its files stand still while they are copied.

Parents are stopped before their children and resumed after them: no shell gets to see that its job was stopped.
Processes of a sandbox have the uid of whoever runs Choir or, under root, another: both can be signalled.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

from choir.errors import ChoirError
from choir.isolation.tree import pids

STILL_SECONDS = 5.0
_STILL = frozenset("TtZXx")  # proc_pid_stat(5): stopped, traced, dead


def thaw(pid: int) -> None:
    """Let everything below ``pid`` (not itself) go on."""
    for each in reversed(pids(pid)[1:]):
        _send(each, signal.SIGCONT)


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Nothing below ``pid`` (a host pid, the launcher's, which is not stopped) runs within the block. Blocking.

    Raises:
        ChoirError: ``not_still``, a process could not be stopped in time.
    """
    try:
        deadline = time.monotonic() + STILL_SECONDS
        while moving := [each for each in pids(pid)[1:] if _state(each) not in _STILL]:  # also the forked meanwhile
            for each in moving:
                _send(each, signal.SIGSTOP)
            if time.monotonic() > deadline:
                raise ChoirError("not_still", "The sandbox's processes could not be made to stand still.", "Try again.")
            time.sleep(0.001)
        yield
    finally:
        thaw(pid)


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def processor_seconds(pid: int) -> float:
    """Processor time used below ``pid`` by those who live and the children they have waited for (proc_pid_stat(5))."""
    ticks = 0
    for each in pids(pid)[1:]:
        with contextlib.suppress(OSError), open(f"/proc/{each}/stat") as file:
            ticks += sum(map(int, file.read().rpartition(")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")
