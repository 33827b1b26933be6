from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from choir.sandbox.memory import checkpoint, schema
from choir.sandbox.memory.checkpoint import Checkpointer
from choir.sandbox.memory.model import Draft
from choir.sandbox.memory.store import MemoryStore


@pytest.fixture
def db(path: str) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(schema.connect(path)) as opened:
        opened.execute("CREATE TABLE numbers (n)")
        yield opened


def write(db: sqlite3.Connection) -> None:
    with schema.transaction(db):
        db.execute("INSERT INTO numbers VALUES (zeroblob(9000))")


def frames(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1])


def test_no_commit_does_it_by_itself(db: sqlite3.Connection, path: str) -> None:
    for _ in range(500):  # SQLite's own would come after 1000 frames
        write(db)
    assert frames(db) > 1000


def test_a_thread_does_it(db: sqlite3.Connection, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    monkeypatch.setattr(checkpoint, "EVERY", 4)
    own = Checkpointer._round

    def seen(*args: Any) -> None:
        own(*args)
        done.set()

    monkeypatch.setattr(Checkpointer, "_round", seen)
    keeper = Checkpointer(path, db)
    before = Path(path).stat().st_size
    for number in range(4):
        assert not done.is_set()
        write(db)
        keeper.written()
        assert number < 3 or done.wait(20)
    assert Path(path).stat().st_size > before
    write(db)
    assert frames(db) <= 6  # the log has started over
    keeper.close()
    assert "memory checkpoints" not in {thread.name for thread in threading.enumerate()}


def test_a_long_log_is_finished_by_the_writer(
    db: sqlite3.Connection, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "EVERY", 4)
    monkeypatch.setattr(checkpoint, "LONG", 20)
    keeper = Checkpointer(path, db)
    monkeypatch.setattr(keeper, "_run", lambda: None)
    with contextlib.closing(sqlite3.connect(path)) as other:
        for _ in range(8):
            write(db)
        keeper._round(other)
        write(db)  # a writer that leaves no moment for the thread
        keeper.written()
        write(db)
        assert frames(other) <= 6
    keeper.close()


def test_without_a_thread_the_writer_does_it(
    db: sqlite3.Connection, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(checkpoint, "EVERY", 4)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    keeper = Checkpointer(path, db)
    for _ in range(5):
        write(db)
        keeper.written()
    assert frames(db) <= 6
    keeper.close()


def test_when_the_thread_ends_the_writer_does_it(
    db: sqlite3.Connection, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "EVERY", 4)
    keeper = Checkpointer(path, db)
    monkeypatch.setattr(keeper, "_run", lambda: None)
    for _ in range(13):
        write(db)
        keeper.written()
        if keeper._thread is not None:
            keeper._thread.join()
    assert frames(db) <= 6
    keeper.close()


def test_empty(db: sqlite3.Connection, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "PATIENCE", 0.0)
    db.execute("PRAGMA busy_timeout = 0")
    keeper = Checkpointer(path, db)
    write(db)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM numbers").fetchone()
        write(db)
        assert not keeper.empty()
        reader.execute("COMMIT")
    assert keeper.empty()
    assert Path(path + "-wal").stat().st_size == 0


def test_what_could_not_be_emptied_is_said(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "PATIENCE", 0.0)
    with contextlib.closing(MemoryStore(path)) as store:
        store._file.db.execute("PRAGMA busy_timeout = 0")
        made = store.ingest([Draft("user_inputs", "a secret zebra")])[0]
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM memory_items").fetchone()
            assert store.forget(item_ids=[made.item_id]) == 1
        assert "readable in the log" in store.stats().notes[0]


def test_the_descriptor_is_the_files(db: sqlite3.Connection, path: str) -> None:
    found = checkpoint._descriptor(path)
    assert found is not None
    assert Path(f"/proc/self/fd/{found}").resolve() == Path(path).resolve()


@pytest.mark.parametrize(
    ("frames", "asks"),
    [
        ([16_384], False),
        ([20_000, 23_000, 24_500, 24_700], True),  # goes on while much comes meanwhile
        ([20_000, 20_400], True),
        ([20_000, 22_000, 90], False),  # it has started over
        (list(range(20_000, 110_000, 10_000)), True),  # not for ever
    ],
)
def test_little_is_left_to_the_writer(
    db: sqlite3.Connection, path: str, monkeypatch: pytest.MonkeyPatch, frames: list[int], asks: bool
) -> None:
    keeper = Checkpointer(path, db)
    left = iter(frames)
    monkeypatch.setattr(keeper, "_passive", lambda _: next(left))
    keeper._round(db)
    assert list(left) == []
    assert keeper._asked is asks
    keeper.close()


def test_closing_in_the_moment_of_waking(db: sqlite3.Connection, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wake(threading.Event):
        def clear(self) -> None:
            keeper._closing = True  # as ``close`` does, just before
            self.set()
            super().clear()

    monkeypatch.setattr(checkpoint, "EVERY", 1)
    keeper = Checkpointer(path, db)
    keeper._wake = Wake()
    keeper.written()
    assert keeper._thread is not None
    keeper._thread.join(20)
    assert not keeper._thread.is_alive()
