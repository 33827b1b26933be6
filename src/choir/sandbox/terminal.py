"""One terminal: a shell on a PTY of its own, what it showed, and those who look at it (pty(7), tty_ioctl(4)).

Anyone may look on and type. A shell that writes faster than its slowest viewer reads is held back by the kernel, as on
any terminal; a viewer that stops reading is let go after ``STALLED_SECONDS``. Without a viewer nothing is held back.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pwd
import signal
import struct
import termios
from collections.abc import Callable, Iterator, Mapping, Sequence

from choir.errors import ChoirError
from choir.sandbox.terminal_buffer import Scrollback

HIGH_WATER = 256 * 1024
LOW_WATER = 64 * 1024
STALLED_SECONDS = 20.0
MAX_TYPED = 1024 * 1024
HANG_UP_SECONDS = 1.0
_READ = 64 * 1024
_FLOOD = 1024
"""Bytes at once that promise more."""
_LAST_READS = 16
_LARGEST = 1000


class TerminalError(ChoirError):
    """``terminal_unavailable``: no shell could be started."""


def shell_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What a shell is given of the sandbox's environment: all of it but where the runtime keeps its state, and what
    Python added to its own (PEP 538)."""
    kept = {name: value for name, value in environment.items() if name not in ("DATABASE_URL", "LC_CTYPE")}
    return {**kept, "TERM": "xterm-256color", "COLORTERM": "truecolor", "SHELL": shell_path()}


def shell_path() -> str:
    """bash where there is one: people expect its line editing."""
    with contextlib.suppress(KeyError):
        own = pwd.getpwuid(os.getuid()).pw_shell
        if own.endswith(("/zsh", "/fish", "/bash")) and os.access(own, os.X_OK):
            return own
    return next((path for path in ("/bin/bash", "/usr/bin/bash") if os.access(path, os.X_OK)), "/bin/sh")


class View:
    """One who looks on. ``position`` is the offset of what was taken, ``seen`` of what was shown.

    Args:
        news: called when there is more to take, or nothing more will come.
    """

    def __init__(self, position: int, news: Callable[[], None]) -> None:
        self.position = self.seen = position
        self.news = news
        self.stalled = False


