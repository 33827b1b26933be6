from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from choir.errors import StartError
from choir.storage.registry import Registry, SandboxRow
from choir.storage.salvage import damage, salvage

ROWS = 2000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A registry of many sandboxes, all of it in its one file."""
    path = tmp_path / "registry.db"
    with contextlib.closing(Registry(path)) as registry:
        registry.database.connection.execute("BEGIN")
        for number in range(ROWS):
            registry.put_sandbox(SandboxRow(f"l{number:05}", f"u{number}", "live", f"h{number}", "x" * 100))
        registry.database.connection.execute("COMMIT")
        registry.database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def test_a_whole_one(path: Path, tmp_path: Path) -> None:
    assert damage(path) == ""
    assert damage(tmp_path / "none") == ""


@pytest.mark.parametrize("where", [0.3, 0.5, 0.8])
def test_a_page_overwritten(path: Path, where: float) -> None:
    content = bytearray(path.read_bytes())
    at = int(len(content) * where) // 4096 * 4096
    content[at : at + 4096] = os.urandom(4096)
    path.write_bytes(content)
    assert damage(path)
    saved = salvage(path)
    assert damage(path) == ""
    assert saved.damaged.read_bytes() == content
    with contextlib.closing(Registry(path)) as registry:
        kept = {row.label for row in registry.sandboxes()}
    assert len(kept) == saved.rows["sandboxes"]
    assert len(kept) > ROWS * 0.25


def test_a_torn_copy(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    assert damage(path)
    salvage(path)
    assert damage(path) == ""
    with contextlib.closing(Registry(path)) as registry:
        assert len(registry.sandboxes()) > 0


@pytest.mark.parametrize("content", [b"not a database at all" * 500, b""])
def test_nothing_to_save(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StartError) as caught:
        salvage(path)
    assert caught.value.reason == "salvage_failed"
    assert path.read_bytes() == content
    assert [each.name for each in path.parent.iterdir()] == ["registry.db"]


WRITER = """
import sys
from pathlib import Path
from choir.storage.registry import Registry, SandboxRow
registry = Registry(Path(sys.argv[1]))
for number in range(10**6):
    registry.put_sandbox(SandboxRow(f"l{number}", f"u{number}", "live", "h", "s"))
    print(number, flush=True)
"""


def test_killed_while_writing_it_opens_with_all_that_was_written(tmp_path: Path) -> None:
    for lines in (1, 40, 400):
        path = tmp_path / f"r{lines}.db"
        with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(lines):
                last = int(writer.stdout.readline())
            copy = (
                tmp_path / f"copy{lines}.db"
            )  # as a power cut would leave it, at best: files copied one after another
            for suffix in ("", "-wal"):
                shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
            writer.send_signal(signal.SIGKILL)
        with contextlib.closing(Registry(path)) as registry:
            assert len(registry.sandboxes()) >= last + 1
        assert damage(path) == ""
        with contextlib.closing(sqlite3.connect(copy)) as torn:
            assert torn.execute("SELECT count(*) FROM sandboxes").fetchone()[0] >= 0
