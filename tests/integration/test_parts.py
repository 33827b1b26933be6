"""``choir up gateway``, ``model`` and ``hypervisor``: parts as systemd starts them, its sockets and credentials."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

CHOIR = Path(sys.executable).parent / "choir"
ACTIVATED = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass
class Systemd:
    """Starts parts; hears what they say."""

    root: Path
    parts: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    heard: dict[str, socket.socket] = field(default_factory=dict)

    @property
    def credentials(self) -> Path:
        return self.root / "credentials"

    def start(self, part: str, state: Path, listener: socket.socket | None = None, **more: str) -> None:
        path = self.root / f"notify-{part}"
        path.unlink(missing_ok=True)
        if part in self.heard:
            self.heard[part].close()
        self.heard[part] = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.heard[part].bind(str(path))
        self.heard[part].settimeout(60)
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.root),
            "CHOIR_STATE": str(state),
            "NOTIFY_SOCKET": str(path),
            "WATCHDOG_USEC": "600000",
            **more,
        }
        command = [str(CHOIR), "up", part, "--config", str(self.root / "choir.toml")]
        if listener is not None:
            command = [sys.executable, "-c", ACTIVATED, str(listener.fileno()), *command]
        with open(self.root / f"{part}.log", "ab") as log:
            self.parts[part] = subprocess.Popen(
                command,
                env=environment,
                pass_fds=() if listener is None else (listener.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def hear(self, part: str, word: bytes) -> None:
        """Wait until the part says so."""
        try:
            while word not in self.heard[part].recv(1000):
                pass
        except TimeoutError:
            pytest.fail((self.root / f"{part}.log").read_text())

    def log(self, part: str) -> str:
        return (self.root / f"{part}.log").read_text()

    def stop(self, part: str) -> int:
        self.parts[part].terminate()
        return self.parts[part].wait(30)

    def choir(self, *arguments: str) -> str:
        done = subprocess.run(
            [CHOIR, *arguments, "--state", self.root / "state"],
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.root)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def systemd() -> Iterator[Systemd]:
    root = Path(tempfile.mkdtemp(prefix="choir-"))  # short: socket paths are
    systemd = Systemd(root)
    (root / "choir.toml").write_text("[hypervisor]\nport = 0\n")
    systemd.choir("install", "keys")
    for folder in ("gateway", "model"):
        (root / "state" / folder).mkdir()
    systemd.credentials.mkdir()
    for name in ("token.key", "local.key"):
        shutil.copy(root / "state" / name, systemd.credentials)
    try:
        yield systemd
    finally:
        for part in ("hypervisor", "model", "gateway"):
            if part in systemd.parts:
                systemd.stop(part)
                systemd.heard[part].close()
        shutil.rmtree(root)


def providers(systemd: Systemd) -> dict[str, bool]:
    from choir.channel import connect

    with contextlib.closing(connect(str(systemd.root / "state/gateway/run/gateway.sock"))) as channel:
        channel.send({"op": "status"})
        answer, _ = channel.receive()
    return {each["name"]: each["enabled"] for each in answer["providers"]}


def test_three_parts_are_one_deployment(systemd: Systemd) -> None:
    state = systemd.root / "state"
    key = f"sk-{secrets.token_hex(20)}"
    (systemd.credentials / "providers.env").write_text(f"OPENAI_API_KEY={key}\n")
    (systemd.credentials / "providers.env").chmod(0o440)  # as systemd shows them
    systemd.start("gateway", state / "gateway", CREDENTIALS_DIRECTORY=str(systemd.credentials))
    systemd.hear("gateway", b"READY=1")
    assert providers(systemd)["openai"] is True
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        systemd.start("hypervisor", state, listener)
        systemd.hear("hypervisor", b"READY=1")
        assert f"http://localhost:{listener.getsockname()[1]}/login?once=" in systemd.log("hypervisor")
    sandbox = json.loads(systemd.choir("sandbox", "start", "--json"))["sandbox"]
    assert sandbox["state"] == "ready"
    assert "answers" in systemd.choir("doctor")
    assert {path.name for path in (state / "gateway").iterdir()} >= {"run", "usage.db"}
    assert not (state / "usage.db").exists()
    for part in ("gateway", "hypervisor"):
        systemd.hear(part, b"WATCHDOG=1")
    assert systemd.stop("hypervisor") == 0
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        systemd.start("hypervisor", state, listener)
        systemd.hear("hypervisor", b"READY=1")
    (after,) = json.loads(systemd.choir("sandbox", "list", "--json"))
    assert (after["state"], after["id"]) == ("ready", sandbox["id"])  # a restart of the unit leaves it alone
    stopped = json.loads(systemd.choir("sandbox", "stop", "--json"))["sandbox"]
    assert stopped["state"] == "stopped"
    for path in state.rglob("*.log"):
        assert key not in path.read_text(errors="replace")
    assert systemd.stop("hypervisor") == 0
    assert systemd.stop("gateway") == 0


def test_a_rotated_key_without_a_restart(systemd: Systemd) -> None:
    """What the unit's ExecReload does: the new file in the runtime folder, then SIGHUP."""
    runtime = systemd.root / "runtime"
    runtime.mkdir()
    (systemd.credentials / "providers.env").write_text("")
    systemd.start(
        "gateway",
        systemd.root / "state/gateway",
        CREDENTIALS_DIRECTORY=str(systemd.credentials),
        RUNTIME_DIRECTORY=str(runtime),
    )
    systemd.hear("gateway", b"READY=1")
    assert providers(systemd)["openai"] is False
    (runtime / "providers.env").write_text(f"OPENAI_API_KEY=sk-{secrets.token_hex(20)}\n")
    (runtime / "providers.env").chmod(0o400)
    os.kill(systemd.parts["gateway"].pid, signal.SIGHUP)
    for _ in range(200):
        systemd.hear("gateway", b"WATCHDOG=1")  # each is a round of the gateway's own answers
        if providers(systemd)["openai"]:
            break
    assert providers(systemd)["openai"] is True


def test_a_part_that_cannot_start_says_why(systemd: Systemd) -> None:
    (systemd.credentials / "token.key").write_bytes(b"short")
    systemd.start("gateway", systemd.root / "state/gateway", CREDENTIALS_DIRECTORY=str(systemd.credentials))
    assert systemd.parts["gateway"].wait(30) != 0
    assert re.search(r"The credential token\.key is not a key\.", systemd.log("gateway"))


def test_the_model_as_a_service(systemd: Systemd) -> None:
    from choir.app.local import LocalModel

    if not LocalModel.available():
        pytest.skip("choir[local] is not installed")
    systemd.start("model", systemd.root / "state/model", CREDENTIALS_DIRECTORY=str(systemd.credentials))
    systemd.hear("model", b"READY=1")
    path = systemd.root / "state/model/local.sock"
    assert path.stat().st_mode & 0o777 == 0o660
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"HTTP/1.1" in client.recv(100)
    assert systemd.stop("model") == 0
