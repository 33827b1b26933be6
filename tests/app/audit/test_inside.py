"""Each attack finds nothing where the layers are, and is red for the one that is taken away."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable

import pytest

from choir.app.audit import inside
from choir.app.audit.finding import LAYERS, Finding
from choir.app.audit.ground import Ground, python
from choir.isolation import cgroup, landlock, running
from choir.isolation.contract import SandboxLimits
from choir.isolation.plan import Plan
from choir.isolation.steps import Bind, Flags, Step

from .conftest import Open, told

MB = 1024**2


def test_all_hold(open_ground: Open) -> None:
    async def main() -> list[Finding]:
        async with open_ground(gateway=False) as ground:
            found = [finding async for finding in inside.attacks(ground)]
            assert len(found) == len(inside.ATTACKS)
            assert all(home.is_dir() for home in ground.homes)
        assert not any(home.exists() for home in ground.homes)
        return found

    found = asyncio.run(main())
    assert [finding for finding in found if not finding.ok] == []
    assert all(f.target and f.tried and f.came_back and f.fix and f.layer in LAYERS for f in found)


def red(open_ground: Open, attack: Callable[[Ground], Awaitable[Finding]], weaken: Callable[[Plan], Plan]) -> Finding:
    async def main() -> Finding:
        async with open_ground(weaken, gateway=False) as ground:
            return await attack(ground)

    finding = asyncio.run(main())
    assert finding.outcome == "failed", finding
    return finding


def same(plan: Plan) -> Plan:
    return plan


def with_the_shells_environment(plan: Plan) -> Plan:
    value = {name: value for name, value in os.environ.items() if name == "CHOIR_VERIFY_API_KEY"}
    return told(plan, environment={**plan.first_process["environment"], "HARMLESS": "".join(value.values())})


def test_a_key_of_the_launching_shell(open_ground: Open) -> None:
    red(open_ground, inside.shell_key, with_the_shells_environment)


def test_a_shared_folder_between_sandboxes(open_ground: Open, tmp_path_factory: pytest.TempPathFactory) -> None:
    shared = tmp_path_factory.mktemp("shared")
    for folder in (shared, *shared.parents[:2]):
        folder.chmod(0o777)

    def weaken(plan: Plan) -> Plan:
        bind = Bind(str(shared), "/dev/shm", "read-write")
        steps = [*plan.steps[:-1], bind, plan.steps[-1]]
        landlock = plan.first_process["landlock"]
        if landlock is not None:
            landlock = {**landlock, "writable": [*landlock["writable"], "/dev/shm"]}
        return told(plan._replace(steps=tuple(steps)), landlock=landlock)

    assert "/dev/shm/secret.txt" in red(open_ground, inside.neighbour, weaken).came_back


def test_a_private_key_inside(open_ground: Open) -> None:
    key = "-----BEGIN {}-----\nMIIB\n-----END {}-----\n".format(*["PRIVATE " + "KEY"] * 2)

    async def attack(ground: Ground) -> Finding:
        return await inside.private_keys(ground, key)

    assert "ca.pem" in red(open_ground, attack, same).came_back


def test_code_of_the_home_that_runs(open_ground: Open) -> None:
    async def attack(ground: Ground) -> Finding:
        command = python("pass")
        return await inside.planted_code(ground, (command[0], "-c", "import json"))

    assert "one of them ran" in red(open_ground, attack, same).came_back


def test_a_project_without_its_masks(open_ground: Open) -> None:
    async def attack(ground: Ground) -> Finding:
        return await inside.project(ground, shielded=False)

    came_back = red(open_ground, attack, same).came_back
    for name in (".env", "deep/er/.env.production", ".git/config", ".git/hooks/new", ".envrc"):
        assert name in came_back


@pytest.mark.skipif(landlock.abi() < landlock.OLDEST, reason="this kernel has no Landlock to take away")
def test_an_agent_that_is_not_kept_apart(open_ground: Open) -> None:
    async def attack(ground: Ground) -> Finding:
        return await inside.separation(ground, separate=False)

    assert "read its database" in red(open_ground, attack, same).came_back


@pytest.mark.parametrize(
    ("attack", "limits"),
    [
        (inside.memory, SandboxLimits(max_memory_bytes=1024 * MB)),
        (inside.disk, SandboxLimits(max_disk_bytes=1024 * MB)),
        (inside.processes, SandboxLimits(max_processes=400)),
    ],
)
def test_a_limit_that_is_not_there(
    open_ground: Open, attack: Callable[..., Awaitable[Finding]], limits: SandboxLimits
) -> None:
    async def unlimited(ground: Ground) -> Finding:
        if attack is inside.disk:
            return await inside.disk(ground, limits, patience=0)
        return await attack(ground, limits)

    red(open_ground, unlimited, same)


def test_a_process_that_outlives_its_keeper(open_ground: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three things see to that; without them all, they live on."""
    marks: list[str] = []
    left: list[int] = []
    monkeypatch.setattr(running, "kill_strays", marks.append)
    monkeypatch.setattr(cgroup, "sweep", lambda places: None)
    gone = inside.gone

    async def soon(tree: list[int]) -> list[int]:
        left.extend(await gone(tree, 0.1))  # not longer: any Choir on this machine sweeps dead keepers' groups
        return left

    monkeypatch.setattr(inside, "gone", soon)

    def weaken(plan: Plan) -> Plan:
        def kept(step: Step) -> Step:
            if not isinstance(step, Flags):
                return step
            options = tuple(option for option in step.options if option != "--die-with-parent")
            return step._replace(options=options)

        steps = [kept(step) for step in plan.steps]
        return plan._replace(steps=tuple(steps))

    try:
        assert "live on" in red(open_ground, inside.keeper, weaken).came_back
    finally:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)


def test_a_credential_that_nobody_refuses(open_ground: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(self: Ground, home: object, name: str, text: str) -> None:
        return None

    monkeypatch.setattr(Ground, "write", write)
    assert "it started" in red(open_ground, inside.credential, same).came_back


def test_what_cannot_be_tried_has_failed(open_ground: Open) -> None:
    def broken(plan: Plan) -> Plan:
        return told(plan, command=["/nowhere/at/all"])

    async def main() -> list[Finding]:
        async with open_ground(broken, gateway=False) as ground:
            return [finding async for finding in inside.attacks(ground)]

    assert [finding.outcome for finding in asyncio.run(main()) if finding.name != "crash at start"] == ["failed"] * 10
