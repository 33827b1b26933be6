from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

from .conftest import CHOIR, World


def test_it_proves_a_running_deployment(world: World) -> None:
    world.up(OPENAI_API_KEY="sk-" + os.urandom(24).hex())
    page = world.root / "report.html"
    done = world.choir("verify", "--html", str(page), seconds=170)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verifying the running deployment" in done.stdout
    assert "FAIL" not in done.stdout
    for name in (
        "call through the gateway",
        "a stolen token",
        "usage log",
        "crash at start",
        "environment of the hypervisor",
        "environment of the supervisor",
        "another site's WebSocket",
        "canary key, every sink",
    ):
        assert f"ok    {name}" in done.stdout, done.stdout
    assert re.search(r"all \d+ checks held, 1 known limit", done.stdout)
    html = page.read_text()
    assert "checks held" in html
    assert str(world.state) in html
    assert list(Path(world.state / "homes").glob("verify-*")) == []


def test_what_fails_is_said_with_its_layer_and_fix(world: World) -> None:
    world.configure('[sandbox]\nbackend = "bubblewrap"\n[providers.local]\nenabled = false\n')
    done = world.choir("verify", "--json", seconds=170)
    assert done.returncode == 1, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] is False
    assert len(report["checks"]) > 60
    keys = {"target", "name", "layer", "held_by", "tried", "came_back", "outcome", "ok", "fix"}
    assert all(set(check) == keys for check in report["checks"])
    assert all(check["held_by"] != check["layer"] for check in report["checks"]), "each layer has its words"
    (failed,) = [check for check in report["checks"] if not check["ok"]]
    assert failed["name"] == "call through the gateway"
    assert failed["fix"]
    assert {"choir", "python", "kernel", "host", "time", "configuration", "duration"} <= report["about"].keys()


def test_a_watch_ends_with_the_first_round_that_fails(world: World) -> None:
    world.configure('[sandbox]\nbackend = "process"\n[providers.local]\nenabled = false\n')
    done = world.choir("verify", "--watch", "600", "--json", seconds=170)
    assert done.returncode == 1, done.stdout + done.stderr
    (round_,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert round_["ok"] is False
    assert "isolation" in round_["verdict"]


def test_a_watch_that_cannot_try_ends_with_the_second(world: World) -> None:
    world.configure("[providers.local]\nenabled = maybe\n")
    done = world.choir("verify", "--watch", "0.1", seconds=60)
    assert done.returncode == 78, done.stdout + done.stderr
    assert done.stdout.count("choir.toml") == 2


def test_a_watch_ends_quietly_when_asked(world: World) -> None:
    world.configure("[providers.local]\nenabled = maybe\n")
    process = subprocess.Popen(
        [CHOIR, "verify", "--watch", "600"], env=world.environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert "choir.toml" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    process.stdout.close()
