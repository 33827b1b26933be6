"""Sandboxes that stand still until somebody comes: what they are until then, and that they are no less afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from choir.errors import ChoirError, KeylessError, StartError
from choir.isolation import self_check
from choir.isolation.bubblewrap import BubblewrapBackend
from choir.isolation.contract import Exited, Mount, PhaseReached, SandboxLimits, SandboxSpec
from choir.isolation.held import HeldSandbox
from choir.isolation.process import ProcessBackend
from choir.isolation.running import KeptSandbox
from choir.isolation.tree import pids

from .conftest import ROOT, MakeSpec, alive, groups_of, processes_with, until

HOST_UID = 1_899_999_995


class ThroughHeld(BubblewrapBackend):
    """Everything that it starts was held before."""

    async def start(self, spec: SandboxSpec, stdio: tuple[int, int, int] | None = None) -> KeptSandbox:
        held = await self.prepare(spec)
        try:
            return await held.start(spec, stdio)
        except ChoirError:
            await held.discard()
            raise


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / ("run" + "x" * 120)  # longer than a socket's address may be
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def held_backend(run: Path) -> BubblewrapBackend:
    return BubblewrapBackend(run)


@contextlib.asynccontextmanager
async def held_one(backend: BubblewrapBackend, spec: SandboxSpec) -> AsyncIterator[HeldSandbox]:
    held = await backend.prepare(spec)
    try:
        yield held
    finally:
        await held.discard()


def first_of(held: HeldSandbox) -> int:
    """Host pid of the process that waits."""
    return pids(held.pid)[-1]


def test_every_layer_holds_in_one_that_was_held(make_spec: MakeSpec) -> None:
    def factory(command: tuple[str, ...], environment: dict[str, str]) -> SandboxSpec:
        return make_spec(*command, role="probe", environment=environment)

    results = asyncio.run(self_check.run(ThroughHeld(), factory))
    assert [result for result in results if not result.ok] == []
    assert len(results) == len(self_check.checks)


def test_until_somebody_comes_it_is_nothing(held_backend: BubblewrapBackend, run: Path, make_spec: MakeSpec) -> None:
    """No way in, no way out, no token, one thread that waits."""
    token = "choir-gt-" + os.urandom(12).hex()
    spec = make_spec(role="live", environment={"OPENAI_API_KEY": token})

    async def scenario() -> None:
        async with held_one(held_backend, spec) as held:
            first = first_of(held)
            folder = Path(f"/proc/{first}")
            assert len((folder / "net/tcp").read_text().splitlines()) == 1  # the heading
            assert "desktop.sock" not in (folder / "net/unix").read_text()
            assert list(run.iterdir()) == []
            assert list(spec.home.iterdir()) == []
            assert len(list((folder / "task").iterdir())) == 1
            assert (folder / "environ").read_bytes() == b"PWD=/\0"  # bwrap(1)
            for pid in (held.keeper_pid, *pids(held.pid)):
                assert token.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
            used = (folder / "stat").read_text().split()[13:15]
            await asyncio.sleep(0.2)
            assert (folder / "stat").read_text().split()[13:15] == used
            assert (folder / "stat").read_text().rpartition(")")[2].split()[0] == "S"
            if ROOT:
                assert folder.stat().st_uid == spec.host_uid
                assert token.encode() not in memory_of(first)

    asyncio.run(scenario())


def memory_of(pid: int) -> bytes:
    """All that it could read of itself and wrote (proc_pid_mem(5))."""
    found = bytearray()
    with open(f"/proc/{pid}/maps") as lines, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in lines:
            place, rights, *_ = line.split()
            if rights.startswith("rw") and "[v" not in line:
                start, end = (int(part, 16) for part in place.split("-"))
                memory.seek(start)
                found += memory.read(end - start)
    return bytes(found)


def test_it_becomes_what_it_is_told_then(held_backend: BubblewrapBackend, make_spec: MakeSpec, tmp_path: Path) -> None:
    """Its environment is that of the start, as are command and log; and a later hypervisor can adopt it."""
    log = tmp_path / "log"
    spec = make_spec(role="live", environment={"WHEN": "before"})
    then = spec._replace(environment={"WHEN": "then"}, command=("sh", "-c", "echo $WHEN; sleep 60"), log=log)

    async def scenario() -> None:
        held = await held_backend.prepare(spec)
        running = await held.start(then)
        try:
            await running.wait_ready()
            await until(lambda: log.read_text() == "then\n")
            phases = [event for event in running._events if isinstance(event, PhaseReached)]
            assert [each.phase for each in phases] == ["keeper", "namespace", "keyless", "listener", "ready"]
            assert phases == sorted(phases, key=lambda each: each.at)
            assert running.keeper_socket is not None
            other = await held_backend.adopt(running.keeper_socket)
            try:
                assert (await other.stop(0)).reason == "stopped"
            finally:
                other.close()
            await running.wait()
        finally:
            running.close()
        await until(lambda: not alive(running.keeper_pid))
        assert not running.keeper_socket.exists()

    asyncio.run(scenario())


def test_a_credential_that_came_meanwhile_is_found(held_backend: BubblewrapBackend, make_spec: MakeSpec) -> None:
    spec = make_spec(role="live")

    async def scenario() -> None:
        async with held_one(held_backend, spec) as held:
            (spec.home / ".npmrc").write_text("//registry/:_authToken=" + os.urandom(20).hex())
            (spec.home / ".npmrc").chmod(0o644)
            with pytest.raises(KeylessError) as caught:
                await held.start(spec)
            assert caught.value.reason == "credential_in_file"

    asyncio.run(scenario())


def test_a_credential_in_the_environment_of_the_start_is_found(
    held_backend: BubblewrapBackend, make_spec: MakeSpec
) -> None:
    spec = make_spec(role="live")

    async def scenario() -> None:
        async with held_one(held_backend, spec) as held:
            with pytest.raises(KeylessError) as caught:
                await held.start(spec._replace(environment={"MY_API_KEY": os.urandom(20).hex()}))
            assert caught.value.reason == "credential_in_environment"

    asyncio.run(scenario())


def exchanged(spec: SandboxSpec) -> SandboxSpec:
    """Another folder at the home's place, as after a restore."""
    spec.home.rename(spec.home.with_name("old"))
    spec.home.mkdir(mode=0o700)
    return spec


