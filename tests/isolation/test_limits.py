"""Limits on a whole sandbox: what is said, and a fork bomb, a memory hog and a disk filler beside a neighbour."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.isolation import cgroup, limits
from choir.isolation.bubblewrap import BubblewrapBackend
from choir.isolation.contract import Exited, SandboxLimits, SandboxSpec
from choir.isolation.host import inspect
from choir.isolation.plan import Plan
from choir.isolation.template import Template

from .conftest import ROOT, MakeSpec, groups_of, output_of, started, until

LIMITS = {"memory": 64 * 1024**2, "processes": 64, "disk": 20 * 1024**2, "patience": 10.0}


@pytest.mark.parametrize(
    ("code", "number", "killed", "refused", "reason"),
    [
        (0, None, 1, 1, None),
        (1, None, 0, 0, None),
        (None, 9, 0, 0, None),
        (None, 9, 1, 0, "out_of_memory"),
        (137, None, 2, 5, "out_of_memory"),
        (1, None, 0, 1, "too_many_processes"),
        (None, signal.SIGXFSZ, 0, 0, "disk_quota"),
        (128 + signal.SIGXFSZ, None, 0, 0, "disk_quota"),
    ],
)
def test_explain(code: int | None, number: int | None, killed: int, refused: int, reason: str | None) -> None:
    found = limits.explain(code, number, killed=killed, refused=refused, limits=LIMITS)
    assert (found and found["reason"]) == reason
    if found:
        assert found["hint"]
        assert {"out_of_memory": "64 MB", "too_many_processes": "64 processes", "disk_quota": "20 MB"}[
            found["reason"]
        ] in found["message"]


@given(st.floats(min_value=-1e12, max_value=1e15))
def test_pause_is_shorter_than_it_takes_to_fill_twice_but_never_hasty(headroom: float) -> None:
    seconds = limits.pause(headroom)
    assert 0.1 <= seconds <= 10.0
    assert seconds <= max(0.1, headroom / 2e9)


@pytest.mark.parametrize(("weight", "nice"), [(10_000, 0), (100, 0), (80, 1), (50, 3), (10, 10), (1, 19)])
def test_niceness(weight: int, nice: int) -> None:
    assert limits.niceness(weight) == nice


def test_a_storm_is_without_a_break() -> None:
    storm = limits.Storm(3.0)
    seen = [storm.see(now, hit) for now, hit in ((0, True), (2, True), (2.5, False), (3, True), (5, True), (6, True))]
    assert seen == [False, False, False, False, False, True]


def test_describe() -> None:
    line = limits.describe({"memory": "cgroup v2", "processes": "cgroup v2", "cpu": "nice", "disk": "watcher"})
    assert line == "limits: cgroup v2 (memory, processes), nice (cpu), watcher (disk)"


# For real. The keeper is a process of its own, so what it uses is chosen by the plan and by what it can see.

HOG = """
import time
held = []
for _ in range(400):
    held.append(bytearray(b"x" * 1024**2))
time.sleep(60)
"""
BOMB = """
import os, time
def bomb():
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.001)
bomb()
"""
POLITE = """
import os, signal, sys
try:
    while True:
        if os.fork() == 0:
            signal.pause()
except OSError:
    sys.exit(3)
"""
FILES = {
    "home": "open(os.path.expanduser(f'~/{number}'), 'wb')",
    "unlinked": "open(os.open(os.path.expanduser('~'), os.O_TMPFILE | os.O_RDWR, 0o600), 'wb')",
}


def filler(place: str) -> str:
    """80 MB in files of 4 MB, kept open, in a second."""
    return f"""
import os, time
kept = []
for number in range(20):
    kept.append({FILES[place]})
    kept[-1].write(b"x" * 4 * 1024**2)
    kept[-1].flush()
    time.sleep(0.05)
