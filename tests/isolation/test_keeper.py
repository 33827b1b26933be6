"""Keepers: who outlives whom. Every process is killed with SIGKILL here."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from choir.channel import listen
from choir.errors import StartError
from choir.isolation import running as running_module
from choir.isolation.bubblewrap import BubblewrapBackend
from choir.isolation.contract import Exited, PhaseReached

from .conftest import ROOT, MakeSpec, alive, processes_with, started, until

STARTER = """
import asyncio, json, sys
from pathlib import Path
from choir.isolation.bubblewrap import BubblewrapBackend
from choir.isolation.contract import SandboxSpec

async def main(run, fields):
    spec = SandboxSpec(**{**fields, "home": Path(fields["home"]), "command": tuple(fields["command"])})
    running = await BubblewrapBackend(Path(run)).start(spec)
    print(json.dumps({"phase": "listener", "keeper": running.keeper_pid, "launcher": running.pid}), flush=True)
    await running.wait_ready()
    print(json.dumps({"phase": "ready"}), flush=True)
    await running.wait()

asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    # Longer than a socket's address may be.
    folder = tmp_path / ("run" + "x" * 120)
    folder.mkdir(mode=0o700)
    return folder


def marker() -> str:
    return f"86400.{secrets.randbelow(10**9)}"


