from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from choir.hypervisor import idle as module
from choir.hypervisor.freeze import frozen, processor_seconds
from choir.hypervisor.idle import IdleStop
from choir.hypervisor.sandbox import Sandbox
from choir.hypervisor.supervisor import Supervisor
from choir.hypervisor.usage_feed import UsageFeed
from choir.paths import State
from choir.storage.registry import Registry

from .fakes import FakeBackend, FakeGateway, make_supervisor


@dataclasses.dataclass
class World:
    supervisor: Supervisor
    gateway: FakeGateway
    feed: UsageFeed
    idle: IdleStop
    sandbox: Sandbox
    now: float = 1000.0
    processor: float = 0.0

    async def look_after(self, seconds: float) -> str:
        self.now += seconds
        await self.idle.look()
        return self.sandbox.status.state


def run(
    state: State,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    test: Callable[[World], Coroutine[Any, Any, None]],
) -> None:
    async def main() -> None:
        gateway = FakeGateway()
        supervisor = make_supervisor(state, registry, FakeBackend(), gateway)
        feed = UsageFeed(gateway)
        sandbox = supervisor.seat("ada", "live")
        here = World(supervisor, gateway, feed, IdleStop(supervisor, feed, 100.0), sandbox)
        monkeypatch.setattr(module, "processor_seconds", lambda pid: here.processor)
        monkeypatch.setattr(module.time, "time", lambda: here.now)
        supervisor.start(sandbox)
        await sandbox.settled(5)
        assert await here.look_after(0) == "ready"
        await test(here)
        await supervisor.close()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_one_without_work_is_stopped_and_says_so(
    state: State, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(here: World) -> None:
        assert await here.look_after(99) == "ready"
        assert await here.look_after(1) == "stopping"
        status = await here.sandbox.settled(5)
        assert (status.state, status.note) == ("stopped", "It was stopped after 100 seconds without work.")
        await here.look_after(1000)  # nobody left to look at

    run(state, registry, monkeypatch, test)


@pytest.mark.parametrize(
    "sign", ["call under way", "call", "person", "processor", "gateway away", "not listed", "busy"]
)
def test_one_at_work_is_not_stopped(
    state: State, registry: Registry, monkeypatch: pytest.MonkeyPatch, sign: str
) -> None:
    async def test(here: World) -> None:
        sandbox_id = here.sandbox.status.sandbox_id
        if sign == "call under way":
            here.gateway.calls[sandbox_id] = 1
        elif sign == "call":
            here.feed.last_call[sandbox_id] = here.now + 50
        elif sign == "person":
            here.sandbox.last_input = here.now + 50
        elif sign == "processor":
            here.processor = 5.0
        elif sign == "gateway away":

            async def away() -> Any:
                raise module.ChoirError("gateway_unreachable", "")

            monkeypatch.setattr(here.gateway, "status", away)
        elif sign == "not listed":
            here.gateway.attached.clear()
        else:
            here.sandbox.occupied = "It is being copied."
        assert await here.look_after(120) == "ready"

    run(state, registry, monkeypatch, test)


def test_never_means_never() -> None:
    async def main() -> None:
        await IdleStop(None, None, 0.0).run()  # type: ignore[arg-type]

    asyncio.run(asyncio.wait_for(main(), 5))


# A real tree of processes.


def tree(code: str) -> subprocess.Popen[str]:
    """A process whose child runs ``code``, which says when it has begun."""
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    process = subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    for pid in reversed(module_pids(process.pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
    process.communicate()


def module_pids(pid: int) -> list[int]:
    from choir.isolation.tree import pids

    return pids(pid)


def test_processor_time_of_the_whole_tree() -> None:
    process = tree("print('begun', flush=True)\nwhile True: pass")
    try:
        while processor_seconds(process.pid) < 0.05:
            time.sleep(0.01)
    finally:
        kill(process)


def states(pid: int) -> set[str]:
    found = set()
    for each in module_pids(pid)[1:]:
        # One that runs may have ended since it was listed.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{each}/stat") as file:
            found.add(file.read().rpartition(")")[2].split()[0])
    return found


def test_nothing_runs_while_frozen_not_even_what_forks_all_the_time() -> None:
    forks = (
        "import os\nprint('begun', flush=True)\n"
        "while True:\n    pid = os.fork()\n    if pid == 0: os._exit(0)\n    os.waitpid(pid, 0)"
    )
    process = tree(forks)
    try:
        for _ in range(20):
            with frozen(process.pid):
                before = module_pids(process.pid)
                assert states(process.pid) <= {"T", "Z"}
                assert module_pids(process.pid) == before
        while "R" not in states(process.pid) | {"R" if "S" in states(process.pid) else ""}:
            time.sleep(0.01)
        assert "T" not in states(process.pid)
    finally:
        kill(process)
