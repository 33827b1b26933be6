"""Keeping a run and its commands away from the sandbox's own state and processes, inside the sandbox.

A sandbox has one uid and cannot make namespaces of its own, so this is Landlock (landlock(7)): from then on the process
and its children cannot read or write the state folder, cannot trace or signal what runs outside of their domain (ABI 6;
tracing with every ABI). They can still reach what listens on the loopback.

Landlock only grants, along whole subtrees. So what lies beside the state folder is granted entry by entry, and no new
entry can be made directly in the home: a run works in ``WORK`` below it.
"""

from __future__ import annotations

import ctypes
import os

from choir.errors import IsolationError
from choir.isolation import landlock

WORK = "work"
_USED = (WORK, ".cache", ".config", ".local", ".npm")
_SET_NO_NEW_PRIVS = 38


def available() -> bool:
    """Whether this kernel can."""
    return landlock.abi() >= landlock.OLDEST


def prepare(home: str) -> str:
    """Make the folders that programs expect to make themselves; the working folder."""
    for name in _USED:
        os.makedirs(os.path.join(home, name), mode=0o700, exist_ok=True)
    return os.path.join(home, WORK)


def separate(state: str) -> None:
    """Give up, for this process and its children and for ever, the folder ``state`` and the reach of others.

    Raises:
        IsolationError: ``landlock_failed``.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise IsolationError("landlock_failed", "The kernel refused no-new-privileges.", "")
    beside = _beside(os.path.realpath(state))
    landlock.restrict(beside, landlock.abi(), readable=beside)


def _beside(folder: str) -> list[str]:
    """All entries on the way from the root to ``folder`` that do not hold it."""
    found = []
    while folder != "/":
        above = os.path.dirname(folder)
        found += [entry.path for entry in os.scandir(above) if entry.path != folder]
        folder = above
    return found
