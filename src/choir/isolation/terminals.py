"""How many terminals a sandbox can have: a limit of its own, for the kernel's is everybody's together.

``kernel.pty.max`` counts the terminals of all sandboxes; one that opens as many as it can leaves none for its
neighbours. Each sandbox has its own devpts, which takes a limit (``max=``); it is set from outside before a command
runs, as user_namespaces(7) allows to root and to whoever made the namespace. Standard library only: the keeper imports
this.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

MOST = 128
_NS_GET_PARENT = 0xB702  # ioctl_ns(2)
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_NOSUID, _MS_NOEXEC, _MS_REMOUNT, _MS_RELATIME = 2, 8, 32, 1 << 21

_libc = ctypes.CDLL(None, use_errno=True)


class Bound:
    """Holds the sandbox whose first process is ``pid`` to ``MOST`` terminals, in a process of its own, meanwhile.

    Its mounts must be there, and nothing that an agent could have written may have run.
    """

    def __init__(self, pid: int) -> None:
        self._child = os.fork()
        if self._child == 0:
            try:
                _remount(pid)
                os._exit(0)
            except (FileNotFoundError, ProcessLookupError):  # it has ended
                pass
            except OSError as error:
                with contextlib.suppress(OSError):
                    os.write(2, f"The sandbox's terminals cannot be limited: {error.strerror}\n".encode())
            finally:
                os._exit(1)

    def wait(self) -> bool:
        """Whether it is held to them now."""
        return os.waitpid(self._child, 0)[1] == 0


def _remount(pid: int) -> None:
    mounts = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    if os.geteuid() != 0:
        own = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        # The launcher makes two: that of the mounts, and in it one that can have no more below it.
        outer = _check(_libc.ioctl(own, _NS_GET_PARENT))
        _check(_libc.setns(outer, _CLONE_NEWUSER))
    _check(_libc.setns(mounts, _CLONE_NEWNS))
    flags = _MS_REMOUNT | _MS_NOSUID | _MS_NOEXEC | _MS_RELATIME
    options = f"mode=620,ptmxmode=666,max={MOST}".encode()
    _check(_libc.mount(b"devpts", b"/dev/pts", b"devpts", flags, options))


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
