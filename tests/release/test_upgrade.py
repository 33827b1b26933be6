"""``choir upgrade`` and ``choir rollback`` with real wheels, real environments and a real ``choir up``.

Packages come from the index or its cache; needs one of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from choir.deploy import environment, install, wheel
from choir.deploy import units as units_of
from choir.deploy.services import UNITS
from choir.storage.registry import MIGRATIONS

from .conftest import ROOT

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

OLD, SAME, MIGRATING, FAILING, BROKEN = "0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0"
Edit = Callable[[str, str], str]


def of_version(old: Path, version: str, edit: Edit = lambda _name, text: text) -> Path:
    """The wheel with another version, and perhaps other sources."""
    new = old.with_name(old.name.replace(OLD, version))
    with zipfile.ZipFile(old) as source, zipfile.ZipFile(new, "w") as target:
        for member in source.infolist():
            name = member.filename.replace(f"choir-{OLD}.dist-info", f"choir-{version}.dist-info")
            data = source.read(member)
            if name.endswith(("METADATA", "RECORD", ".py")):
                text = data.decode()
                if name.endswith("METADATA"):
                    text = text.replace(f"\nVersion: {OLD}\n", f"\nVersion: {version}\n", 1)
                elif name.endswith("RECORD"):
                    text = re.sub(
                        r",sha256=[^,]*,\d*$", ",,", text.replace(f"-{OLD}.dist-info", f"-{version}.dist-info")
                    )
                    text = re.sub(r"(?m),sha256=[^,\n]*,\d*$", ",,", text)
                elif name == "choir/__init__.py":
                    text = text.replace(OLD, version)
                data = edit(name, text).encode()
            target.writestr(name, data)
    return new


def changed(text: str, before: str, after: str) -> str:
    assert text.count(before) == 1
    return text.replace(before, after)


def migrating(name: str, text: str) -> str:
    if name == "choir/storage/registry.py":
        return changed(
            text, f'{MIGRATIONS[-1]}""",\n)', f'{MIGRATIONS[-1]}""",\n"CREATE TABLE of_later (a TEXT) STRICT",\n)'
        )
    return text


def failing(name: str, text: str) -> str:
    """Migrates, starts, and does not hold."""
    if name == "choir/app/doctor.py":
        first = "    yield _configuration(config)\n"
        return changed(text, first, f'{first}    yield Finding("made to fail", False, "")\n')
    return migrating(name, text)


def broken(name: str, text: str) -> str:
    """Complete as far as imports tell, migrates, and does not start."""
    if name == "choir/hypervisor/main.py":
        return changed(text, "        isolation = await backend.probe()\n", "        raise RuntimeError\n")
    return migrating(name, text)


@dataclass
class Server:
    """An installation side by side, and the deployment that runs from it."""

    root: Path
    wheels: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def prefix(self) -> Path:
        return self.root / "opt"

    @property
    def state(self) -> Path:
        return self.root / "s"

    @property
    def choir(self) -> Path:
        return self.prefix / "current/bin/choir"

    @property
    def command_environment(self) -> dict[str, str]:
        kept = ("PATH", "UV_CACHE_DIR", "UV_OFFLINE", "SSL_CERT_FILE", "PIP_CERT", "UV_INDEX_URL", "UV_DEFAULT_INDEX")
        real = {name: os.environ[name] for name in kept if name in os.environ}
        # The installer's caches and settings are those of whoever runs the tests.
        cache = {"UV_CACHE_DIR": os.path.expanduser("~/.cache/uv")} if "UV_CACHE_DIR" not in real else {}
        return {**real, **cache, "HOME": str(self.root / "home"), "CHOIR_STATE": str(self.state), "LANG": "C.UTF-8"}

    def start(self) -> None:
        log = open(self.root / "up.log", "ab")  # noqa: SIM115 - closed below
        with log:
            process = subprocess.Popen(
                [self.choir, "up", "--port", "0"], env=self.command_environment, stdout=log, stderr=log, cwd=self.root
            )
        self.processes.append(process)
        pidfd = os.pidfd_open(process.pid)
        with contextlib.closing(open(pidfd, "rb")):
            deadline = time.monotonic() + 60
            while not self.running():
                assert not select.select([pidfd], [], [], 0.05)[0], self.log()
                assert time.monotonic() < deadline, self.log()

    def log(self) -> str:
        return (self.root / "up.log").read_text(errors="replace")

    def running(self) -> dict[str, Any]:
        """What the running ``choir up`` says of itself; {} when there is none."""
        try:
            said: dict[str, Any] = json.loads((self.state / "run/up.json").read_text())
        except FileNotFoundError:
            return {}
        alive = self.processes and self.processes[-1].poll() is None and said["pid"] == self.processes[-1].pid
        return said if alive else {}

    def run(self, *words: str, code: int = 0) -> str:
        """Its standard output; with --json also of an error."""
        done = subprocess.run(
            [self.choir, *words],
            env=self.command_environment,
            capture_output=True,
            text=True,
            timeout=600,
            cwd=self.root,
        )
        assert done.returncode == code, done.stdout + done.stderr + self.log()
        return done.stdout

    def upgrade(self, version: str, *words: str, code: int = 0) -> dict[str, Any]:
        answer = self.run(
            "upgrade", str(self.wheels / f"choir-{version}-py3-none-any.whl"), "--json", *words, code=code
        )
        said: dict[str, Any] = json.loads(answer)
        return said

    def users(self) -> tuple[int, set[str]]:
        """The registry's format, and who is in it."""
        with contextlib.closing(sqlite3.connect(self.state / "registry.db")) as database:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            return int(version), {str(name) for (name,) in database.execute("SELECT name FROM users")}

    def add(self, name: str) -> None:
        with contextlib.closing(sqlite3.connect(self.state / "registry.db", timeout=10)) as database, database:
            database.execute("INSERT INTO users VALUES (?, 0, 0)", (name,))