class Terminal:
    """
    Args:
        command: what runs, in this process's own folder; its first word is the program's path.
        environment: all of its environment.

    Raises:
        TerminalError: ``terminal_unavailable``.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], columns: int = 80, rows: int = 24
    ) -> None:
        self.scrollback = Scrollback()
        self.code: int | None = None
        """How it ended: the exit code, or minus the signal's number. None while it runs."""
        self.size = (columns, rows)
        self._views: set[View] = set()
        self._typed = bytearray()
        self._waiting: list[Callable[[], None]] = []
        self._paused = False
        self._watchdog: asyncio.TimerHandle | None = None
        self._over = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        try:
            self._master, slave = os.openpty()
        except OSError as error:
            raise TerminalError("terminal_unavailable", f"There is no terminal left: {error.strerror}.") from error
        try:
            os.set_blocking(self._master, False)
            self.resize(columns, rows)
            self.pid = _spawn(command, environment, os.ttyname(slave))
        except OSError as error:
            os.close(self._master)
            raise TerminalError("terminal_unavailable", f"No shell could be started: {error.strerror}.") from error
        finally:
            os.close(slave)
        self._exit = os.pidfd_open(self.pid)
        self._loop.add_reader(self._exit, self._reap)
        self._loop.add_reader(self._master, self._read)

    @contextlib.contextmanager
    def view(self, news: Callable[[], None]) -> Iterator[View]:
        """A ``View`` on it, from the oldest that is kept on."""
        view = View(self.scrollback.beginning(), news)
        self._views.add(view)
        try:
            yield view
        finally:
            self._views.discard(view)
            self._pace()

    def take(self, view: View) -> bytes:
        """What was shown since the last call, or the beginning of it; b"" when there is nothing."""
        if view.stalled:
            return b""
        data = self.scrollback.since(view.position)
        view.position = max(view.position, self.scrollback.start) + len(data)
        return data

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self._over.is_set()

    def seen(self, view: View, count: int) -> None:
        """The viewer has shown ``count`` bytes more."""
        view.seen = min(view.seen + count, view.position)
        self._pace()

    def type(self, data: bytes) -> None:
        """Give it input."""
        if self._master < 0 or self.code is not None:
            return
        if not self._typed:
            data = data[self._give(data) :]
        if data:
            self._typed += data
            self._loop.add_writer(self._master, self._write)

    def when_room(self, call: Callable[[], None]) -> bool:
        """Whether it takes more input now; else ``call`` is called once it does."""
        if len(self._typed) <= MAX_TYPED:
            return True
        self._waiting.append(call)
        return False

    def resize(self, columns: int, rows: int) -> None:
        columns, rows = (min(max(size, 2), _LARGEST) for size in (columns, rows))
        self.size = (columns, rows)
        if self._master >= 0:
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def close(self) -> None:
        """Hang up, as when a window is closed: everything in its session ends."""
        if self.code is None:
            _signal_session(self.pid, signal.SIGHUP)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HANG_UP_SECONDS):
                    await self._over.wait()
        _signal_session(self.pid, signal.SIGKILL)
        self._end_of_output()
        while self.code is None and self._exit >= 0:
            await asyncio.sleep(0)
            self._reap()

    def _read(self) -> None:
        data = self._take_out()
        if data is None:
            return
        if not data:
            self._end_of_output()
            return
        size = len(data)
        self.scrollback.append(data)
        # A flood goes on in large pieces, an echo at once: whatever is there by now goes with the first of it.
        while len(data) >= _FLOOD and size < _READ and (data := self._take_out() or b""):
            size += len(data)
            self.scrollback.append(data)
        self._tell_news()
        self._pace()

    def _take_out(self) -> bytes | None:
        """What the shell shows; None when there is nothing now, b"" when there never will be."""
        try:
            return os.read(self._master, _READ)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:  # EIO: nobody has the other end open any more
            return b""

    def _tell_news(self) -> None:
        for view in list(self._views):
            view.news()

    def _write(self) -> None:
        del self._typed[: self._give(self._typed[:_READ])]
        if not self._typed:
            self._loop.remove_writer(self._master)
        if len(self._typed) <= MAX_TYPED:
            self._tell_room()

    def _give(self, data: bytes | bytearray) -> int:
        """How much of it the shell takes."""
        try:
            return os.write(self._master, data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            return len(data)  # nobody is there to read it

    def _tell_room(self) -> None:
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()

    def _pace(self) -> None:
        """Read from the shell only as fast as the slowest viewer shows it."""
        if self._master < 0:
            return
        behind = max((self.scrollback.end - view.seen for view in self._views if not view.stalled), default=0)
        if not self._paused and behind > HIGH_WATER:
            self._paused = True
            self._loop.remove_reader(self._master)
            self._watchdog = self._loop.call_later(STALLED_SECONDS, self._let_go)
        elif self._paused and behind <= LOW_WATER:
            self._resume()

    def _resume(self) -> None:
        self._paused = False
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._loop.add_reader(self._master, self._read)
        if self.code is not None:
            self._loop.call_soon(self._finish)

    def _let_go(self) -> None:
        for view in list(self._views):
            if self.scrollback.end - view.seen > LOW_WATER:
                view.stalled = True
                view.news()
        self._resume()

    def _reap(self) -> None:
        if self._exit < 0:
            return
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return
        self._loop.remove_reader(self._exit)
        os.close(self._exit)
        self._exit = -1
        self.code = os.waitstatus_to_exitcode(status)
        # What it left in the background may hold the terminal open: it has shown its last.
        self._loop.call_soon(self._finish)

    def _finish(self) -> None:
        """The rest of what it showed. What it left in the background may go on writing: no more than a bit of that."""
        for _ in range(_LAST_READS):
            if self._paused:
                return  # called again when that ends
            if self._master < 0:
                break
            before = self.scrollback.end
            self._read()
            if self.scrollback.end == before:
                break
        self._end_of_output()

    def _end_of_output(self) -> None:
        if self._master >= 0:
            if self._watchdog is not None:
                self._watchdog.cancel()
            self._loop.remove_reader(self._master)
            self._loop.remove_writer(self._master)
            os.close(self._master)
            self._master = -1
        self._typed.clear()
        self._tell_room()
        if self.code is not None:
            self._over.set()
        self._tell_news()


def _spawn(command: Sequence[str], environment: Mapping[str, str], terminal: str) -> int:
    """A session of its own whose first act is to open the terminal, which makes it its controlling one. No descriptor
    of ours goes along: all are close-on-exec (PEP 446)."""
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, terminal, os.O_RDWR, 0),
        (os.POSIX_SPAWN_DUP2, 0, 1),
        (os.POSIX_SPAWN_DUP2, 0, 2),
    ]
    ignored_here = [signal.SIGPIPE, signal.SIGXFSZ]
    return os.posix_spawn(
        command[0], list(command), dict(environment), file_actions=actions, setsid=True, setsigdef=ignored_here
    )


def _signal_session(session: int, number: int) -> None:
    """To every process of a session (field 6 of proc_pid_stat(5))."""
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(f"/proc/{name}/stat", "rb") as file:
                stat = file.read()
            if int(stat[stat.rindex(b")") + 2 :].split()[3]) == session:
                os.kill(int(name), number)
