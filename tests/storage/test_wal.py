from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from choir.storage.wal import make_file, use_wal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that is still in rollback mode."""
    path = tmp_path / "a.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE t (x)")
    return path


@pytest.mark.parametrize("held", ["IMMEDIATE", "EXCLUSIVE"])
def test_waits_for_who_writes(path: Path, held: str) -> None:
    """SQLite itself refuses at once while somebody holds no more than RESERVED."""
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    ours = sqlite3.connect(path, isolation_level=None, timeout=0.01)
    with contextlib.closing(other), contextlib.closing(ours):
        other.execute(f"BEGIN {held}")
        release = threading.Timer(0.1, other.execute, ["COMMIT"])
        release.start()
        use_wal(ours, 30.0)
        release.join()
        assert ours.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert ours.execute("PRAGMA synchronous").fetchone() == (1,)


def test_not_for_ever(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with contextlib.closing(sqlite3.connect(path, timeout=0.01)) as ours, pytest.raises(sqlite3.OperationalError):
            use_wal(ours, 0.05)


def test_what_is_no_lock_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(b"no database" * 100)
    with (
        contextlib.closing(sqlite3.connect(path)) as ours,
        pytest.raises(sqlite3.DatabaseError, match="not a database"),
    ):
        use_wal(ours, 3600.0)


def test_a_new_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    make_file(path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"kept")
    make_file(path)
    assert path.read_bytes() == b"kept"


def test_making_it_again_gives_no_lock_up(path: Path) -> None:
    """Or the next process that closes it deletes the log that this one goes on writing."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as ours:
        use_wal(ours, 1.0)
        ours.execute("INSERT INTO t VALUES (1)")
        make_file(path)
        code = (
            "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); print(*db.execute('SELECT x FROM t')); db.close()"
        )
        other = [sys.executable, "-c", code, str(path)]
        assert subprocess.check_output(other, text=True) == "(1,)\n"
        ours.execute("INSERT INTO t VALUES (2)")
        assert subprocess.check_output(other, text=True) == "(1,) (2,)\n"
