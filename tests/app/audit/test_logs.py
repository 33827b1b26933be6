from __future__ import annotations

import os
import secrets
import socket
import subprocess
from pathlib import Path

import pytest

from choir import tokens
from choir.app.audit import logs
from choir.paths import State


def test_a_secret_that_was_written_is_red(tmp_path: Path) -> None:
    state = State(tmp_path / "s").prepare()
    log = state.logs / "gateway.log"
    log.write_text("nothing " * 300_000)
    assert logs.written_secrets(logs.paths(state)).ok
    for secret in (f"sk-{secrets.token_hex(24)}", tokens.sign(os.urandom(32), "01sandbox")):
        log.write_text("nothing " * 131_071 + f'"{secret}" ' + "nothing " * 1000)
        finding = logs.written_secrets(logs.paths(state))
        assert not finding.ok
        assert "gateway.log" in finding.came_back
        assert secret[3:20] not in finding.came_back


def test_a_socket_is_no_log(tmp_path: Path) -> None:
    state = State(tmp_path / "s").prepare()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.path.relpath(state.logs / "gateway.log"))
        assert logs.paths(state) == []


def test_a_secret_in_what_was_rotated_away_is_red(tmp_path: Path) -> None:
    state = State(tmp_path / "s").prepare()
    (state.logs / "hypervisor.log.1").write_text(f"sk-{secrets.token_hex(24)}\n")
    assert "hypervisor.log.1" in logs.written_secrets(logs.paths(state)).came_back


def test_where_the_output_of_a_process_goes_is_looked_at(tmp_path: Path) -> None:
    """`choir up 2>FILE`."""
    state = State(tmp_path / "s").prepare()
    out = tmp_path / "up.log"
    out.write_text(f"sk-{secrets.token_hex(24)}\n")
    with out.open("a") as file:
        process = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, stderr=file)
    try:
        paths = logs.paths(state, [process.pid, process.pid])
        assert logs.units([process.pid]) == []
    finally:
        process.kill()
        process.wait()
    assert paths == [out]
    assert not logs.written_secrets(paths).ok


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/choir-gateway.service\n", ["choir-gateway.service"]),
        ("0::/system.slice/choir.service/hypervisor\n", ["choir.service"]),
        ("0::/user.slice/user-1000.slice/session-1.scope\n", []),
    ],
)
def test_whose_journal(cgroup: str, unit: list[str]) -> None:
    assert logs._UNIT.findall(cgroup) == unit


def test_a_secret_in_the_journal_is_red(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = tmp_path / "said"
    said.write_text("an ordinary line\n")
    journalctl = tmp_path / "journalctl"
    journalctl.write_text(f'#!/bin/sh\ncase "$*" in *--unit=choir.service*) exec cat {said};; esac\nexit 1\n')
    journalctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert logs.written_secrets([], ["choir.service"]).ok
    assert "could not be read" in logs.written_secrets([], ["choir-gateway.service"]).came_back
    said.write_text(f"sk-{secrets.token_hex(24)}\n")
    finding = logs.written_secrets([], ["choir.service"])
    assert not finding.ok
    assert "the journal of choir.service" in finding.came_back
