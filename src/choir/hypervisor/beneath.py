"""Files below a folder that a sandbox writes: reached by descriptor, never through a link.

openat2(2), Linux 5.6. Whoever owns the folder may exchange any part of a path at any moment; the kernel resolves it in
one step that can neither leave the folder nor follow a link.
"""

from __future__ import annotations

import ctypes
import errno
import os

from choir.errors import ChoirError

_OPENAT2, _RENAMEAT2 = 437, 316 if os.uname().machine == "x86_64" else 276
_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 1, 2, 4, 8
_EXCHANGE = 2
_AT_FDCWD = -100
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_beneath(folder: int, path: str, flags: int, mode: int = 0) -> int:
    """A descriptor (close-on-exec) of ``path`` below the folder with descriptor ``folder``.

    Raises:
        ChoirError: ``link_refused``, the path leads through a link, out of the folder or to another file system.
        OSError: anything else, as open(2).
    """
    how = _How(flags | os.O_CLOEXEC, mode, _NO_XDEV | _NO_MAGICLINKS | _NO_SYMLINKS | _BENEATH)
    while True:
        found = int(_libc.syscall(_OPENAT2, folder, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how)))
        if found >= 0:
            return found
        number = ctypes.get_errno()
        if number in (errno.EINTR, errno.EAGAIN):
            continue
        if number in (errno.ELOOP, errno.EXDEV):
            raise ChoirError("link_refused", f"{path} leads through a link or out of its folder.")
        raise OSError(number, os.strerror(number), path)


def exchange(path: str, other: str) -> None:
    """Each takes the other's name, at once (renameat2(2), RENAME_EXCHANGE).

    Raises:
        OSError: as rename(2).
    """
    names = (os.fsencode(path), os.fsencode(other))
    if _libc.syscall(_RENAMEAT2, _AT_FDCWD, names[0], _AT_FDCWD, names[1], _EXCHANGE) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def sync(descriptor: int) -> None:
    """Bring the file system that ``descriptor`` is on to the disk (syncfs(2)).

    Raises:
        OSError: a write failed.
    """
    if _libc.syncfs(descriptor) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