@pytest.fixture(scope="module")
def pristine(wheel: Path) -> Iterator[Path]:
    """Wheels of five versions with the lock beside them."""
    folder = Path(tempfile.mkdtemp(prefix="choir-"))
    first = Path(shutil.copy(wheel, folder))
    shutil.copy(ROOT / "requirements.lock", folder)
    for version, edit in ((SAME, None), (MIGRATING, migrating), (FAILING, failing), (BROKEN, broken)):
        of_version(first, version, *([edit] if edit else []))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def server(pristine: Path) -> Iterator[Server]:
    server = Server(Path(tempfile.mkdtemp(prefix="choir-")), pristine)
    (server.root / "home").mkdir()
    server.prefix.mkdir()
    first = wheel.look(pristine / f"choir-{OLD}-py3-none-any.whl")
    environment.make(first, server.prefix / "versions" / OLD, None)
    (server.prefix / "current").symlink_to(f"versions/{OLD}")
    yield server
    for process in server.processes:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    shutil.rmtree(server.root)


def test_there_and_back_again(server: Server) -> None:
    server.start()
    first = server.running()
    plan = server.upgrade(SAME, "--dry-run")
    assert {step["step"] for step in plan["steps"]} >= {"check", "install", "backup", "switch", "restart", "verify"}
    assert not (server.prefix / "versions" / SAME).exists()

    done = server.upgrade(SAME)
    assert (done["from"], done["to"]) == (OLD, SAME)
    assert server.run("version").strip() == SAME
    second = server.running()
    assert (second["choir"], second["pid"]) == (SAME, first["pid"])  # in its place
    assert Path(done["backup"]).stat().st_mode & 0o777 == 0o600
    server.add("since")
    server.run("rollback")
    assert server.running()["choir"] == OLD
    assert "since" in server.users()[1]  # one format: the data stays

    server.upgrade(MIGRATING)
    assert server.users()[0] == len(MIGRATIONS) + 1
    server.add("later")
    refused = json.loads(server.run("rollback", "--json", code=1))
    assert refused["error"]["reason"] == "data_newer"
    assert "later" in refused["error"]["message"]
    assert server.running()["choir"] == MIGRATING
    server.run("rollback", "--restore-data")
    assert server.running()["choir"] == OLD
    assert server.users()[0] == len(MIGRATIONS)
    assert server.users()[1] >= {"since"}
    assert "later" not in server.users()[1]
    assert len(list(server.state.glob("replaced-*/registry.db"))) == 1
    assert json.loads(server.run("sandbox", "start", "--json"))["sandbox"]["state"] == "ready"


def test_a_version_that_does_not_hold(server: Server) -> None:
    server.start()
    error = server.upgrade(FAILING, code=1)["error"]
    assert error["reason"] == "upgrade_reverted", error
    assert "made to fail" in error["message"]
    assert server.running()["choir"] == OLD
    assert server.users()[0] == len(MIGRATIONS)
    error = server.upgrade(BROKEN, code=1)["error"]
    assert error["reason"] == "upgrade_reverted", error
    assert "start it again" in error["hint"]
    assert server.running() == {}
    server.start()
    assert server.running()["choir"] == OLD
    assert server.users()[0] == len(MIGRATIONS)


