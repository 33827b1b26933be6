"""``choir up``: what it says, what it survives, what it refuses."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from choir.channel import connect, peer_credentials
from choir.paths import State

from .conftest import CHOIR, World

ASK = """
import openai
ask = [{"role": "user", "content": "What is the capital of France?"}]
answer = openai.OpenAI(max_retries=0).chat.completions.create(model="m", max_tokens=20, temperature=0, messages=ask)
print(answer.choices[0].message.content)
"""


def processes(world: World, module: str) -> set[int]:
    """Living pids whose command line has ``module``, of this world's deployment."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if module.encode() in command and str(world.state).encode() in command:
            found.add(int(path.name))
    return found


def until(what: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something that has no event to wait on."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def hypervisor_pid(world: World) -> int:
    channel = connect(str(State(world.state).hypervisor_socket))
    try:
        return peer_credentials(channel.sock)[0]
    finally:
        channel.close()


def test_the_banner_is_true(world: World) -> None:
    up = world.up()
    up.wait_for(r"choir \d+\.\d+\.\d+  ready in \d+\.\d s\n")
    assert up.login_url.startswith("http://localhost:")
    assert "listens    127.0.0.1, for this machine only\n" in up.said
    assert "providers  local (SmolLM2 135M, on this machine); no provider key yet:\n" in up.said
    up.wait_for(r"isolation  bubblewrap [\d.]+ · no network \(more: choir doctor\)\n")
    assert re.search(r"isolation: bubblewrap [\d.]+ · .*no network · seccomp", world.choir("doctor").stdout)
    assert up.stop() == 0
    assert processes(world, "choir.") == set()


def test_no_process_keeps_a_key_in_its_environment(world: World) -> None:
    canary = "sk-" + os.urandom(24).hex()
    up = world.up(OPENAI_API_KEY=canary)
    found = processes(world, "choir.")
    assert len(found) >= 3
    for pid in found | {up.process.pid}:
        try:
            assert canary.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
        except PermissionError:
            continue
    announced = (world.state / "run/up.json").read_text()
    assert json.loads(announced)["environment_keys"] is True  # `choir upgrade` could not restart it with them
    assert canary not in announced


def test_a_port_in_use_is_said(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = world.choir("up", "--port", str(port))
        command = shlex.join([str(CHOIR), "up", "--port", str(port)])
        words = ["script", "-qec", command, "/dev/null"]
        shown = subprocess.run(words, env=world.environment(), capture_output=True, text=True, timeout=60, check=False)
    said = [
        f"choir: Port {port} of 127.0.0.1 is in use by another program.",
        "       Choose another with --port, or `port` in the [hypervisor] section of choir.toml.",
    ]
    assert (done.returncode, done.stdout, done.stderr.splitlines()) == (69, "", said)
    assert (shown.returncode, shown.stdout.splitlines()) == (69, said)
    (line,) = (world.state / "logs/supervisor.log").read_text().splitlines()
    assert json.loads(line)["reason"] == "port_in_use"
    assert processes(world, "choir.") == set()


def test_a_first_choir_toml_is_found_without_a_restart(world: World) -> None:
    world.config.unlink(missing_ok=True)
    world.up()
    elsewhere = world.project / "choir.toml"
    elsewhere.write_text("[limits]\nrequests_per_minute = 7\n")
    done = world.choir("config", "apply", "--config", str(elsewhere))
    assert (done.returncode, "uses no choir.toml" in done.stderr) == (1, True), done.stderr
    assert "nothing changed" in world.choir("config", "apply").stdout, "a project's file is never looked for"
    world.configure("[limits]\nrequests_per_minute = 5\n[sandbox]\nmax_open_files = 333\n")
    done = world.choir("config", "apply")
    assert done.returncode == 0, done.stderr
    assert f"{world.config}: in force" in done.stdout
    assert "requests_per_minute: 600 → 5" in done.stdout
    assert world.choir("run", "--", "sh", "-c", "ulimit -n").stdout == "333\n"


def test_two_of_them_are_one_too_many(world: World) -> None:
    up = world.up()
    done = world.choir("up", "--port", "0")
    assert done.returncode != 0
    assert "Another `choir up`" in done.stderr
    # And one that is no version beside others has none to go on as.
    os.kill(up.process.pid, signal.SIGUSR2)
    line = up.wait_for(r"\{.*not_replaced.*\}")[0]
    assert json.loads(line)["service"] == "supervisor"
    assert world.choir("sandbox", "list").returncode == 0


@pytest.mark.parametrize("which", ["gateway", "hypervisor"])
def test_a_killed_process_is_noticed_explained_and_mended(world: World, which: str) -> None:
    up = world.up()
    before = processes(world, {"gateway": "choir.gateway.main", "hypervisor": "choir.app.hypervisor"}[which])
    assert before
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    up.wait_for(rf"the {which} ended \(signal 9\)")
    up.wait_for(rf"the {which} runs again")
    done = world.choir("run", "--", "true")
    assert done.returncode == 0, done.stderr + up.said
    assert hypervisor_pid(world)


def test_a_killed_local_model_comes_back_with_the_next_call(world: World) -> None:
    up = world.up()
    ask = ("run", "--", "python", "-c", ASK)
    assert "Paris" in world.choir(*ask).stdout
    (model,) = processes(world, "choir.local_model.main")
    os.kill(model, signal.SIGKILL)
    up.wait_for(r"the local model ended \(signal 9\)")
    assert "Paris" in world.choir(*ask).stdout


def test_the_gateways_worker_is_replaced_with_its_keys(world: World) -> None:
    canary = "sk-" + os.urandom(24).hex()
    world.up(OPENAI_API_KEY=canary)
    show = ("run", "--", "sh", "-c", "echo $OPENAI_BASE_URL")
    assert "/openai" in world.choir(*show).stdout
    master, worker = sorted(processes(world, "choir.gateway.main"))
    os.kill(worker, signal.SIGKILL)
    until(lambda: len(processes(world, "choir.gateway.main") - {worker}) == 2)
    assert master in processes(world, "choir.gateway.main")
    assert "/openai" in world.choir(*show).stdout


def test_killing_the_supervisor_leaves_nothing(world: World) -> None:
    up = world.up()
    world.choir("run", "--", "true")
    up.process.kill()
    up.process.wait()
    until(lambda: processes(world, "choir.") == set())
