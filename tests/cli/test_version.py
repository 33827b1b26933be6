from __future__ import annotations

import json
from pathlib import Path

import pytest

from choir import __version__
from choir.app.version import distribution
from choir.cli import main as cli


def test_short(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_full(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "canary-in-the-environment")
    assert cli.main(["version", "--full", "--json"]) == 0
    out = capsys.readouterr().out
    found = json.loads(out)
    assert found["choir"] == __version__
    assert "missing" not in found["libraries"].replace("xllamacpp missing", "")  # that one is optional
    assert found["isolation"]
    assert "canary" not in out


def test_the_distribution(tmp_path: Path) -> None:
    path = tmp_path / "os-release"
    path.write_text('ID=x\nPRETTY_NAME="Some Linux 12"\n')
    assert distribution(path) == "Some Linux 12"
    assert distribution(tmp_path / "none")
