"""``choir run`` without ``choir up``: the sandbox starts while its gateway does."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import CHOIR, World

CANARY = "sk-proj-" + "c4n4ry" * 8


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def processes(world: World) -> set[int]:
    """Those of runs without a hypervisor: their starter and its gateway, master and worker."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(world.state).encode() in words and any(b"choir.app.alone" in word for word in words):
            found.add(int(path.name))
    return found


def begun(world: World, script: str, **environment: str) -> tuple[subprocess.Popen[str], str]:
    """A run of a shell's ``script``, and the first line that it wrote."""
    with (world.root / "said").open("w") as said:
        running = subprocess.Popen(
            [CHOIR, "run", "--", "sh", "-c", script],
            cwd=world.project,
            env=world.environment(**environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
    world.processes.append(running)
    assert running.stdout is not None
    return running, running.stdout.readline()


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def memory(pid: int) -> bytes:
    """All that the process may write to, which is where data is."""
    kept = []
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as file:
        for line in maps:
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if found and "[v" not in line:
                start, end = (int(text, 16) for text in found.groups())
                file.seek(start)
                kept.append(file.read(end - start))
    return b"".join(kept)


def starter_of(world: World, running: subprocess.Popen[str]) -> int:
    return next(pid for pid in processes(world) if parent(pid) == running.pid)


def test_only_the_gateway_gets_the_key(world: World) -> None:
    running, providers = begun(world, 'echo "$CHOIR_PROVIDERS"; exec sleep 60', OPENAI_API_KEY=CANARY, OTHER=CANARY)
    assert '"openai"' in providers  # so the gateway has it
    pid = starter_of(world, running)
    assert CANARY.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    try:
        content = memory(pid)
    except PermissionError:
        pytest.skip("this machine lets no process look at another's memory (ptrace_scope)")
    assert str(world.state).encode() in content
    assert CANARY.encode() not in content


FIRST_CALL = (
    "import urllib.error as e, urllib.request as r, os\n"
    "try: r.urlopen(os.environ['CHOIR_PROVIDER_GATEWAY_BASE_URL'] + '/provider/v1/none')\n"
    "except e.HTTPError as error: print(error.code)"
)


def test_a_call_waits_until_the_gateway_serves(world: World) -> None:
    done = world.choir("run", "--", "python3", "-c", FIRST_CALL, OPENAI_API_KEY=CANARY)
    assert (done.returncode, done.stdout) == (0, "401\n"), done.stderr
    usage = world.choir("usage", "--json")
    assert json.loads(usage.stdout), "the call's record was not written before the run ended"


def test_a_gateway_that_cannot_serve_ends_the_run_with_its_reason(world: World) -> None:
    world.configure("[limits]\nusd_per_day = 1\n")
    (world.state / "usage.db").mkdir(parents=True)
    done = world.choir("run", "--", "sleep", "60", OPENAI_API_KEY=CANARY)
    assert done.returncode not in (0, 143), done.stderr
    assert "spent cannot be read" in done.stderr
    until(lambda: not processes(world))


@pytest.mark.parametrize("victim", ["starter", "gateway"])
def test_without_its_gateway_a_run_does_not_hang(world: World, victim: str) -> None:
    (world.project / "call.py").write_text(FIRST_CALL)
    running, answer = begun(world, "python3 -u call.py; exec sleep 60", OPENAI_API_KEY=CANARY)
    assert answer == "401\n"
    starter = starter_of(world, running)
    gateway = next(pid for pid in processes(world) if parent(pid) == starter)
    os.kill(starter if victim == "starter" else gateway, signal.SIGKILL)
    assert running.wait(30) not in (0, 143)
    assert "gateway of this run died" in (world.root / "said").read_text()
    until(lambda: not processes(world))


def test_a_killed_client_leaves_nothing(world: World) -> None:
    running, _ = begun(world, "echo; exec sleep 60", OPENAI_API_KEY=CANARY)
    running.kill()
    running.wait()
    until(lambda: not processes(world))
    until(lambda: not list((world.state / "run").iterdir()))


def test_a_running_gateway_is_used(world: World) -> None:
    """One that serves everybody, whose hypervisor does not answer just now."""
    up = world.up()
    (world.state / "run" / "hypervisor.sock").unlink()
    running, _ = begun(world, "echo; exec sleep 60")
    assert not processes(world)
    running.terminate()
    running.wait(30)
    up.stop()
