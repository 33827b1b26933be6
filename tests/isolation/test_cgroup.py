"""Control groups: where they may be made, by the text of /proc; version 2 on a folder that looks like one; for real."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from choir.isolation import cgroup
from choir.isolation.bubblewrap import BubblewrapBackend
from choir.isolation.cgroup import Group, Place
from choir.isolation.contract import SandboxLimits

from .conftest import MakeSpec, groups_of, started, until

V1 = """32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:4 - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 31 0:39 / /proc rw - proc proc rw
"""
SHOWN_IN_PART = V1.replace("0:32 /", "0:32 /docker/1")
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.mark.parametrize(
    ("membership", "mountinfo", "expected"),
    [
        (
            "8:pids:/\n4:memory:/a/b\n1:cpu,cpuacct:/c\n0::/\n",
            V1,
            {
                "pids": Place(1, "/sys/fs/cgroup/pids"),
                "memory": Place(1, "/sys/fs/cgroup/memory/a/b"),
                "cpu": Place(1, "/sys/fs/cgroup/cpu,cpuacct/c"),
                "": Place(2, "/sys/fs/cgroup/unified"),
            },
        ),
        ("0::/user.slice/choir.service\n", V2, {"": Place(2, "/sys/fs/cgroup/user.slice/choir.service")}),
        # A container that is shown its own part only.
        ("4:memory:/docker/1/in\n", SHOWN_IN_PART, {"memory": Place(1, "/sys/fs/cgroup/memory/in")}),
        ("4:memory:/docker/12\n", SHOWN_IN_PART, {}),
        ("4:memory:/a\n", "", {}),
    ],
)  # fmt: skip
def test_own_folders(membership: str, mountinfo: str, expected: dict[str, Place]) -> None:
    found = cgroup.own_folders(membership, mountinfo)
    assert {name: place for name, place in found.items() if name != "cpuacct"} == expected


@pytest.mark.parametrize(
    ("available", "enabled", "usable", "asked"),
    [
        ("cpuset memory pids", "memory pids", {"memory", "pids"}, "memory pids"),
        ("memory pids", "", set(), "+memory +pids"),  # nothing but the kernel answers that
        ("hugetlb", "", set(), ""),
    ],
)
def test_version_2(tmp_path: Path, available: str, enabled: str, usable: set[str], asked: str) -> None:
    assert cgroup._delegated(str(tmp_path)) == {}
    (tmp_path / "cgroup.controllers").write_text(available)
    (tmp_path / "cgroup.subtree_control").write_text(enabled)
    assert cgroup._delegated(str(tmp_path)) == {name: Place(2, str(tmp_path)) for name in usable}
    assert (tmp_path / "cgroup.subtree_control").read_text() == asked


@pytest.mark.parametrize(
    ("version", "written"),
    [
        (2, {"memory.max": "1000", "memory.swap.max": "0", "pids.max": "7", "cpu.weight": "50"}),
        (1, {"memory.limit_in_bytes": "1000", "pids.max": "7", "cpu.shares": "512"}),
    ],
)
def test_what_is_written(
    tmp_path: Path, version: int, written: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, members = os.mkdir, "tasks" if version == 1 else "cgroup.procs"

    def mkdir(path: str) -> None:  # the kernel fills a new group
        real(path)
        for name in (*written, members):
            Path(path, name).touch()

    monkeypatch.setattr(os, "mkdir", mkdir)
    group = Group("choir-1-1", {name: Place(version, str(tmp_path)) for name in cgroup.CONTROLLERS})
    group.create(memory=1000, processes=7, cpu_weight=50)
    assert group.held == dict.fromkeys(cgroup.CONTROLLERS, version)
    assert {name: (tmp_path / "choir-1-1" / name).read_text() for name in written} == written
    group.join()
    assert (tmp_path / "choir-1-1" / members).read_text().startswith("0")
    counts = {"memory.events": "low 1\noom 3\noom_kill 2\n", "memory.oom_control": "under_oom 1\noom_kill 2\n"}
    for name, text in {**counts, "pids.events": "max 5\n"}.items():
        (tmp_path / "choir-1-1" / name).write_text(text)
    assert (group.killed(), group.refused()) == (2, 5)


def test_what_is_refused_is_not_held(tmp_path: Path) -> None:
    group = Group("choir-1-1", {"memory": Place(2, str(tmp_path)), "pids": Place(2, str(tmp_path / "gone"))})
    group.create(memory=1000, processes=7, cpu_weight=50)
    assert group.held == {}  # an ordinary folder has no memory.max
    group.remove()
    assert list(tmp_path.iterdir()) == []


def test_sweep_leaves_the_living_and_what_is_not_ours(tmp_path: Path) -> None:
    own = cgroup.own_name()
    for name in (own, "choir-999999999-5", f"choir-{os.getpid()}-1", "other", "choir-else"):
        (tmp_path / name).mkdir()
    cgroup.sweep({"memory": Place(1, str(tmp_path)), "pids": Place(1, str(tmp_path / "gone"))})
    assert {path.name for path in tmp_path.iterdir()} == {own, "other", "choir-else"}


needs_groups = pytest.mark.skipif(
    not {"memory", "pids", "cpu"} <= set(cgroup.places()), reason="no control groups are delegated to this user"
)


@needs_groups
def test_the_kernel_holds_a_sandbox_to_its_limits(backend: BubblewrapBackend, make_spec: MakeSpec) -> None:
    own = SandboxLimits(max_memory_bytes=100 * 1024**2, max_processes=50, cpu_weight=50)

    async def scenario() -> None:
        async with started(backend, make_spec("sleep", "60", limits=own)) as running:
            held = cgroup.limits_of(running.pid)
            assert {name: value for name, (_, value) in held.items()} == {
                "memory": 100 * 1024**2,
                "pids": 50,
                "cpu": 50,
            }
            assert running.limits == {
                "memory": f"cgroup v{held['memory'][0]}",
                "processes": f"cgroup v{held['pids'][0]}",
                "cpu": f"cgroup v{held['cpu'][0]}",
                "disk": "watcher",
            }
            assert cgroup.limits_of(os.getpid()) == {}
            await running.stop(0)
            await until(lambda: not groups_of(running.keeper_pid))

    asyncio.run(scenario())


@needs_groups
def test_a_killed_keepers_groups_are_swept_away(backend: BubblewrapBackend, make_spec: MakeSpec) -> None:
    async def scenario() -> None:
        async with started(backend, make_spec("sleep", "60")) as running:
            keeper = running.keeper_pid
            assert groups_of(keeper)
            os.kill(running.keeper_pid, signal.SIGKILL)
            assert (await running.wait()).reason == "keeper_died"

        async def gone() -> bool:
            async with started(backend, make_spec("true")) as after:
                await after.wait()
            return not groups_of(keeper)

        for _ in range(50):
            if await gone():
                return
        raise AssertionError(groups_of(keeper))

    asyncio.run(scenario())


@pytest.mark.parametrize(("version", "name"), [(1, "cpu.cfs_quota_us"), (2, "cpu.max")])
def test_throttled_and_let_go_again(tmp_path: Path, version: int, name: str) -> None:
    group = Group("choir-1-1", {"cpu": Place(version, str(tmp_path))})
    folder = tmp_path / "choir-1-1"
    folder.mkdir()
    group._folders, group.held = {"cpu": str(folder)}, {"cpu": version}
    said = []
    for on in (True, False):
        (folder / name).write_text("")  # the kernel's files are there, and take each write whole
        group.throttle(on)
        said.append((folder / name).read_text())
    assert said == (["20000", "-1"] if version == 1 else ["20000 100000", "max 100000"])
