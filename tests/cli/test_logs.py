"""``choir logs`` on a state folder as several processes left it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from choir import ids, logs
from choir.cli import main as cli
from choir.paths import State
from choir.storage.registry import Registry, SandboxRow

REQUEST, SANDBOX = ids.new_id(), ids.new_id()
CALL = {
    "request_id": REQUEST,
    "sandbox_id": SANDBOX,
    "user_id": "ada",
    "outcome": "ok",
    "latency_ms": 1.0,
    "status": 200,
}


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    monkeypatch.setenv("PATH", str(tmp_path))  # no systemd
    state = State(tmp_path / "s").prepare()
    registry = Registry(state.registry)
    registry.put_sandbox(SandboxRow("ada-live", "ada", "live", "ada-live", "{}"))
    registry.close()
    put(state, "hypervisor.log.1", of("hypervisor", "info", "sandbox", ago=9, sandbox_id=SANDBOX, state="ready"))
    put(state, "hypervisor.log", of("hypervisor", "warning", "leases_not_renewed", ago=8))
    put(state, "sandbox-ada-live.log", of("sandbox", "error", "library", ago=7, sandbox_id=SANDBOX))
    put(state, "gateway.log", json.dumps({"ts": logs.timestamp(time.time() - 6), **CALL}))
    return state


def of(service: str, level: str, event: str, ago: float, **fields: str) -> str:
    """A line of so many seconds ago: of one millisecond they would have no order."""
    entry = json.loads(logs.line(service, level, event, fields))
    return json.dumps(entry | {"ts": logs.timestamp(time.time() - ago)})


def put(state: State, name: str, text: str) -> None:
    with (state.logs / name).open("a") as file:
        file.write(f"{text}\n")


def said(state: State, capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> list[dict[str, object]]:
    assert cli.main(["logs", *words, "--state", str(state.root), "--json"]) == code
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_one_call_through_three_services(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(state, capsys, REQUEST)
    assert [(each["service"], each["event"]) for each in found] == [
        ("hypervisor", "sandbox"),
        ("sandbox", "library"),
        ("gateway", "call"),
    ]
    assert found == said(state, capsys, REQUEST[-8:]) == said(state, capsys, SANDBOX, "--user", "ada")


def test_everything_of_a_day_in_order_and_by_level(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    put(state, "gateway.log.1", json.dumps({"ts": logs.timestamp(time.time() - 2 * 86400), **CALL}))
    found = said(state, capsys)
    assert [each["event"] for each in found] == ["sandbox", "leases_not_renewed", "library", "call"]
    assert len(said(state, capsys, "--since", "3d")) == 5
    assert [each["event"] for each in said(state, capsys, "--level", "error")] == ["library"]


def test_for_a_person(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["logs", "--state", str(state.root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "sandbox:ada-live" in lines[2]
    assert f"request_id={REQUEST}" in lines[3]


def test_what_is_not_there_is_said(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    (error,) = said(state, capsys, ids.new_id(), code=1)
    assert error["error"]["reason"] == "unknown_id"  # type: ignore[index]
    assert said(state, capsys, "--user", "nobody") == []
    assert cli.main(["logs", "--state", str(state.root), "--user", "nobody"]) == 0
    assert "nothing of that since" in capsys.readouterr().err


def test_following(state: State) -> None:
    command = [sys.executable, "-m", "choir.cli.main", "logs", "--state", str(state.root), "--json", "--follow"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(state.root)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for event in ("sandbox", "leases_not_renewed", "library", "call"):
                assert json.loads(process.stdout.readline())["event"] == event
            put(state, "gateway.log", logs.line("gateway", "info", "appended", {}))
            assert json.loads(process.stdout.readline())["event"] == "appended"
            put(state, "sandbox-ben-live.log", logs.line("sandbox", "info", "of_a_new_file", {}))
            assert json.loads(process.stdout.readline())["event"] == "of_a_new_file"
            (state.logs / "gateway.log").replace(state.logs / "gateway.log.1")
            put(state, "gateway.log", logs.line("gateway", "info", "after_a_rotation", {}))
            assert json.loads(process.stdout.readline())["event"] == "after_a_rotation"
        finally:
            process.kill()
