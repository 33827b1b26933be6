from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from choir import config as configuration
from choir import tokens
from choir.app.audit import host
from choir.paths import State


@pytest.fixture
def idle() -> Iterator[subprocess.Popen[bytes]]:
    """An ordinary process: dumpable, with a key in its environment and arguments."""
    key = f"sk-{secrets.token_hex(24)}"
    code = "import sys; print(flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, key], env={"A": key}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.communicate()


def test_a_process_with_a_key_is_red(idle: subprocess.Popen[bytes]) -> None:
    finding = host.started_with("gateway", [idle.pid])
    assert not finding.ok
    assert "The variable A" in finding.came_back or "argument" in finding.came_back
    assert host.started_with("gateway", [os.getpid(), 2**22 - 1]).tried


def test_memory_that_can_be_read_is_red() -> None:
    """Of an ordinary process of an ordinary uid, which is dumpable."""
    who = {"user": 54321, "group": 54321, "extra_groups": ()} if os.geteuid() == 0 else {}
    process = subprocess.Popen(["sleep", "600"], **who)  # type: ignore[call-overload]
    try:
        finding = host.memory_of([process.pid])
    finally:
        process.kill()
        process.wait()
    assert not finding.ok
    assert f"environ of {process.pid}" in finding.came_back
    assert not host.memory_of([]).ok, "nobody was tried"


def test_core_dumps_that_are_allowed_are_red() -> None:
    code = "import resource, sys; print(flush=True); sys.stdin.read()"
    for limit, ok in (("0", True), ("1", False)):
        process = subprocess.Popen(
            ["sh", "-c", f'ulimit -c {limit} && exec "$@"', "sh", sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.readline()
        assert host.core_dumps([process.pid]).ok is ok
        process.communicate()


def test_who_is_who() -> None:
    process = subprocess.Popen(["sleep", "600"], env={})
    try:
        assert host._kind(process.pid) == ""
        assert host._parent(process.pid) == os.getpid()
        assert host._uid(process.pid) == os.geteuid()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("folder", "file", "what"),
    [(0o755, 0o600, ""), (0o755, 0o644, "read"), (0o755, 0o666, "write"), (0o750, 0o666, ""), (0o711, 0o604, "read")],
)
def test_what_others_may(tmp_path: Path, folder: int, file: int, what: str) -> None:
    for parent in list(tmp_path.parents)[:2]:
        parent.chmod(0o755)
    path = tmp_path / "file"
    path.touch()
    path.chmod(file)
    tmp_path.chmod(folder)
    assert host.exposed(path) == what
    assert host.exposed(tmp_path / "nothing") == ""


def test_an_open_state_folder_is_red(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for parent in list(tmp_path.parents)[:2]:
        parent.chmod(0o755)
    state = State(tmp_path / "s").prepare()
    state.token_key.write_bytes(b"k" * 32)
    state.token_key.chmod(0o604)
    config = configuration.load(None)
    assert host.private_files(state, config).ok
    for folder in (tmp_path, state.root):
        folder.chmod(0o755)
    finding = host.private_files(state, config)
    assert not finding.ok
    assert "token.key (read)" in finding.came_back


def test_a_secret_that_was_written_is_red(tmp_path: Path) -> None:
    state = State(tmp_path / "s").prepare()
    log = state.logs / "gateway.log"
    log.write_text("nothing " * 300_000)
    assert host.written_secrets(host.logs(state)).ok
    for secret in (f"sk-{secrets.token_hex(24)}", tokens.sign(os.urandom(32), "01sandbox")):
        log.write_text("nothing " * 131_071 + f'"{secret}" ' + "nothing " * 1000)
        finding = host.written_secrets(host.logs(state))
        assert not finding.ok
        assert "gateway.log" in finding.came_back
        assert secret[3:20] not in finding.came_back


def test_a_socket_is_no_log(tmp_path: Path) -> None:
    state = State(tmp_path / "s").prepare()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.path.relpath(state.logs / "gateway.log"))
        assert host.logs(state) == []
