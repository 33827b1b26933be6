from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from choir.isolation.bubblewrap import BubblewrapBackend
from choir.isolation.template import Template

from .conftest import MakeSpec, alive, started, until


@pytest.fixture
def template() -> Iterator[Template]:
    made = Template()
    yield made
    made.close()


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_keeper_is_forked_clean_and_says_whose_it_is(
    template: Template, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_VARIABLE", "value")

    async def scenario() -> None:
        backend = BubblewrapBackend(template=template)
        async with started(backend, make_spec("sleep", "60")) as one:
            async with started(backend, make_spec("sleep", "60", sandbox_id="01other")) as other:
                assert parent(one.keeper_pid) == parent(other.keeper_pid) != os.getpid()
                for running, name in ((one, "01test"), (other, "01other")):
                    keeper = Path(f"/proc/{running.keeper_pid}")
                    assert (keeper / "cmdline").read_bytes().strip(b"\0") == b"choir.isolation.keeper " + name.encode()
                    assert (keeper / "environ").read_bytes().strip(b"\0") == b""
                    # Its channel, the launcher's end, the log, pidfds: nothing of the other's or the template's.
                    assert len(os.listdir(keeper / "fd")) < 20
                await other.stop(0)
            await one.stop(0)

    asyncio.run(scenario())


def test_a_dead_template_harms_no_keeper_and_is_replaced(template: Template, make_spec: MakeSpec) -> None:
    async def scenario() -> None:
        backend = BubblewrapBackend(template=template)
        async with started(backend, make_spec("sleep", "60")) as first:
            dead = parent(first.keeper_pid)
            os.kill(dead, signal.SIGKILL)
            await until(lambda: not alive(dead))
            async with started(backend, make_spec("true", sandbox_id="01second")) as second:
                assert (await second.wait()).code == 0
            assert first.poll() is None
            assert (await first.stop(0)).reason == "stopped"

    asyncio.run(scenario())


def templates() -> set[int]:
    """Among the children of this process; others than the test's own may be there."""
    children = {
        int(pid)
        for task in os.listdir("/proc/self/task")
        for pid in Path(f"/proc/self/task/{task}/children").read_text().split()
    }
    return {pid for pid in children if b"choir.isolation.template" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def test_ends_with_whoever_started_it(template: Template) -> None:
    before = templates()
    channel = template.start()
    assert template.start() is channel
    deadline = time.monotonic() + 20
    while not (made := templates() - before):  # it is its parent's copy until its exec is through
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (mine,) = made
    template.close()
    while alive(mine):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_an_ordered_keeper_is_there_before_it_is_asked_for(template: Template, make_spec: MakeSpec) -> None:
    async def scenario() -> None:
        backend = BubblewrapBackend(template=template)
        before = set(children(os.getpid()))
        template.order()
        (pid,) = set(children(os.getpid())) - before
        await until(lambda: len(children(pid)) == 1)
        (ordered,) = children(pid)
        async with started(backend, make_spec("sleep", "60")) as running:
            assert running.keeper_pid == ordered
            async with started(backend, make_spec("true", sandbox_id="01other")) as other:
                assert other.keeper_pid != ordered
            template.order()
            await until(lambda: len(children(pid)) == 2)
            (unused,) = set(children(pid)) - {ordered}
            template.close()
            await until(lambda: not alive(unused))
            assert alive(ordered)

    asyncio.run(scenario())
