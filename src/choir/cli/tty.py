"""A PTY for the sandbox of ``choir run``, relayed to the person's terminal (``choir.app.terminal`` says why), without
an event loop of its own and with few imports.
"""

from __future__ import annotations

import os
import select
import termios
import time
import tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_DRAIN = 1.0  # seconds
_CHUNK = 65536


class Tty:
    """Of a process whose standard input and output are a terminal.

    Attributes:
        stdio: descriptors for the sandbox.
    """

    def __init__(self) -> None:
        self._master, self._slave = os.openpty()
        self._saved: list[object] | None = termios.tcgetattr(0)
        termios.tcsetwinsize(self._slave, termios.tcgetwinsize(0))
        self.stdio = (self._slave, self._slave, self._slave if os.isatty(2) else 2)

    def relay(self, watch: Callable[[int, Callable[[], None]], None], unwatch: Callable[[int], None]) -> None:
        """Copy both ways from now on.

        Args:
            watch, unwatch: the caller's event loop.
        """
        self._let_go_of_slave()
        tty.setraw(0)
        self._unwatch = unwatch
        watch(0, self._from_person)
        watch(self._master, self._from_sandbox)

    def resized(self) -> tuple[int, int]:
        """Pass the person's window size on; (rows, columns)."""
        size = termios.tcgetwinsize(0)
        termios.tcsetwinsize(self._master, size)
        return size

    def drain(self) -> None:
        """Let the last output through."""
        self._let_go_of_slave()
        until = time.monotonic() + _DRAIN
        while (left := until - time.monotonic()) > 0:
            if not select.select([self._master], [], [], left)[0] or not self._copy():
                return

    def restore(self) -> None:
        """The person's terminal as it was. Idempotent."""
        if self._saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)  # type: ignore[arg-type]
            self._saved = None
            self._let_go_of_slave()
            os.close(self._master)

    def _let_go_of_slave(self) -> None:
        """With a copy of it here, the master would never report the end."""
        if self._slave >= 0:
            os.close(self._slave)
            self._slave = -1

    def _from_person(self) -> None:
        data = os.read(0, _CHUNK)
        if data:
            _write(self._master, data)
        else:
            self._unwatch(0)

    def _from_sandbox(self) -> None:
        if not self._copy():
            self._unwatch(self._master)
            self._unwatch(0)

    def _copy(self) -> bool:
        try:
            data = os.read(self._master, _CHUNK)
        except OSError:  # EIO: the other side is closed
            return False
        _write(1, data)
        return bool(data)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
