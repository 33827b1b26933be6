"""Landlock, a second layer below the mounts: a process gives up, for itself and its children, all writing outside
certain folders (landlock(7)).

A sandbox as a whole gives up writing only: reading is what the mounts show. TCP stays open, since the network namespace
has nothing but its own loopback, where agents' development servers listen. Standard library only: the sandbox's first
process imports this, ctypes late.
"""

from __future__ import annotations

import os

from choir.errors import IsolationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes
    from collections.abc import Iterable

OLDEST = 2
"""The first ABI with LANDLOCK_ACCESS_FS_REFER; before, renaming from one folder to another is always refused."""

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION = 1
_PATH_BENEATH = 1

# linux/landlock.h
_WRITE_FILE, _READ_FILE, _REMOVE_DIR, _REMOVE_FILE = 1 << 1, 1 << 2, 1 << 4, 1 << 5
_MAKE_CHAR, _MAKE_DIR, _MAKE_REG, _MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = (1 << bit for bit in range(6, 13))
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_SCOPED = 0b11  # LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET, LANDLOCK_SCOPE_SIGNAL


def _rights(abi: int) -> tuple[int, int, int]:
    """(what is handled, what is granted below a writable folder, what is granted on a writable file)."""
    on_file = _WRITE_FILE | (_TRUNCATE if abi >= 3 else 0)
    granted = (
        on_file | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SOCK | _MAKE_FIFO | _MAKE_SYM | _REFER
    )
    return granted | _MAKE_CHAR | _MAKE_BLOCK, granted, on_file


_loaded: list[ctypes.CDLL] = []


def _libc() -> ctypes.CDLL:
    """Loaded once: it takes half a millisecond."""
    if not _loaded:
        import ctypes

        _loaded.append(ctypes.CDLL(None, use_errno=True))
    return _loaded[0]


def abi() -> int:
    """The kernel's Landlock ABI; 0 where there is none, or it is switched off."""
    import ctypes

    found: int = _libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    return max(0, found)


def restrict(writable: Iterable[str], abi: int, readable: Iterable[str] | None = None) -> None:
    """From now on nothing can be written but below ``writable``, and with ABI 6 nobody outside be signalled.

    Needs no-new-privileges. Cannot be undone.

    Args:
        writable: folders or files; one that is not there is passed over.
        abi: the kernel's, at least ``OLDEST``.
        readable: likewise, where files can be read (their names still show everywhere); None: reading stays as it is.

    Raises:
        IsolationError: ``landlock_failed``.
    """
    import ctypes
    import struct

    libc = _libc()

    def call(number: int, *arguments: object) -> int:
        result: int = libc.syscall(number, *arguments)
        if result < 0:
            raise IsolationError(
                "landlock_failed",
                f"The kernel refused its Landlock rules ({os.strerror(ctypes.get_errno())}).",
                "Report this with the kernel's version.",
            )
        return result

    handled, granted, on_file = _rights(abi)
    if readable is not None:
        handled |= _READ_FILE
    # struct landlock_ruleset_attr: file system, network, scope; each ABI knows so much of it.
    attributes = struct.pack("=QQQ", handled, 0, _SCOPED if abi >= 6 else 0)[
        : 24 if abi >= 6 else 16 if abi >= 4 else 8
    ]
    ruleset = call(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    places = [(path, granted, on_file) for path in writable]
    places += [(path, _READ_FILE, _READ_FILE) for path in readable or ()]
    for path, in_folder, on_one in places:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        allowed = in_folder if os.path.isdir(f"/proc/self/fd/{descriptor}") else on_one
        call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", allowed, descriptor), 0)
        os.close(descriptor)
    call(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