def starter(run: Path, home: Path, role: str, seconds: str) -> subprocess.Popen[str]:
    """A process that starts a sandbox and waits for it; in its own process, so that it can be killed."""
    fields: dict[str, Any] = {
        "sandbox_id": "01kept",
        "user_id": "ada",
        "role": role,
        "home": str(home),
        "host_uid": 1_899_999_996 if ROOT else None,
        "environment": {},
        "command": ["sh", "-c", f"sleep {seconds} & sleep {seconds}"],
    }
    return subprocess.Popen(
        [sys.executable, "-c", STARTER, str(run), json.dumps(fields)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def told(process: subprocess.Popen[str], phase: str) -> dict[str, Any]:
    assert process.stdout is not None
    for line in process.stdout:
        message: dict[str, Any] = json.loads(line)
        if message["phase"] == phase:
            return message
    raise AssertionError(f"ended before {phase}")


def inside(launcher: int) -> int:
    """The host's pid of pid 1 inside."""
    return int(Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()[0])


@pytest.mark.parametrize("role", ["run", "live"])
@pytest.mark.parametrize("victim", ["keeper", "launcher", "first"])
def test_nothing_survives_a_kill_of_its_own(run: Path, tmp_path: Path, role: str, victim: str) -> None:
    seconds = marker()
    with starter(run, tmp_path / "home", role, seconds) as process:
        pids = told(process, "listener")
        told(process, "ready")
        pids["first"] = inside(pids["launcher"])
        assert processes_with(seconds)
        os.kill(pids[victim], signal.SIGKILL)
        process.wait(20)  # it saw the end
    asyncio.run(until(lambda: not processes_with(seconds)))
    asyncio.run(until(lambda: not any(alive(pids[name]) for name in ("keeper", "launcher", "first"))))


def test_a_command_ends_with_whoever_started_it(run: Path, tmp_path: Path) -> None:
    seconds = marker()
    with starter(run, tmp_path / "home", "run", seconds) as process:
        keeper = told(process, "listener")["keeper"]
        told(process, "ready")
        process.kill()
    asyncio.run(until(lambda: not processes_with(seconds) and not alive(keeper)))


def test_a_start_that_was_never_finished_is_not_kept(run: Path, tmp_path: Path) -> None:
    """Killed before the sandbox was told to proceed: nobody knows it, so nobody could adopt it."""
    seconds = marker()
    with starter(run, tmp_path / "home", "live", seconds) as process:
        keeper = told(process, "listener")["keeper"]
        os.kill(process.pid, signal.SIGSTOP)
        if processes_with(seconds):  # it was quick
            process.kill()
            os.kill(keeper, signal.SIGKILL)
        process.kill()
    asyncio.run(until(lambda: not processes_with(seconds)))


@pytest.mark.parametrize("victim", ["starter", "keeper", "launcher"])
@pytest.mark.parametrize("moment", [0.0, 0.01, 0.04])
def test_no_orphan_after_a_kill_at_any_moment(run: Path, tmp_path: Path, victim: str, moment: float) -> None:
    kill_at_a_moment(run, tmp_path / "home", victim, moment)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", ["starter", "keeper", "launcher"])
def test_no_orphan_after_many_kills(run: Path, tmp_path: Path, victim: str) -> None:
    for number in range(100):
        kill_at_a_moment(run, tmp_path / str(number), victim, random.uniform(0.0, 0.08))


def kill_at_a_moment(run: Path, home: Path, victim: str, moment: float) -> None:
    """Kill ``victim`` so many seconds after it, or the keeper, has begun."""
    seconds = marker()
    with starter(run, home, "run", seconds) as process:
        pid = child_of(child_of(process.pid, "choir.isolation.template"), "choir.isolation.keeper")
        if victim == "launcher":
            pid = child_of(pid, "--args")
        time.sleep(moment)  # the moment itself is what is tested
        if alive(pid):
            os.kill(process.pid if victim == "starter" else pid, signal.SIGKILL)
            process.wait(20)
        else:
            process.kill()
    asyncio.run(until(lambda: not processes_with(seconds)))
    if ROOT:
        asyncio.run(until(lambda: not processes_of(1_899_999_996)))


def child_of(pid: int, word: str) -> int:
    """The child with ``word`` in its command, as soon as there is one."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if int(child) in processes_with(word):
                return int(child)
    raise AssertionError("no child")


def processes_of(uid: int) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and entry.stat().st_uid == uid and alive(int(entry.name)):
                found.append(entry.name)
        except OSError:
            continue
    return found


def test_adoption_after_a_kill_of_the_hypervisor(run: Path, tmp_path: Path) -> None:
    seconds = marker()
    with starter(run, tmp_path / "home", "live", seconds) as process:
        told(process, "ready")
        process.kill()

    async def scenario() -> None:
        running = await BubblewrapBackend(run).adopt(run / "01kept.keeper")
        try:
            assert processes_with(seconds)
            assert running.sandbox_id == "01kept"
            assert running.listener.getsockname() == ("127.0.0.1", 7070)
            await running.wait_ready()
            assert (await running.stop(0)).reason == "stopped"
            phases = [event.phase async for event in running.events() if isinstance(event, PhaseReached)]
            assert phases == ["keeper", "namespace", "keyless", "listener", "ready"]
        finally:
            running.close()

    asyncio.run(scenario())
    assert not processes_with(seconds)
    asyncio.run(until(lambda: not (run / "01kept.keeper").exists()))


def test_a_keeper_keeps_the_exit_for_whoever_asks_later(run: Path, make_spec: MakeSpec, tmp_path: Path) -> None:
    async def scenario() -> Exited:
        backend = BubblewrapBackend(run)
        spec = make_spec("sh", "-c", "while [ ! -e ~/go ]; do sleep 0.01; done; exit 5", role="live")
        async with started(backend, spec) as running:
            socket, pid = running.keeper_socket, running.pid
        assert socket is not None
        (spec.home / "go").touch()
        await until(lambda: not alive(pid))
        running = await backend.adopt(socket)
        try:
            with pytest.raises(StartError):
                _ = running.listener
            return await running.wait()
        finally:
            running.close()

    assert asyncio.run(scenario()).code == 5


def test_several_may_watch_one_sandbox(run: Path, make_spec: MakeSpec) -> None:
    async def scenario() -> None:
        backend = BubblewrapBackend(run)
        async with started(backend, make_spec("sleep", "60", role="live")) as first:
            assert first.keeper_socket is not None
            second = await backend.adopt(first.keeper_socket)
            try:
                exited = await second.stop(5)
                assert await first.wait() == exited
            finally:
                second.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("dead_socket", [True, False])
def test_nobody_to_adopt_from(run: Path, dead_socket: bool) -> None:
    path = run / "01gone.keeper"
    if dead_socket:
        path.touch()
    with pytest.raises(StartError) as caught:
        asyncio.run(BubblewrapBackend(run).adopt(path))
    assert caught.value.reason == "keeper_gone"
    assert not path.exists()


def test_a_keeper_that_hangs_is_not_waited_for(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_module, "_SILENCE", 0.5)
    seconds = marker()
    with starter(run, tmp_path / "home", "live", seconds) as process:
        pid = told(process, "listener")["keeper"]
        told(process, "ready")
        process.kill()
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(StartError) as caught:
        asyncio.run(BubblewrapBackend(run).adopt(run / "01kept.keeper"))
    assert caught.value.reason == "keeper_silent"
    asyncio.run(until(lambda: not alive(pid) and not processes_with(seconds)))


def test_a_keeper_that_hangs_can_be_stopped(run: Path, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_module, "_SILENCE", 0.5)
    seconds = marker()

    async def scenario() -> Exited:
        async with started(BubblewrapBackend(run), make_spec("sleep", seconds)) as running:
            os.kill(running.keeper_pid, signal.SIGSTOP)
            return await running.stop(0.1)

    assert asyncio.run(scenario()).reason == "keeper_died"
    asyncio.run(until(lambda: not processes_with(seconds)))


def test_whoever_listens_where_a_keeper_should_is_not_killed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_module, "_SILENCE", 0.5)
    monkeypatch.chdir(run)
    with contextlib.closing(listen("01kept.keeper")), pytest.raises(StartError) as caught:  # it is this very process
        asyncio.run(BubblewrapBackend(run).adopt(run / "01kept.keeper"))
    assert caught.value.reason == "keeper_silent"
