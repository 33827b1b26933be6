from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import pytest

from choir.deploy import machine as machines
from choir.deploy import rehearsal
from choir.deploy.journal import Deployment, Schema
from choir.deploy.machine import Machine
from choir.deploy.wheel import Wheel
from choir.errors import ChoirError
from choir.hypervisor.backup import stage
from choir.installation import Installation
from choir.paths import State
from choir.storage.registry import Registry

NEW = Wheel(Path("/w/choir-0.2.0-py3-none-any.whl"), "0.2.0", ">=3.11", (), "ab", None)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    installation = Installation(tmp_path / "opt")
    for version in ("0.1.0", "0.2.0"):
        (installation.environment(version) / "bin").mkdir(parents=True)
        (installation.environment(version) / "bin/python").touch()
    installation.link.symlink_to("versions/0.1.0")
    state = State(tmp_path / "state").prepare()
    Registry(state.registry).close()
    return Machine(installation, Deployment(str(state.root), config=str(tmp_path / "choir.toml")))


def wheel(**changes: object) -> Wheel:
    known = {"path": NEW.path, "version": "0.2.0", "requires_python": "", "extras": (), "sha256": "ab", "lock": None}
    return Wheel(**{**known, **changes})  # type: ignore[arg-type]


def reason(machine: Machine, of: Wheel = NEW) -> str:
    with pytest.raises(ChoirError) as caught:
        machine.check(of)
    return caught.value.reason


def test_what_is_checked_before_anything_is_done(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert any("GB free" in words for words in machine.check(NEW))
    assert reason(machine, wheel(version="0.1.0")) == "already_in_force"
    assert reason(machine, wheel(requires_python=">=9")) == "python_too_old"
    monkeypatch.setattr(machines, "SPARE", 1 << 60)
    assert reason(machine) == "no_space"


def test_only_for_those_whose_it_is(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: real + 1)
    assert reason(machine) == "wrong_account"
    monkeypatch.undo()
    monkeypatch.setattr(os, "access", lambda *_arguments: False)
    assert reason(machine) == "prefix_unwritable"


def test_what_a_version_is_asked(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(sqlite3.connect(machine.state.ledger)) as database, database:
        database.execute("CREATE TABLE usage (ts TEXT)")
        database.execute("INSERT INTO usage VALUES ('then')")
    asked = []

    def ask(environment: Path, question: dict[str, str]) -> Schema:
        asked.append((environment, question))
        for name in question:
            assert Path(question[name]).parent != machine.state.root, "a copy"
        if "usage" in question:
            with contextlib.closing(sqlite3.connect(question["usage"])) as copy:
                assert copy.execute("SELECT COUNT(*) FROM usage").fetchone() == (0,)  # its tables alone
            Registry(Path(question["registry"])).close()
        return Schema(1, 1)

    monkeypatch.setattr(rehearsal, "ask", ask)
    assert machine.rehearse("0.2.0") == Schema(1, 1)
    machine.rehearse("0.2.0", deeply=False)
    assert [set(question) for _, question in asked] == [{"config", "registry", "usage"}, set()]
    assert not list(machine.state.root.glob(".rehearsal-*"))


def test_a_backup_is_whole_or_not_there(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first, second = machine.backup(), machine.backup()
    assert first is not None
    assert second is not None
    assert first != second
    with first.open("rb") as file:
        stage(State(tmp_path / "other").prepare(), file)
    folder = first.parent
    (folder / ".choir-1.tar").touch()  # of a run that was killed

    def broken(*_arguments: object) -> None:
        raise ChoirError("no_space", "Full.")

    monkeypatch.setattr("choir.hypervisor.backup.create", broken)
    with pytest.raises(ChoirError):
        machine.backup()
    assert sorted(folder.iterdir()) == sorted([first, second])


def test_without_a_registry_there_is_nothing_to_keep(tmp_path: Path) -> None:
    nothing = Machine(Installation(tmp_path), Deployment(str(tmp_path / "none")))
    assert nothing.backup() is None


def test_tidy_leaves_what_it_did_not_make(machine: Machine) -> None:
    versions = machine.installation.versions
    (versions / "mine/bin").mkdir(parents=True)
    (versions / "0.3.0").mkdir()
    (versions / "0.3.0/choir-wheel.json").touch()
    gone = machine.tidy({"0.1.0"}, {"0.2.0"}, None)
    assert gone == [str(versions / "0.2.0"), str(versions / "0.3.0")]
    assert sorted(path.name for path in versions.iterdir()) == ["0.1.0", "mine"]
