from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import pytest

from choir import __version__
from choir.deploy import rehearsal
from choir.deploy.journal import Schema
from choir.errors import ChoirError
from choir.storage.registry import MIGRATIONS, Registry


def environment(folder: Path, script: str = "") -> Path:
    """One of this version, or with a program that answers in its place."""
    python = folder / __version__ / "bin/python"
    python.parent.mkdir(parents=True)
    ours = 'exec "' + sys.executable + '" "$@"'
    python.write_text(f"#!/bin/sh\n{script or ours}\n")
    python.chmod(0o755)
    return folder / __version__


def test_a_version_says_what_it_reads_and_takes_over_a_copy(tmp_path: Path) -> None:
    copy = tmp_path / "registry.db"
    with sqlite3.connect(copy) as database:
        database.executescript(f"{MIGRATIONS[0]}; PRAGMA user_version = 1")
    database.close()
    found = rehearsal.ask(environment(tmp_path), {"registry": str(copy), "usage": str(tmp_path / "usage.db")})
    assert found == rehearsal.own_schema() == Schema(len(MIGRATIONS), found.memory)
    registry = Registry(copy)
    assert registry.database.version == len(MIGRATIONS)
    registry.close()


def test_what_it_does_not_take_is_its_own_reason(tmp_path: Path) -> None:
    (tmp_path / "choir.toml").write_text("nonsense = 1\n")
    with pytest.raises(ChoirError) as caught:
        rehearsal.ask(environment(tmp_path), {"config": str(tmp_path / "choir.toml")})
    assert caught.value.reason == "config_invalid"
    assert "nonsense" in caught.value.message


def test_a_registry_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "registry.db"
    with sqlite3.connect(copy) as database:
        database.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    database.close()
    with pytest.raises(ChoirError) as caught:
        rehearsal.answer({"registry": str(copy)})
    assert caught.value.reason == "registry_version"


@pytest.mark.parametrize(
    ("script", "word"),
    [
        ("echo 'ModuleNotFoundError: No module named x' >&2; exit 1", "No module named x"),
        ("echo nonsense", "does not run"),
        ("""echo '{"choir": "9.9", "registry": 1, "memory": 1}'""", "it says it is 9.9"),
        (f"""echo '{{"choir": "{__version__}"}}'""", "does not run"),
    ],
)
def test_one_that_does_not_run_is_said(tmp_path: Path, script: str, word: str) -> None:
    with pytest.raises(ChoirError) as caught:
        rehearsal.ask(environment(tmp_path, f"cat >/dev/null; {script}"), {})
    assert caught.value.reason == "version_unusable"
    assert word in caught.value.message
