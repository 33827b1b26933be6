from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from choir.errors import StartError
from choir.storage.database import Database
from choir.storage.registry import MIGRATIONS, Registry

FIRST = "CREATE TABLE a (x TEXT) STRICT"
SECOND = "ALTER TABLE a ADD COLUMN y TEXT NOT NULL DEFAULT 'new';\nCREATE TABLE b (z TEXT) STRICT"


def test_forward_with_a_copy_of_what_was(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    old = Database(path, [FIRST])
    old.connection.execute("INSERT INTO a VALUES ('kept')")
    old.close()
    assert not list(tmp_path.glob("*.v*"))  # a new file has nothing to keep
    new = Database(path, [FIRST, SECOND])
    assert new.version == 2
    assert new.connection.execute("SELECT * FROM a").fetchall() == [("kept", "new")]
    new.close()
    copy = tmp_path / "r.db.v1"
    assert copy.stat().st_mode & 0o777 == 0o600
    with contextlib.closing(sqlite3.connect(copy)) as before:
        assert before.execute("SELECT * FROM a").fetchall() == [("kept",)]
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_a_step_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    Database(path, [FIRST]).close()
    with pytest.raises(StartError):
        Database(path, [FIRST, f"{SECOND};\nCREATE TABLE a (x TEXT)"])
    with contextlib.closing(Database(path, [FIRST])) as again:
        assert again.version == 1
        assert again.connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'b'").fetchone() == (0,)


def test_two_processes_at_once(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    Database(path, MIGRATIONS[:1]).close()
    code = (
        f"from pathlib import Path; from choir.storage.registry import Registry; Registry(Path({str(path)!r})).close()"
    )
    both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [each.wait(60) for each in both] == [0] * 4
    with contextlib.closing(Registry(path)) as registry:
        assert registry.database.version == len(MIGRATIONS)


def test_the_first_schema_of_a_registry_moves_forward(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    old = Database(path, MIGRATIONS[:1])
    old.connection.execute("INSERT INTO users VALUES ('ada', 1, 5.0)")
    old.connection.execute("INSERT INTO sessions VALUES ('h', 'ada', '', '', 1.0, 9e9)")
    old.close()
    with contextlib.closing(Registry(path)) as registry:
        (session,) = registry.sessions(2.0)
        assert (session.user, session.way, session.browser) == ("ada", "", "")