def test_with_nothing_running(server: Server) -> None:
    server.upgrade(SAME)
    assert server.run("version").strip() == SAME
    server.start()
    server.run("rollback")
    assert server.running()["choir"] == OLD


@pytest.mark.parametrize("step", ["check", "install", "rehearse", "backup", "switch", "restart"])
def test_killed_at_a_step(server: Server, step: str) -> None:
    server.start()
    words = [server.choir, "upgrade", server.wheels / f"choir-{MIGRATING}-py3-none-any.whl"]
    with subprocess.Popen(words, env=server.command_environment, stdout=subprocess.PIPE, cwd=server.root) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.split()[0] == step.encode():
                break
        process.send_signal(signal.SIGKILL)
    version = server.run("version").strip()
    assert version in (OLD, MIGRATING)
    assert server.running()
    server.run("sandbox", "list")  # it serves
    before_switch = step in ("check", "install", "rehearse", "backup")
    if step == "check":
        server.upgrade(MIGRATING)
    elif before_switch and version == OLD:
        server.run("upgrade")
        assert server.run("version").strip() == OLD
        assert os.listdir(server.prefix / "versions") == [OLD]
        server.upgrade(MIGRATING)
    else:
        server.run("upgrade")
    assert server.run("version").strip() == MIGRATING
    assert server.running()["choir"] == MIGRATING
    assert server.users()[0] == len(MIGRATIONS) + 1


# ---------------------------------------------------------------------- as services


@pytest.fixture
def services(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The three services of ``choir install systemd``, running, and a ``systemctl`` that knows them."""
    units, keys, config = (server.root / name for name in ("units", "keys", "choir.toml"))
    for folder in (units, keys, server.root / "bin", server.state / "gateway", server.state / "model"):
        folder.mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    deployment = units_of.Deployment(str(server.choir), config, keys, server.state, listen)
    for name, text in units_of.render(deployment).items():
        (units / name).write_text(text)
    local = server.state / "model/local.sock"
    config.write_text(f'[hypervisor]\npublic_url = "http://localhost"\n[providers.local]\nbase_url = "unix:{local}"\n')
    (keys / "providers.env").touch(mode=0o600)
    for file in install.keys(server.state):
        install.write(file)
    shim = server.root / "bin/systemctl"
    shim.write_text(f'#!/bin/sh\nUNITS={units} exec {sys.executable} {ROOT}/tests/release/systemctl.py "$@"\n')
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim.parent}:{os.environ['PATH']}")
    try:
        for unit in UNITS:
            subprocess.run([shim, "start", unit], check=True, timeout=120)
        yield units
    finally:
        if (server.state / "run").exists():
            subprocess.run([server.choir, "sandbox", "stop"], env=server.command_environment, timeout=60, check=False)
        for unit in UNITS:
            subprocess.run([shim, "stop", unit], check=True, timeout=120)


def versions_of(units: Path) -> set[str]:
    """Of what runs."""
    found = set()
    for path in units.glob("*.pid"):
        command = Path(f"/proc/{path.read_text()}/cmdline").read_text()
        match = re.search(r"/versions/([^/]+)/", command)
        assert match is not None, command
        found.add(match[1])
    return found


def test_services_of_systemd(server: Server, services: Path) -> None:
    began = json.loads(server.run("sandbox", "start", "--json"))["sandbox"]
    assert versions_of(services) == {OLD}
    done = server.upgrade(SAME)
    (restarted,) = [step["message"] for step in done["steps"] if step["step"] == "restart"]
    assert restarted == SAME
    assert versions_of(services) == {SAME}
    (now,) = json.loads(server.run("sandbox", "list", "--json"))
    assert (now["state"], now["id"]) == ("ready", began["id"])  # it went on
    server.run("rollback")
    assert versions_of(services) == {OLD}
    for version in (FAILING, BROKEN):
        error = server.upgrade(version, code=1)["error"]
        assert error["reason"] == "upgrade_reverted", error
        assert versions_of(services) == {OLD}
        assert server.users()[0] == len(MIGRATIONS)
    (now,) = json.loads(server.run("sandbox", "list", "--json"))
    assert (now["state"], now["id"]) == ("ready", began["id"])
