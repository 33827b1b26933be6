from __future__ import annotations

import os
from pathlib import Path

import pytest

from choir.app import run, run_spec
from choir.errors import ChoirError, KeylessError
from choir.isolation.contract import Exited
from choir.paths import State


def test_folders_that_are_too_wide(tmp_path: Path) -> None:
    home = tmp_path / "home"
    state = State(tmp_path / "state" / "choir")
    own = run_spec.own_places(state, home)
    wide = [home, tmp_path, Path("/"), tmp_path / "state", state.root, state.root / "homes/live-ann"]
    wide += [home / ".config", home / ".config/choir", home / ".config/choir/x", home / ".cache", Path("/etc/choir")]
    for folder in wide:
        with pytest.raises(ChoirError) as caught:
            run_spec.check_workspace(folder, home, own)
        assert caught.value.reason == "workspace_too_wide"
    for folder in (home / "project", home / ".config/nvim"):
        run_spec.check_workspace(folder, home, own)


def test_agent_files_are_written_and_replaced(tmp_path: Path) -> None:
    run_spec.write_home_files(tmp_path, {".a/b/c.toml": "1", "d": "2"}, None)
    run_spec.write_home_files(tmp_path, {".a/b/c.toml": "3"}, None)
    assert (tmp_path / ".a/b/c.toml").read_text() == "3"
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("link", [".a", ".a/b"])
def test_a_link_that_an_agent_left_is_not_followed(tmp_path: Path, link: str) -> None:
    home, outside = tmp_path / "home", tmp_path / "outside"
    outside.mkdir()
    (home / link).parent.mkdir(parents=True)
    (home / link).symlink_to(outside)
    with pytest.raises(ChoirError) as caught:
        run_spec.write_home_files(home, {".a/b/c": "x"}, None)
    assert caught.value.reason == "home_unwritable"
    assert os.listdir(outside) == []


def test_a_linked_file_is_replaced_not_written_through(tmp_path: Path) -> None:
    home, outside = tmp_path / "home", tmp_path / "outside"
    home.mkdir()
    outside.write_text("precious")
    (home / "c").symlink_to(outside)
    run_spec.write_home_files(home, {"c": "x"}, None)
    assert outside.read_text() == "precious"
    assert (home / "c").read_text() == "x"


def test_key_files_are_masked_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_spec.key_files(tmp_path, strict=True) == ()
    secret = "OPENAI_API_KEY=sk-" + os.urandom(24).hex()
    (tmp_path / ".env").write_text(secret)
    assert run_spec.key_files(tmp_path, strict=False) == (tmp_path / ".env",)
    assert "masked .env" in capsys.readouterr().err
    with pytest.raises(KeylessError) as caught:
        run_spec.key_files(tmp_path, strict=True)
    assert ".env" in caught.value.message
    assert secret not in caught.value.message


@pytest.mark.parametrize(("code", "signal", "expected"), [(0, None, 0), (3, None, 3), (None, 9, 137), (None, None, 0)])
def test_exit_codes_are_a_shells(code: int | None, signal: int | None, expected: int) -> None:
    assert run.exit_code(Exited(code, signal, "", "", "", "")) == expected
