"""A real shell on a real PTY: what it shows, how it is held back, how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from choir.sandbox import terminal as module
from choir.sandbox.terminal import Terminal, TerminalError, View, shell_environment, shell_path

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "PS1": "$ ", "TERM": "dumb", "HOME": "/"}


def run(test: Callable[[Terminal], Awaitable[None]], *command: str) -> None:
    async def main() -> None:
        terminal = Terminal(command or ("/bin/sh", "-i"), ENVIRONMENT)
        try:
            await test(terminal)
        finally:
            await terminal.close()
        assert not Path(f"/proc/{terminal.pid}").exists()

    asyncio.run(asyncio.wait_for(main(), 30))


class Onlooker:
    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self.news = asyncio.Event()
        self.view: View

    async def next(self) -> bytes:
        """What was shown since the last call; b"" once nothing more will come."""
        while True:
            data = self._terminal.take(self.view)
            if data or self.view.stalled or self._terminal.over:
                return data
            self.news.clear()
            await self.news.wait()

    def seen(self, count: int) -> None:
        self._terminal.seen(self.view, count)

    async def until(self, wanted: bytes) -> bytes:
        """What comes until ``wanted`` has."""
        said = b""
        while wanted not in said:
            data = await self.next()
            assert data, said
            self.seen(len(data))
            said += data
        return said


@contextlib.contextmanager
def looking(terminal: Terminal) -> Iterator[Onlooker]:
    onlooker = Onlooker(terminal)
    with terminal.view(onlooker.news.set) as onlooker.view:
        yield onlooker


async def alive(pid: int) -> bool:
    for _ in range(200):
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                if file.read().rpartition(b")")[2].split()[0] == b"Z":
                    return False
        except FileNotFoundError:
            return False
        await asyncio.sleep(0.01)
    return True


def test_it_runs_what_is_typed_and_shows_it_to_all() -> None:
    async def test(terminal: Terminal) -> None:
        with looking(terminal) as one, looking(terminal) as two:
            terminal.type(b"echo $((6*7))x\n")
            assert b"42x" in await one.until(b"42x")
            assert b"42x" in await two.until(b"42x")
        with looking(terminal) as late:
            assert b"42x" in await late.until(b"42x")

    run(test)


def test_it_is_a_session_with_a_controlling_terminal_and_nothing_of_ours() -> None:
    secret, kept = os.pipe()
    os.environ["OURS"] = "not yours"
    try:

        async def test(terminal: Terminal) -> None:
            with looking(terminal) as view:
                terminal.type(b"tty; ps -o sid= -p $$; echo fd''s; readlink /proc/$$/fd/*; env; echo end''ed\n")
                said = (await view.until(b"ended")).decode()
                assert "/dev/pts/" in said
                assert str(terminal.pid) in said
                assert "OURS" not in said
                ours = {os.readlink(f"/proc/self/fd/{number}") for number in (secret, kept, terminal._exit)}
                assert "fds" in said
                assert not ours & set(said.splitlines())
                terminal.type(b"sh -c 'echo sleep\"\"ing; exec sleep 100'\n")
                await view.until(b"sleeping")
                terminal.type(b"\x03")
                terminal.type(b"echo inter''rupted\n")
                await view.until(b"interrupted")

        run(test)
    finally:
        del os.environ["OURS"]
        os.close(secret)
        os.close(kept)


def test_resizing_is_told_to_what_runs_in_it() -> None:
    async def test(terminal: Terminal) -> None:
        with looking(terminal) as view:
            terminal.type(b"trap 'echo now $(stty size)' WINCH; echo rea''dy\n")
            await view.until(b"ready")
            terminal.resize(101, 37)
            terminal.type(b"\n")  # a shell runs its trap when it has a line
            await view.until(b"now 37 101")
            assert terminal.size == (101, 37)
            terminal.resize(0, 10**9)
            assert terminal.size == (2, 1000)

    run(test)


def test_its_end_is_told_with_all_that_it_showed() -> None:
    async def test(terminal: Terminal) -> None:
        said = b""
        with looking(terminal) as view:
            while data := await view.next():
                view.seen(len(data))
                said += data
        assert said.count(b"line") == 20_000
        assert terminal.code == 3
        terminal.type(b"nobody reads this\n")

    run(test, "/bin/sh", "-c", "i=0; while [ $i -lt 20000 ]; do echo line$i; i=$((i+1)); done; exit 3")


def test_a_signals_end_is_its_negative() -> None:
    async def test(terminal: Terminal) -> None:
        with looking(terminal) as view:
            while await view.next():
                pass
        assert terminal.code == -signal.SIGKILL

    run(test, "/bin/sh", "-c", "kill -9 $$")


def test_what_stays_in_the_background_does_not_hold_up_the_end() -> None:
    async def test(terminal: Terminal) -> None:
        with looking(terminal) as view:
            while data := await view.next():
                view.seen(len(data))
        assert terminal.code == 0

    run(test, "/bin/sh", "-c", "trap '' HUP; (while :; do echo on; sleep 0.01; done) & echo leaving; exit 0")


def test_closing_ends_the_whole_session_even_what_ignores_it() -> None:
    async def test(terminal: Terminal) -> None:
        with looking(terminal) as view:
            terminal.type(b"(trap '' HUP TERM; sleep 1000 & echo pid''=$!; wait) &\n")
            said = await view.until(b"pid=")
            while b"\n" not in said.rpartition(b"pid=")[2]:
                said += await view.next()
        pid = int(said.rpartition(b"pid=")[2].split()[0])
        assert Path(f"/proc/{pid}").exists()
        await terminal.close()
        assert not await alive(pid)
        assert terminal.code is not None

    run(test)


def test_a_shell_is_held_back_by_its_slowest_viewer_and_by_no_one_else(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(terminal: Terminal) -> None:
        with looking(terminal) as view:
            taken = 0
            with contextlib.suppress(TimeoutError):
                while True:
                    taken += len(await asyncio.wait_for(view.next(), 0.3))
            assert module.HIGH_WATER <= taken <= module.HIGH_WATER + 2 * 65536
            view.seen(taken)
            assert await asyncio.wait_for(view.next(), 5)
        before = terminal.scrollback.end  # nobody looks: it runs freely
        while terminal.scrollback.end < before + 10 * module.HIGH_WATER:
            await asyncio.sleep(0.001)

    run(test, "/bin/sh", "-c", "yes")


def test_a_viewer_that_stops_reading_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALLED_SECONDS", 0.1)

    async def test(terminal: Terminal) -> None:
        with looking(terminal) as stuck:
            while not stuck.view.stalled:
                await asyncio.wait_for(stuck.next(), 5)
            assert await stuck.next() == b""
            with looking(terminal) as other:
                assert await other.next()

    run(test, "/bin/sh", "-c", "yes")


def test_typing_waits_for_a_program_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TYPED", 50_000)

    async def test(terminal: Terminal) -> None:
        with looking(terminal) as view:
            await view.until(b"ready")
        room = asyncio.Event()
        assert terminal.when_room(room.set)
        terminal.type(b"x" * 200_000)
        assert not terminal.when_room(room.set)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(room.wait(), 0.3)
        await terminal.close()  # and lets go of who waits
        assert room.is_set()

    run(test, "/bin/sh", "-c", "stty raw -echo; echo ready; sleep 100")


def test_a_command_that_is_not_there() -> None:
    async def main() -> None:
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(TerminalError) as caught:
            Terminal(["/no/such/shell"], ENVIRONMENT)
        assert caught.value.reason == "terminal_unavailable"
        assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(main())


def test_the_environment_of_a_shell() -> None:
    given = {
        "PATH": "/bin",
        "HOME": "/home/choir",
        "DATABASE_URL": "sqlite:////x",
        "LC_CTYPE": "C.UTF-8",
        "TERM": "dumb",
    }
    assert shell_environment(given) == {
        "PATH": "/bin",
        "HOME": "/home/choir",
        "TERM": "xterm-256color",
        "COLORTERM": "truecolor",
        "SHELL": shell_path(),
    }
    assert os.access(shell_path(), os.X_OK)


def test_it_asks_nothing_of_modules_that_are_slow_to_import() -> None:
    code = "import sys; from choir.sandbox import terminals, files_api; print({'msgspec', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
