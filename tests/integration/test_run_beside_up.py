"""``choir run`` while ``choir up`` runs: a thin client of the hypervisor, which must behave like the whole thing.

Each case is run twice: by the client, and (``--config`` asks for more than it does) by this process itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import shutil
import signal
import struct
import subprocess
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from choir.channel import connect, peer_credentials
from choir.isolation.tree import pids
from choir.paths import State

from .conftest import CHOIR, World


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    root = Path(tempfile.mkdtemp(prefix="choir-"))
    made = World(root)
    for folder in (made.home, made.project):
        folder.mkdir()
    made.configure("")
    up = made.up()
    yield made
    assert up.stop() == 0
    assert up.process.stdout is not None
    up.process.stdout.close()
    shutil.rmtree(root)


@pytest.fixture(params=["client", "itself"])
def by(request: pytest.FixtureRequest, world: World) -> list[str]:
    return [] if request.param == "client" else ["--config", str(world.config)]


def hypervisor(world: World) -> int:
    channel = connect(str(State(world.state).hypervisor_socket))
    with contextlib.closing(channel):
        return peer_credentials(channel.sock)[0]


def until(condition: object) -> None:
    deadline = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def start(world: World, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [CHOIR, "run", "--", *command],
        cwd=world.project,
        env=world.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_client_is_asked(world: World) -> None:
    """Else everything below would pass for the wrong reason."""
    running = start(world, "sh", "-c", "echo up; read line")
    assert running.stdout is not None
    running.stdout.readline()
    assert not {"asyncio", "msgspec"} & loaded(running.pid)
    running.terminate()
    running.communicate(timeout=30)


def loaded(pid: int) -> set[str]:
    """Of asyncio and msgspec those that the process has loaded, by their C parts."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {name for name in ("asyncio", "msgspec") if f"_{name}." in maps or f"/{name}/" in maps}


