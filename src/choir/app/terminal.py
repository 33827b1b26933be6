"""The terminal of ``choir run``: a PTY of the sandbox's own, relayed to the person's.

An agent never holds the person's terminal: it could push input into it (TIOCSTI) or leave it in a bad state. When
standard input and output are not both a terminal, the streams are handed through as they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import signal
import struct
import termios
import tty
from collections.abc import Callable, Iterator


class Terminal:
    """Descriptors for the sandbox, and the relay when they are a PTY."""

    def __init__(self, stdio: tuple[int, int, int], master: int | None) -> None:
        self.stdio = stdio
        self._master = master
        self._ended: asyncio.Future[None] | None = None

    @classmethod
    @contextlib.contextmanager
    def for_standard_streams(cls) -> Iterator[Terminal]:
        """A relay for this process's terminal if it has one; puts the terminal back as it was."""
        if not (os.isatty(0) and os.isatty(1)):
            yield cls((0, 1, 2), None)
            return
        master, slave = pty.openpty()
        saved = termios.tcgetattr(0)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8))
        terminal = cls((slave, slave, slave if os.isatty(2) else 2), master)
        try:
            yield terminal
        finally:
            termios.tcsetattr(0, termios.TCSADRAIN, saved)
            os.close(master)
            with contextlib.suppress(OSError):
                os.close(slave)

    def relay(self, loop: asyncio.AbstractEventLoop, resize: Callable[[int, int], None]) -> None:
        """Copy both ways until the sandbox's side ends. Only for a PTY; otherwise nothing."""
        master = self._master
        if master is None:
            return
        # Our copy of the slave must go, or the master never reports the end.
        os.close(self.stdio[0])
        tty.setraw(0)
        self._ended = loop.create_future()

        def from_person() -> None:
            data = os.read(0, 65536)
            if not data:
                loop.remove_reader(0)
                return
            os.write(master, data)

        def from_sandbox() -> None:
            try:
                data = os.read(master, 65536)
            except OSError:
                data = b""
            if data:
                write_all(1, data)
                return
            loop.remove_reader(master)
            loop.remove_reader(0)
            if self._ended is not None and not self._ended.done():
                self._ended.set_result(None)

        def resized() -> None:
            size = fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8)
            fcntl.ioctl(master, termios.TIOCSWINSZ, size)
            rows, columns = struct.unpack("4H", size)[:2]
            resize(rows, columns)

        loop.add_reader(0, from_person)
        loop.add_reader(master, from_sandbox)
        loop.add_signal_handler(signal.SIGWINCH, resized)

    async def drain(self, seconds: float = 1.0) -> None:
        """Let the last output through."""
        if self._ended is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._ended), seconds)


def write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
