"""The commands' own part; what they do is in tests/deploy and tests/release."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from choir.cli import main as cli
from choir.cli import upgrade as command
from choir.installation import Installation


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    monkeypatch.setenv("PATH", str(tmp_path))  # no systemd
    monkeypatch.setenv("CHOIR_STATE", str(tmp_path / "s"))
    made = Installation(tmp_path / "opt")
    (made.environment("0.1.0") / "bin").mkdir(parents=True)
    (made.environment("0.1.0") / "bin/python").touch()
    made.link.symlink_to("versions/0.1.0")
    monkeypatch.setattr(command, "find", lambda: made)
    return made


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    code = cli.main([*words, "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert (code == 0) is ("error" not in answer)
    return str(answer["error"]["reason"]) if code else "ok"


@pytest.mark.parametrize("words", [("upgrade",), ("rollback",)])
def test_a_choir_that_stands_alone(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    assert said(capsys, *words) == "not_side_by_side"


def test_what_is_refused(installation: Installation, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert said(capsys, "upgrade") == "no_wheel"
    assert said(capsys, "rollback") == "nothing_to_roll_back"
    assert said(capsys, "rollback", "--dry-run") == "nothing_to_roll_back"
    assert said(capsys, "upgrade", str(tmp_path / "choir-2-py3-none-any.whl")) == "wheel_unusable"
    installation.link.unlink()
    installation.link.symlink_to("versions/9")
    assert said(capsys, "rollback") == "no_version_in_force"


def test_one_that_was_broken_off_is_not_looked_over(
    installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = {
        **{"kind": "upgrade", "old": "0.1.0", "new": "0.2.0", "step": "install", "began": 1.0},
        **{"deployment": {"state": "/nowhere"}, "schema": {"registry": 1, "memory": 1}},
        "written": {"registry": 1, "memory": 1},
    }
    installation.journal.write_text(json.dumps({"under_way": entry}))
    assert said(capsys, "rollback", "--dry-run") == "upgrade_under_way"
    assert said(capsys, "upgrade") == "ok"
    assert json.loads(installation.journal.read_text())["under_way"] is None
    assert said(capsys, "upgrade") == "no_wheel"