def gone(spec: SandboxSpec) -> SandboxSpec:
    spec.home.rename(spec.home.with_name("old"))
    return spec


UNFIT: dict[str, Callable[[SandboxSpec], SandboxSpec]] = {
    "limits": lambda spec: spec._replace(limits=SandboxLimits(max_memory_bytes=1024**3)),
    "mounts": lambda spec: spec._replace(mounts=(Mount(Path("/srv"), writable=False),)),
    "another home": lambda spec: spec._replace(home=spec.home.parent),
    "certificate": lambda spec: spec._replace(ca_certificate="another"),
    "id": lambda spec: spec._replace(sandbox_id="01other"),
    "home exchanged": exchanged,
    "home gone": gone,
    **({"uid": lambda spec: spec._replace(host_uid=HOST_UID)} if ROOT else {}),
}


@pytest.mark.parametrize("change", UNFIT.values(), ids=UNFIT)
def test_one_that_does_not_fit_is_not_used(
    held_backend: BubblewrapBackend, make_spec: MakeSpec, change: Callable[[SandboxSpec], SandboxSpec]
) -> None:
    spec = make_spec(role="live")

    async def scenario() -> None:
        async with held_one(held_backend, spec) as held:
            with pytest.raises(StartError) as caught:
                await held.start(change(spec))
            assert caught.value.reason == "sandbox_unfit"
            assert held.poll() is None  # nothing has happened to it
        await until(lambda: not alive(held.keeper_pid))

    asyncio.run(scenario())


def test_nothing_is_left_of_a_discarded_one(held_backend: BubblewrapBackend, make_spec: MakeSpec) -> None:
    async def scenario() -> None:
        async with held_one(held_backend, make_spec(role="live")) as held:
            everybody = (held.keeper_pid, *pids(held.pid))
            assert groups_of(held.keeper_pid) or not ROOT
        await until(lambda: not any(alive(pid) for pid in everybody))
        assert groups_of(held.keeper_pid) == []

    asyncio.run(scenario())


