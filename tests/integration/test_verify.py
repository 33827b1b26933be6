from __future__ import annotations

import json
import os

from .conftest import World


def test_it_proves_a_running_deployment(world: World) -> None:
    world.up(OPENAI_API_KEY="sk-" + os.urandom(24).hex())
    done = world.choir("verify", seconds=110)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verifying the running deployment" in done.stdout
    assert "FAIL" not in done.stdout
    for name in (
        "call through the gateway",
        "a stolen token",
        "usage log",
        "crash at start",
        "environment of the hypervisor",
    ):
        assert f"ok    {name}" in done.stdout, done.stdout


def test_as_json_without_a_deployment(world: World) -> None:
    done = world.choir("verify", "--json", seconds=110)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] is True
    assert len(report["checks"]) > 20
    assert all(set(check) == {"name", "tried", "came_back", "ok"} for check in report["checks"])
    assert any("canary" in check["name"] for check in report["checks"])


def test_it_turns_red(world: World) -> None:
    """A credential in the hypervisor's reach is found: verify must be able to fail."""
    world.configure('[sandbox]\nbackend = "bubblewrap"\n[providers.local]\nenabled = false\n')
    done = world.choir("verify", "--json", seconds=110)
    assert done.returncode == 1, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert [check["name"] for check in report["checks"] if not check["ok"]] == ["call through the gateway"]
