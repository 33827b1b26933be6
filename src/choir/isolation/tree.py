"""The processes of a sandbox as its keeper sees them, for limits that no control group holds.

proc_pid_statm(5), proc_pid_smaps_rollup. Standard library only: the keeper imports this.
"""

from __future__ import annotations

import contextlib
import os
import signal

_PAGE = os.sysconf("SC_PAGESIZE")


def pids(first: int) -> list[int]:
    """``first`` and all its descendants: in a pid namespace whose pid 1 it is, everybody."""
    found = [first]
    for pid in found:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children") as file:
                    found += map(int, file.read().split())
    return found


def tasks(processes: list[int]) -> int:
    """How many threads they have, which is what RLIMIT_NPROC counts."""
    number = 0
    for pid in processes:
        with contextlib.suppress(OSError):
            number += len(os.listdir(f"/proc/{pid}/task"))
    return number


def resident(pid: int) -> int:
    """Bytes that it has in memory, shared ones too; the kernel may be some pages for each processor behind."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def share(pid: int) -> int:
    """Bytes that it has in memory or swapped out, shared ones divided among their users, in-memory files not counted.
    Costs the kernel a walk of its page tables."""
    found = 0
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            for line in file:
                name, _, rest = line.partition(":")
                if name in ("Pss_Anon", "Pss_File", "SwapPss"):
                    found += int(rest.split()[0]) * 1024
    except OSError:
        pass
    return found


def memory(processes: list[int], enough: int) -> int:
    """Bytes that the tree holds. Exact only above ``enough``; below, an upper bound that costs next to nothing."""
    bound = sum(map(resident, processes)) + in_memory_files(processes[0])
    return bound if bound <= enough else sum(map(share, processes)) + in_memory_files(processes[0])


def in_memory_files(first: int) -> int:
    """Bytes in the sandbox's private file systems in memory."""
    used = 0
    for path in ("tmp", "dev/shm", "run"):
        with contextlib.suppress(OSError):
            info = os.statvfs(f"/proc/{first}/root/{path}")
            used += (info.f_blocks - info.f_bfree) * info.f_frsize
    return used


def kill_largest(first: int) -> None:
    """As the kernel would: the one process that holds most. Never pid 1, which is only the reaper."""
    candidates = [pid for pid in pids(first) if pid != first]
    if not candidates:
        return
    largest = max(candidates, key=resident)
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(largest)
        try:
            if largest in pids(first):  # it has not ended and given its number to another
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)


def unlinked(processes: list[int], devices: set[int]) -> int:
    """Bytes of files on ``devices`` that have no name any more but are open."""
    sizes: dict[tuple[int, int], int] = {}
    for pid in processes:
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    info = os.stat(f"/proc/{pid}/fd/{name}")
                    if info.st_nlink == 0 and info.st_dev in devices:
                        sizes[info.st_dev, info.st_ino] = info.st_blocks * 512
    return sum(sizes.values())
