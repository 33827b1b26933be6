from __future__ import annotations

import contextlib
import sqlite3
import threading
from pathlib import Path

import pytest

from choir.storage.wal import use_wal


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
