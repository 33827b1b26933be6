from __future__ import annotations

import json
import secrets
from pathlib import Path

import pytest

from choir.cli import main as cli

KEY = f"sk-{secrets.token_hex(20)}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("OPENAI_API_KEY", "CHOIR_ENV_FILE", "CREDENTIALS_DIRECTORY", "RUNTIME_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "choir").mkdir()
    return tmp_path / "choir"


def put(path: Path, text: str, mode: int = 0o600) -> None:
    path.write_text(text)
    path.chmod(mode)


def check(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = cli.main(["secrets", "check", *arguments])
    said = capsys.readouterr()
    assert KEY not in said.out + said.err
    return code, said.out + said.err


def test_who_has_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(folder / ".env", f"OPENAI_API_KEY={KEY}\n")
    put(folder / "choir.toml", "[providers.openai]\n", 0o644)
    code, said = check(capsys, "--json")
    found = {one["provider"]: one for one in json.loads(said)}
    assert (code, found["openai"]["ok"], found["openai"]["reference"]) == (0, True, "env:OPENAI_API_KEY")
    assert (found["anthropic"]["ok"], found["anthropic"]["reason"]) == (False, "no_key")


def test_one_that_is_named_and_has_none(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(folder / "choir.toml", "[providers.mistral]\n", 0o644)
    code, said = check(capsys)
    assert (code, "no key in MISTRAL_API_KEY" in said) == (1, True)


def test_a_key_file_that_others_can_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(folder / "key", KEY, 0o644)
    put(folder / "choir.toml", f'[providers.openai]\nkey = "file:{folder}/key"\n', 0o644)
    code, said = check(capsys)
    assert (code, "chmod 600" in said) == (1, True)


def test_a_file_of_keys_that_others_can_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(folder / "other.env", f"OPENAI_API_KEY={KEY}\n", 0o640)
    code, said = check(capsys, "--env-file", str(folder / "other.env"))
    assert (code != 0, "chmod 600" in said) == (True, True)


def test_a_key_that_no_header_can_carry(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(folder / ".env", f'OPENAI_API_KEY="{KEY} {KEY}"\n')
    code, said = check(capsys)
    assert (code, "no header can carry" in said) == (1, True)
