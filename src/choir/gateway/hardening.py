"""What a process with keys gives up: core dumps, being traced, swap."""

from __future__ import annotations

import contextlib
import ctypes
import re
import resource
from pathlib import Path

from choir.errors import StartError

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
_CAP_IPC_LOCK = 14
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


def harden() -> None:
    """No core dumps, no ptrace, no reading of ``/proc/PID`` by others (prctl(2), setrlimit(2)); many descriptors."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if prctl(PR_SET_DUMPABLE, 0) != 0:
        raise StartError("harden_failed", "The gateway could not forbid core dumps and ptrace of itself.")
    lock_memory()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def lock_memory() -> bool:
    """Keep this process's memory, and so its keys, out of swap (mlockall(2)), where that is allowed without a bound:
    with one, the allocation that exceeds it would fail. Not inherited by a fork."""
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if hard != resource.RLIM_INFINITY and not _holds(_CAP_IPC_LOCK):
        return False
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    return int(ctypes.CDLL(None).mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)) == 0


def prctl(option: int, value: int) -> int:
    """prctl(2) with one argument."""
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)))


def _holds(capability: int) -> bool:
    """Whether this process has it (capabilities(7))."""
    effective = re.search(r"(?m)^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text())
    return effective is not None and bool(int(effective[1], 16) >> capability & 1)
