"""What bubblewrap can leave behind: killed in the instant between making pid 1 and letting it run, it leaves it waiting
for ever, since that has not set its own --die-with-parent yet. Every launcher carries a mark by which to find it."""

from __future__ import annotations

import os
import signal


def kill_strays(mark: str) -> None:
    """Kill every process with ``mark`` among its arguments, until there is none.

    Only to be called when the launcher is dead or dying. Processes inside can name the mark too: they belong to the
    same sandbox.
    """
    wanted = mark.encode()
    found = True
    while found:
        found = False
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    if wanted not in file.read().split(b"\0"):
                        continue
                os.kill(int(pid), signal.SIGKILL)
                found = True
            except OSError:  # gone, or not ours
                continue
