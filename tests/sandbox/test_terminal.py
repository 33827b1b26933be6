"""A real shell on a real PTY: what it shows, how it is held back, how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
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


async def shown(terminal: Terminal, view: View, wanted: bytes) -> bytes:
    """What comes until ``wanted`` has."""
    said = b""
    while wanted not in said:
        data = await terminal.next(view)
        assert data, said
        terminal.seen(view, len(data))
        said += data
    return said


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
        with terminal.view() as one, terminal.view() as two:
            await terminal.type(b"echo $((6*7))x\n")
            assert b"42x" in await shown(terminal, one, b"42x")
            assert b"42x" in await shown(terminal, two, b"42x")
        with terminal.view() as late:
            assert b"42x" in await shown(terminal, late, b"42x")

    run(test)


def test_it_is_a_session_with_a_controlling_terminal_and_nothing_of_ours() -> None:
    secret, kept = os.pipe()
    os.environ["OURS"] = "not yours"
    try:

        async def test(terminal: Terminal) -> None:
            with terminal.view() as view:
                await terminal.type(b"tty; ps -o sid= -p $$; echo fd''s; readlink /proc/$$/fd/*; env; echo end''ed\n")
                said = (await shown(terminal, view, b"ended")).decode()
                assert "/dev/pts/" in said
                assert str(terminal.pid) in said
                assert "OURS" not in said
                ours = {os.readlink(f"/proc/self/fd/{number}") for number in (secret, kept, terminal._exit)}
                assert "fds" in said
                assert not ours & set(said.splitlines())
                await terminal.type(b"sh -c 'echo sleep\"\"ing; exec sleep 100'\n")
                await shown(terminal, view, b"sleeping")
                await terminal.type(b"\x03")
                await terminal.type(b"echo inter''rupted\n")
                await shown(terminal, view, b"interrupted")

        run(test)
    finally:
        del os.environ["OURS"]
        os.close(secret)
        os.close(kept)


def test_resizing_is_told_to_what_runs_in_it() -> None:
    async def test(terminal: Terminal) -> None:
        with terminal.view() as view:
            await terminal.type(b"trap 'echo now $(stty size)' WINCH; echo rea''dy\n")
            await shown(terminal, view, b"ready")
            terminal.resize(101, 37)
            await terminal.type(b"\n")  # a shell runs its trap when it has a line
            await shown(terminal, view, b"now 37 101")
            assert terminal.size == (101, 37)
            terminal.resize(0, 10**9)
            assert terminal.size == (2, 1000)

    run(test)


def test_its_end_is_told_with_all_that_it_showed() -> None:
    async def test(terminal: Terminal) -> None:
        said = b""
        with terminal.view() as view:
            while data := await terminal.next(view):
                terminal.seen(view, len(data))
                said += data
        assert said.count(b"line") == 20_000
        assert terminal.code == 3
        await terminal.type(b"nobody reads this\n")

    run(test, "/bin/sh", "-c", "i=0; while [ $i -lt 20000 ]; do echo line$i; i=$((i+1)); done; exit 3")


def test_a_signals_end_is_its_negative() -> None:
    async def test(terminal: Terminal) -> None:
        with terminal.view() as view:
            while await terminal.next(view):
                pass
        assert terminal.code == -signal.SIGKILL

    run(test, "/bin/sh", "-c", "kill -9 $$")


def test_what_stays_in_the_background_does_not_hold_up_the_end() -> None:
    async def test(terminal: Terminal) -> None:
        with terminal.view() as view:
            while data := await terminal.next(view):
                terminal.seen(view, len(data))
        assert terminal.code == 0

    run(test, "/bin/sh", "-c", "trap '' HUP; (while :; do echo on; sleep 0.01; done) & echo leaving; exit 0")


def test_closing_ends_the_whole_session_even_what_ignores_it() -> None:
    async def test(terminal: Terminal) -> None:
        with terminal.view() as view:
            await terminal.type(b"(trap '' HUP TERM; sleep 1000 & echo pid''=$!; wait) &\n")
            said = await shown(terminal, view, b"pid=")
            while b"\n" not in said.rpartition(b"pid=")[2]:
                said += await terminal.next(view)
        pid = int(said.rpartition(b"pid=")[2].split()[0])
        assert Path(f"/proc/{pid}").exists()
        await terminal.close()
        assert not await alive(pid)
        assert terminal.code is not None

    run(test)


def test_a_shell_is_held_back_by_its_slowest_viewer_and_by_no_one_else(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(terminal: Terminal) -> None:
        with terminal.view() as view:
            taken = 0
            with contextlib.suppress(TimeoutError):
                while True:
                    taken += len(await asyncio.wait_for(terminal.next(view), 0.3))
            assert module.HIGH_WATER <= taken <= module.HIGH_WATER + 2 * 65536
            terminal.seen(view, taken)
            assert await asyncio.wait_for(terminal.next(view), 5)
        before = terminal.scrollback.end  # nobody looks: it runs freely
        while terminal.scrollback.end < before + 10 * module.HIGH_WATER:
            await asyncio.sleep(0.001)

    run(test, "/bin/sh", "-c", "yes")


def test_a_viewer_that_stops_reading_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALLED_SECONDS", 0.1)

    async def test(terminal: Terminal) -> None:
        with terminal.view() as stuck:
            while not stuck.stalled:
                await asyncio.wait_for(terminal.next(stuck), 5)
            assert await terminal.next(stuck) == b""
            with terminal.view() as other:
                assert await terminal.next(other)

    run(test, "/bin/sh", "-c", "yes")


def test_typing_waits_for_a_program_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TYPED", 50_000)

    async def test(terminal: Terminal) -> None:
        with terminal.view() as view:
            await shown(terminal, view, b"ready")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(terminal.type(b"x" * 200_000), 0.3)
        await terminal.close()  # and lets go of who waits

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