def test_the_exit_code_and_the_streams_are_the_commands(world: World, by: list[str]) -> None:
    done = world.choir("run", *by, "--", "sh", "-c", "cat; echo err >&2; exit 7", stdin="hello\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "hello\n", "err\n")
    assert world.choir("run", *by, "--", "sh", "-c", "kill -9 $$").returncode == 137


def test_the_folder_is_there_and_the_environment_is_not(world: World, by: list[str]) -> None:
    canary = "sk-" + os.urandom(24).hex()
    more = {"OPENAI_API_KEY": canary, "HARMLESS": canary, "TERM": "vt220", "LANG": "C.UTF-8"}
    done = world.choir("run", *by, "--", "sh", "-c", "pwd; echo $HOME; env; cat /proc/*/environ 2>&1; true", **more)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == [str(world.project), "/home/choir"]
    assert "\nTERM=vt220\n" in done.stdout
    assert "OPENAI_API_KEY=choir-gt-" in done.stdout
    assert canary not in done.stdout


def test_the_hypervisor_is_told_no_more_than_it_asks_for(world: World) -> None:
    """The client's environment may hold keys: what is in it otherwise never comes near the hypervisor's memory."""
    canary = "sk-" + os.urandom(24).hex()
    assert world.choir("run", "--", "true", OPENAI_API_KEY=canary, HARMLESS=canary).returncode == 0
    pid = hypervisor(world)
    found = 0
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            span, access = line.split()[:2]
            low, high = (int(number, 16) for number in span.split("-"))
            if access.startswith("rw"):
                with contextlib.suppress(OSError):
                    found += os.pread(memory.fileno(), high - low, low).count(canary.encode())
    assert found == 0


REFUSED = {
    "no such command": ("no-such-command",),
    "not executable": ("./file",),
    "key files, strictly": ("--strict", "true"),
    "an agent that is unknown": ("--agent", "nobody", "true"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_the_same(world: World, case: str) -> None:
    (world.project / "file").write_text("")
    (world.project / ".env").write_text("OPENAI_API_KEY=sk-" + os.urandom(24).hex())
    try:
        told = [
            world.choir("run", *by, *(REFUSED[case][:-1]), "--", REFUSED[case][-1])
            for by in ([], ["--config", str(world.config)])
        ]
    finally:
        (world.project / ".env").unlink()
    assert told[0].returncode != 0
    assert (told[0].returncode, told[0].stderr) == (told[1].returncode, told[1].stderr)


def test_the_home_folder_is_refused(world: World, by: list[str]) -> None:
    done = world.choir("run", *by, "--", "true", HOME=str(world.project))
    assert done.returncode == 1
    assert "not a project folder" in done.stderr


def test_key_files_are_masked_and_said(world: World, by: list[str]) -> None:
    (world.project / ".env").write_text("OPENAI_API_KEY=sk-" + os.urandom(24).hex())
    try:
        done = world.choir("run", *by, "--", "cat", ".env")
    finally:
        (world.project / ".env").unlink()
    assert (done.returncode, done.stdout) == (0, "")
    assert "masked .env" in done.stderr


def test_what_a_command_left_for_git_is_said(world: World, by: list[str]) -> None:
    left = "mkdir -p x/.git && printf '[core]\\nfsmonitor = evil\\n' > x/.git/config"
    try:
        assert "look at x/.git/config" in world.choir("run", *by, "--", "sh", "-c", left).stderr
    finally:
        shutil.rmtree(world.project / "x")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_command(world: World, number: int) -> None:
    running = start(world, "sh", "-c", "trap 'echo told; exit 5' TERM; echo up; while :; do sleep 0.05; done")
    assert running.stdout is not None
    assert running.stdout.readline() == "up\n"
    running.send_signal(number)
    out, err = running.communicate(timeout=30)
    assert (running.returncode, out) == (5, "told\n")
    assert "stopped" in err


def test_a_killed_client_takes_its_sandbox_along(world: World) -> None:
    marker = f"86400.{os.getpid()}"
    running = start(world, "sh", "-c", f"echo up; sleep {marker}")
    assert running.stdout is not None
    running.stdout.readline()
    running.kill()
    running.communicate(timeout=30)
    until(lambda: not any(marker in command(pid) for pid in pids(hypervisor(world))))


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_a_killed_hypervisor_does_not_take_the_command_along(world: World) -> None:
    reading, writing = os.pipe()
    running = subprocess.Popen(
        [CHOIR, "run", "--", "sh", "-c", "echo up; read line; exit 3"],
        cwd=world.project,
        env=world.environment(),
        stdin=reading,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(reading)
    assert running.stdout is not None
    running.stdout.readline()
    old = hypervisor(world)
    os.kill(old, signal.SIGKILL)
    until(lambda: hypervisor_or_none(world) not in (None, old))
    assert running.poll() is None
    channel = connect(str(State(world.state).gateway_socket))
    with contextlib.closing(channel):

        def leased() -> int:
            channel.send({"op": "status"})
            return sum(each["role"] == "run" for each in channel.receive()[0]["sandboxes"])

        assert leased() == 1
        os.write(writing, b"\n")
        os.close(writing)
        _, err = running.communicate(timeout=30)
        assert running.returncode == 3
        assert "the hypervisor went away" in err
        assert leased() == 0


def hypervisor_or_none(world: World) -> int | None:
    try:
        return hypervisor(world)
    except Exception:
        return None


def test_another_folder_of_the_same_name_is_not_taken(world: World, tmp_path: Path) -> None:
    """As for a client in another mount namespace: it does it itself, with its own eyes."""
    channel = connect(str(State(world.state).hypervisor_socket))
    with contextlib.closing(channel):
        folder = os.open(tmp_path, os.O_PATH)
        asked = {"command": ["true"], "agent": None, "model": None, "strict": False, "folder": str(world.project)}
        channel.send({"op": "run", **asked}, [folder, 0, 1, 2])
        os.close(folder)
        assert "elsewhere" in channel.receive()[0]


def test_a_terminal_of_its_own(world: World) -> None:
    """Under a PTY: the command has a controlling terminal that is not the person's, with its size, also a new one."""
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(world.project)
        changed = "while [ \"$(stty size)\" = '33 101' ]; do sleep 0.02; done; stty size"
        command = f"stty size; test -t 0 && test -t 1 && echo terminal; read x; echo got $x; {changed}"
        os.execve(CHOIR, ["choir", "run", "--", "sh", "-c", command], world.environment(TERM="xterm"))
    # Read by the client before it does anything else with its terminal.
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 33, 101, 0, 0))
    said = b""
    while b"terminal" not in said:
        said += os.read(master, 1000)
    assert not {"asyncio"} & loaded(pid)
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 44, 120, 0, 0))
    os.kill(pid, signal.SIGWINCH)
    os.write(master, b"typed\r")
    with contextlib.suppress(OSError):
        while chunk := os.read(master, 1000):
            said += chunk
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, said
    assert b"33 101" in said
    assert b"got typed" in said
    assert b"44 120" in said
    os.close(master)


def test_more_than_a_message_holds_is_run_all_the_same(world: World) -> None:
    done = world.choir("run", "--", "sh", "-c", "echo ${#1}", "sh", "x" * 100_000)
    assert (done.returncode, done.stdout) == (0, "100000\n"), done.stderr
