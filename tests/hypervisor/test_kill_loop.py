"""SIGKILL for any process of a real deployment, at any moment: no orphan, no half, and it goes on."""

from __future__ import annotations

import contextlib
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from choir.channel import ChannelClosed, Message, connect
from choir.isolation.tree import pids
from choir.paths import State

from .orphans import Family

CHOIR = Path(sys.executable).parent / "choir"
VICTIMS = {
    "hypervisor": r"choir\.app\.hypervisor",
    "gateway": r"choir\.gateway\.main",  # its master or its worker
    "template of keepers": r"choir\.isolation\.template",
    "keeper": r"choir\.isolation\.keeper",
    "launcher or first process": r"bwrap|choir\.sandbox",
    "supervisor": r"choir\.app\.supervise|choir up",
}
ACTIONS = ("start", "stop", "restart", "swap", "snapshot", "")
SECONDS = 40.0


class Deployment:
    """``choir up`` with one state folder, started again when it was killed."""

    def __init__(self, root: Path, family: Family) -> None:
        self.root = root
        self.family = family
        self.state = State(root / "s")
        self.process: subprocess.Popen[bytes] | None = None
        self.said = b""

    def up(self) -> None:
        config = self.root / "choir.toml"
        config.write_text("[providers.local]\nenabled = false\n")
        self.process = subprocess.Popen(
            [CHOIR, "up", "--port", "0", "--config", config, "--state", self.state.root],
            env={"HOME": str(self.root), "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.family.mine.add(self.process.pid)
        assert self.process.stdout is not None
        deadline, output = time.monotonic() + SECONDS, self.process.stdout.fileno()
        self.said = b""
        while b"isolation  " not in self.said:
            assert select.select([output], [], [], deadline - time.monotonic())[0], self.said.decode()
            data = os.read(output, 65536)
            assert data, self.said.decode()
            self.said += data
        self._draining = threading.Thread(target=self._drain, args=(self.process.stdout,))
        self._draining.start()

    def _drain(self, output: Any) -> None:
        for line in output:
            self.said += line

    def ended(self) -> None:
        """Lay a killed one to rest."""
        assert self.process is not None
        self.process.wait(SECONDS)
        self._draining.join(SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.family.mine.discard(self.process.pid)
        self.process = None

    def down(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.ended()

    def ask(self, op: str, **fields: Any) -> Message:
        channel = connect(str(self.state.hypervisor_socket))
        with contextlib.closing(channel):
            channel.sock.settimeout(SECONDS)
            channel.send({"op": op, **fields})
            return channel.receive()[0]

    def gateway(self, op: str) -> Message:
        channel = connect(str(self.state.gateway_socket))
        with contextlib.closing(channel):
            channel.sock.settimeout(SECONDS)
            channel.send({"op": op})
            return channel.receive()[0]

    def find(self, kind: str) -> list[int]:
        return [pid for pid, line in self.family.living().items() if re.search(VICTIMS[kind], line)]


def until(what: Callable[[], Any], about: str) -> Any:
    """What ``what`` gives once it is true; a process that is away just now is asked again."""
    deadline = time.monotonic() + SECONDS
    while True:
        with contextlib.suppress(ChannelClosed, TimeoutError, OSError):
            found = what()
            if found:
                return found
        assert time.monotonic() < deadline, about
        time.sleep(0.02)


def check(here: Deployment) -> None:
    """Until each sandbox is whole or not there, as its record says, with nothing more to come by itself; and the
    gateway leases those that are, and not what stands ready."""
    seen: list[Any] = []

    def whole() -> bool:
        sandboxes = here.ask("list")["sandboxes"]
        ready = {each["id"] for each in sandboxes if each["state"] == "ready"}
        keepers = here.find("keeper")
        trees = {pid for keeper in keepers for pid in pids(keeper)}
        sockets = {path.stem for path in here.state.run.glob("*.keeper")}
        leased = {each["sandbox_id"] for each in here.gateway("status")["sandboxes"]}
        seen[:] = [sandboxes, here.family.living(), sockets, leased]
        return (
            not any(each["state"] in ("starting", "stopping") or each["retry_at"] for each in sandboxes)
            and all(each["reason"] and each["message"] for each in sandboxes if each["state"] == "failed")
            and sockets == leased == ready
            and len(keepers) == len(ready) + sum(each["warm"] for each in sandboxes)
            and set(here.find("launcher or first process")) <= trees
        )

    try:
        until(whole, "")
    except AssertionError:
        raise AssertionError(f"{seen}") from None


def loop(times: int, seed: int) -> None:
    chance = random.Random(seed)
    root = Path(tempfile.mkdtemp(prefix="choir-"))
    with Family() as family:
        here = Deployment(root, family)
        try:
            here.up()
            for number in range(times):
                if not number % 3:
                    until(lambda: here.ask("start").get("ok"), "it does not start")
                action, kind = chance.choice(ACTIONS), chance.choice(list(VICTIMS))
                asking = threading.Thread(target=ask_quietly, args=(here, action))
                asking.start()
                # After a stop one comes to stand ready, which may be the victim.
                time.sleep(chance.uniform(0.0, 1.2 if action == "stop" else 0.6))
                victims = here.find(kind) or here.find("hypervisor")
                victim = chance.choice(victims or [here.process.pid])  # type: ignore[union-attr]
                about = f"seed {seed}, round {number}: {action or 'nothing'}, then {kind} {victim} killed"
                print(about)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                asking.join(SECONDS)
                if victim == here.process.pid:  # type: ignore[union-attr]
                    here.ended()
                    family.assert_nobody()
                    here.up()
                check(here)
            sandbox = until(lambda: here.ask("start").get("sandbox"), "it does not start")
            assert sandbox["state"] == "ready", sandbox
            check(here)
            here.down()
            family.assert_nobody()
        finally:
            here.down()
    shutil.rmtree(root)


def ask_quietly(here: Deployment, action: str) -> None:
    with contextlib.suppress(ChannelClosed, OSError):
        if action:
            here.ask(action)


@pytest.mark.timeout(240)
def test_killed_at_any_moment() -> None:
    loop(5, seed=11)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_moment_often(seed: int) -> None:
    loop(60, seed)
