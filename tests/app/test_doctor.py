from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from choir.app.doctor import examine, is_running, repair
from choir.cli import main as cli
from choir.errors import ChoirError
from choir.paths import State
from choir.storage.registry import Registry


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def state(tmp_path: Path) -> State:
    state = State(tmp_path / "state").prepare()
    Registry(state.registry).close()
    return state


def bad(state: State) -> dict[str, str]:
    return {finding.name: finding.hint for finding in examine(None, state) if not finding.ok}


def test_nothing_wrong(state: State) -> None:
    assert bad(state) == {}


def test_no_state(tmp_path: Path) -> None:
    assert set(bad(State(tmp_path / "none"))) == {"state folder"}


def test_open_to_others(state: State) -> None:
    state.root.chmod(0o755)
    state.token_key.write_bytes(b"x" * 32)
    state.token_key.chmod(0o644)
    assert set(bad(state)) == {"state folder", "token.key"}


def test_a_wrong_configuration(state: State, tmp_path: Path) -> None:
    path = tmp_path / "choir.toml"
    path.write_text("nonsense = 1\n")
    assert [finding.name for finding in examine(path, state) if not finding.ok] == ["configuration"]


def test_a_full_disk(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(state.root)
    monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result((*real[:4], 10, *real[5:])))
    assert set(bad(state)) == {"disk space"}


def test_a_damaged_database_is_found_and_mended(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray(state.registry.read_bytes())
    content[4096 * 3 : 4096 * 5] = b"\xff" * 8192
    state.registry.write_bytes(content)
    assert cli.main(["doctor", "--state", str(state.root)]) == 1
    assert "choir doctor --repair" in capsys.readouterr().out
    assert cli.main(["doctor", "--repair", "--json", "--state", str(state.root)]) == 0
    assert all(finding["ok"] for finding in json.loads(capsys.readouterr().out))
    assert cli.main(["doctor", "--state", str(state.root)]) == 0
    (damaged,) = state.root.glob("registry.db.damaged-*")
    assert damaged.read_bytes() == content


def test_what_runs_is_not_mended(state: State) -> None:
    descriptor = os.open(state.run / "up.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert is_running(state)
    assert set(bad(state)) == {"gateway", "hypervisor"}  # nobody answers
    with pytest.raises(ChoirError) as caught:
        list(repair(state, []))
    assert caught.value.reason == "running"
    os.close(descriptor)
    assert not is_running(state)