time.sleep(60)
"""


class Hasty(BubblewrapBackend):
    """Does not let a storm last; and without ``groups`` it knows of no control groups, as where none are delegated."""

    def plan(self, spec: SandboxSpec, terminal: str = "") -> Plan:
        plan = super().plan(spec, terminal)
        return plan._replace(limits={**plan.limits, "patience": 1.0})


@pytest.fixture(params=["groups", "watcher"])
def hasty(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[BubblewrapBackend]:
    if request.param == "watcher":
        monkeypatch.setattr(Hasty, "name", "watched")
        template = Template(boot=WITHOUT_GROUPS)
        yield Hasty(template=template)
        template.close()
        return
    if not {"memory", "pids"} <= set(cgroup.places()):
        pytest.skip("no control groups are delegated to this user")
    yield Hasty()


WITHOUT_GROUPS = (
    "import sys; sys.path.append(sys.argv[1]); from choir.isolation import cgroup; cgroup.places = dict;"
    "from choir.isolation.template_main import main; main(int(sys.argv[2]))"
)


def small(make_spec: MakeSpec, tmp_path: Path, name: str, program: str, memory: int = 64, **fields: Any) -> SandboxSpec:
    return make_spec(
        inspect().python,
        "-c",
        program,
        sandbox_id=f"01{name}",
        home=tmp_path / name,
        host_uid={"bad": 1_899_999_990, "good": 1_899_999_991}[name] if ROOT else None,
        limits=SandboxLimits(max_memory_bytes=memory * 1024**2, max_processes=64, max_disk_bytes=20 * 1024**2),
        **fields,
    )


ECHO = "import sys\nfor line in sys.stdin: print(line.strip(), flush=True)"


async def beside_a_neighbour(backend: BubblewrapBackend, bad: SandboxSpec, good: SandboxSpec) -> tuple[Exited, int]:
    """Run ``bad`` to its end, while ``good`` answers all the time. How it ended, and who its keeper was."""
    ours, theirs = os.pipe(), os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    running = await backend.start(good, (ours[0], theirs[1], null))
    try:
        await running.wait_ready()
        async with started(backend, bad) as other:
            ending = asyncio.create_task(other.wait())
            answers = 0
            while not ending.done() or not answers:
                os.write(ours[1], b"hello\n")
                assert await asyncio.wait_for(asyncio.to_thread(os.read, theirs[0], 100), 20) == b"hello\n"
                answers += 1
                await asyncio.wait({ending}, timeout=0.05)
            exited = await ending
        assert running.poll() is None
        return exited, other.keeper_pid
    finally:
        await running.stop(0)
        running.close()
        for descriptor in (*ours, *theirs, null):
            os.close(descriptor)


@pytest.mark.parametrize(
    ("program", "reason", "says"),
    [
        (HOG, "out_of_memory", "64 MB of memory"),
        (BOMB, "too_many_processes", "64 processes"),
        (POLITE, "too_many_processes", "64 processes"),
        (filler("home"), "disk_quota", "20 MB"),
        (filler("unlinked"), "disk_quota", "20 MB"),
    ],
    ids=["memory hog", "fork bomb", "full of processes", "disk filler", "unlinked files"],
)
def test_who_takes_too_much_ends_with_the_reason_and_nobody_else_does(
    hasty: BubblewrapBackend, make_spec: MakeSpec, tmp_path: Path, program: str, reason: str, says: str
) -> None:
    if program == POLITE and hasty.name == "watched":
        pytest.skip("without control groups nobody counts what the kernel refuses; only a lasting storm is seen")
    memory = 64 if reason == "out_of_memory" else 512
    bad, good = small(make_spec, tmp_path, "bad", program, memory), small(make_spec, tmp_path, "good", ECHO)
    exited, keeper = asyncio.run(beside_a_neighbour(hasty, bad, good))
    assert exited.reason == reason, exited
    assert says in exited.message
    assert "choir.toml" in exited.hint
    asyncio.run(until(lambda: not groups_of(keeper)))


@pytest.mark.long  # on a machine too busy to bomb fast enough it fails
def test_a_fork_bomb_is_slowed_down_as_long_as_it_goes_on(
    backend: BubblewrapBackend, make_spec: MakeSpec, tmp_path: Path
) -> None:
    if not {"pids", "cpu"} <= set(cgroup.places()):
        pytest.skip("no control groups are delegated to this user")
    program = "import os, time\n" + BOMB_UNTIL

    async def scenario() -> None:
        spec = small(make_spec, tmp_path, "bad", program, 512)
        async with started(backend, spec) as running:
            (group,) = (folder for folder in groups_of(running.keeper_pid) if quota(folder) is not None)
            await until(lambda: quota(group) == 20_000)
            (spec.home / "enough").touch()
            await until(lambda: quota(group) == -1)
            assert running.poll() is None

    asyncio.run(scenario())


BOMB_UNTIL = """
while not os.path.exists("/home/choir/enough"):
    try:
        os.fork()
    except OSError:
        pass
time.sleep(60)
"""


def quota(folder: Path) -> int | None:
    """Microseconds of each tenth of a second; -1: all."""
    for name in ("cpu.cfs_quota_us", "cpu.max"):
        with contextlib.suppress(OSError):
            return int((folder / name).read_text().split()[0].replace("max", "-1"))
    return None


def test_a_file_cannot_outgrow_the_disk_at_all(backend: BubblewrapBackend, make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = small(make_spec, tmp_path, "bad", "")
    spec = spec._replace(command=("dd", "if=/dev/zero", "of=/home/choir/large", "bs=1M", "count=30"))
    exited, _ = asyncio.run(output_of(backend, spec))
    assert exited.reason == "disk_quota"
    assert (spec.home / "large").stat().st_size <= 20 * 1024**2


def test_who_copes_has_not_failed(hasty: BubblewrapBackend, make_spec: MakeSpec, tmp_path: Path) -> None:
    program = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {HOG!r}]).returncode != -9)"
    exited, _ = asyncio.run(output_of(hasty, small(make_spec, tmp_path, "bad", program)))
    assert (exited.code, exited.reason) == (0, "")