@pytest.mark.parametrize("victim", ["keeper", "launcher", "pid 1", "first"])
def test_one_that_died_says_so(held_backend: BubblewrapBackend, make_spec: MakeSpec, victim: str) -> None:
    spec = make_spec(role="live")

    async def scenario() -> Exited:
        async with held_one(held_backend, spec) as held:
            everybody = (held.keeper_pid, *pids(held.pid))
            os.kill(dict(zip(("keeper", "launcher", "pid 1", "first"), everybody, strict=True))[victim], signal.SIGKILL)
            exited = await held.wait()
            with pytest.raises(ChoirError) as caught:
                await held.start(spec)
            assert caught.value.reason == exited.reason
            await until(lambda: not any(alive(pid) for pid in everybody))
            return exited

    assert asyncio.run(scenario()).reason


def test_one_that_hangs_is_given_up(
    held_backend: BubblewrapBackend, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("choir.isolation.held.PATIENCE", 0.2)
    spec = make_spec(role="live")

    async def scenario() -> None:
        async with held_one(held_backend, spec) as held:
            os.kill(first_of(held), signal.SIGSTOP)
            with pytest.raises(StartError) as caught:
                await held.start(spec)
            assert caught.value.reason == "start_timeout"
        await until(lambda: not alive(held.pid))

    asyncio.run(scenario())


def test_the_process_backend_prepares_nothing(make_spec: MakeSpec) -> None:
    with pytest.raises(StartError) as caught:
        asyncio.run(ProcessBackend().prepare(make_spec()))
    assert caught.value.reason == "prepare_unsupported"


# Whoever dies, nobody is left.

STARTER = """
import asyncio, json, sys
from pathlib import Path
from choir.isolation.bubblewrap import BubblewrapBackend
from choir.isolation.contract import SandboxSpec

async def main(run, fields):
    spec = SandboxSpec(**{**fields, "home": Path(fields["home"])})
    held = await BubblewrapBackend(Path(run)).prepare(spec)
    print(json.dumps({"keeper": held.keeper_pid, "launcher": held.pid}), flush=True)
    sys.stdin.readline()
    running = await held.start(spec)
    await running.wait_ready()
    await running.wait()

asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
"""


def starter(run: Path, home: Path) -> subprocess.Popen[str]:
    fields: dict[str, Any] = {
        "sandbox_id": f"01held{os.urandom(4).hex()}",
        "user_id": "ada",
        "role": "live",
        "home": str(home),
        "host_uid": HOST_UID if ROOT else None,
        "environment": {"DATABASE_URL": "sqlite:////home/choir/.choir/choir.db"},
        "command": None,
    }
    return subprocess.Popen(
        [sys.executable, "-c", STARTER, str(run), json.dumps(fields)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def kill(run: Path, home: Path, victim: str, claimed: bool, moment: float) -> None:
    """Kill ``victim`` so many seconds after one was held, or somebody came for it."""
    with starter(run, home) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        everybody = [told["keeper"], *pids(told["launcher"])]
        chosen = {
            "starter": process.pid,
            "keeper": told["keeper"],
            "launcher": told["launcher"],
            "first": everybody[-1],
        }[victim]
        if claimed:
            process.stdin.write("\n")
            process.stdin.flush()
        time.sleep(moment)  # the moment itself is what is tested
        with contextlib.suppress(ProcessLookupError):
            os.kill(chosen, signal.SIGKILL)
        if victim == "starter":
            process.wait(20)
            # Only a desktop that was told to go on is kept, for whoever adopts it.
            left = list(run.glob("*.keeper"))
            if claimed and left:
                with contextlib.suppress(ChoirError):
                    asyncio.run(stop(run, left[0]))
        else:
            asyncio.run(until(lambda: not alive(told["keeper"])))
            process.kill()
    asyncio.run(until(lambda: not any(alive(pid) for pid in everybody)))
    assert not processes_with(str(home))


async def stop(run: Path, socket: Path) -> None:
    running = await BubblewrapBackend(run).adopt(socket)
    try:
        await running.stop(0)
    finally:
        running.close()


@pytest.mark.parametrize("victim", ["starter", "keeper", "launcher", "first"])
@pytest.mark.parametrize("claimed", [False, True])
def test_no_orphan_after_a_kill(run: Path, tmp_path: Path, victim: str, claimed: bool) -> None:
    kill(run, tmp_path / "home", victim, claimed, 0.002)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("victim", ["starter", "keeper", "launcher", "first"])
def test_no_orphan_after_many_kills(run: Path, tmp_path: Path, victim: str) -> None:
    chance = random.Random(victim)
    for number in range(50):
        kill(run, tmp_path / str(number), victim, chance.random() < 0.7, chance.uniform(0.0, 0.02))
