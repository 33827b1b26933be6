"""A damaged index is seen, made anew and spoken of; it never answers as if there were nothing."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from choir.sandbox.memory.model import Draft, MemoryStoreError
from choir.sandbox.memory.postings import DamagedIndexError
from choir.sandbox.memory.store import MemoryStore

pytestmark = pytest.mark.usefixtures("small_pages")


@pytest.fixture
def filled(path: str) -> str:
    with contextlib.closing(MemoryStore(path)) as store:
        store.ingest([Draft("user_inputs", f"zebra number {n}", thread="t") for n in range(45)])
        while store.maintain():
            pass
    return path


def spoil(path: str, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE memory_postings SET postings = x'00'",
        "UPDATE memory_postings SET postings = substr(postings, 2)",
        "UPDATE memory_postings SET postings = x'05000400000000' WHERE length(postings) > 5",
        "UPDATE memory_segments SET postings = substr(postings, 1, 40)",
        "UPDATE memory_segments SET columns = x'00'",
        "UPDATE memory_pages SET columns = x'00' WHERE state = 'merged'",
        "UPDATE memory_pages SET frequencies = NULL WHERE state = 'merged'",
        "UPDATE memory_pages SET frequencies = substr(frequencies, 1, 20)",
        "DELETE FROM memory_segments WHERE start = 0",
    ],
)
def test_seen_when_read(filled: str, statement: str) -> None:
    with contextlib.closing(MemoryStore(filled)) as store:
        known = store.dump()
    spoil(filled, statement)
    with contextlib.closing(MemoryStore(filled)) as store:
        assert len(store.search("user_inputs", "zebra", 100)) == 45
        assert store.dump() == known
        assert any("made anew" in note for note in store.stats().notes)
        assert store.check() == ""


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM memory_postings",
        "DELETE FROM memory_postings WHERE key = (SELECT min(key) FROM memory_postings)",
        "UPDATE memory_postings SET key = key + 65536 * 1000 WHERE key = (SELECT max(key) FROM memory_postings)",
        "DELETE FROM memory_pages WHERE page = 0",
    ],
)
def test_seen_by_the_check(filled: str, statement: str) -> None:
    with contextlib.closing(MemoryStore(filled)) as store:
        known = store.dump()
    spoil(filled, statement)
    with contextlib.closing(MemoryStore(filled)) as store:
        assert store.check() != ""
        assert store.check() == ""
        assert store.dump() == known
        assert len(store.search("user_inputs", "zebra", 100)) == 45


def test_an_index_of_other_terms_is_made_anew(filled: str) -> None:
    with contextlib.closing(MemoryStore(filled)) as store:
        known = store.dump()
        assert store.stats().notes == ()
    spoil(filled, "UPDATE memory_meta SET value = value + 1 WHERE name = 'terms'")
    with contextlib.closing(MemoryStore(filled)) as store:
        assert store.dump() == known
        assert "takes words apart" in store.stats().notes[0]
    with contextlib.closing(MemoryStore(filled)) as store:
        assert store.stats().notes == ()


def test_what_cannot_be_mended_is_an_error(filled: str) -> None:
    with contextlib.closing(MemoryStore(filled)) as store:

        def broken() -> None:
            raise DamagedIndexError("always")

        with pytest.raises(MemoryStoreError) as corrupt:
            store._file.read(broken)
        assert corrupt.value.reason == "store_corrupt"


@pytest.mark.parametrize("size", [15, 16, 17, 20, 32, 33])
def test_a_rebuilt_index_grows_on(path: str, size: int) -> None:
    with contextlib.closing(MemoryStore(path)) as store:
        store.ingest([Draft("user_inputs", f"zebra number {n}") for n in range(size)])
        store.rebuild()
        store.ingest([Draft("user_inputs", f"lion number {n}") for n in range(20)])
        grown = store.dump()
        store.rebuild()
        assert store.dump() == grown
        assert max(page.size for page in store._file.index.pages.values()) <= 16


def test_a_killed_rebuild_goes_on(filled: str) -> None:
    with contextlib.closing(MemoryStore(filled)) as store:
        known = store.dump()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store._file, "finish_rebuild", lambda: None)
            store.rebuild()
    with contextlib.closing(MemoryStore(filled)) as store:
        assert store.dump() == known
        ingested = store.ingest([Draft("user_inputs", "one more zebra")])[0]
        assert store.search("user_inputs", "one", 1)[0].item.item_id == ingested.item_id
        assert store.check() == ""


def test_sqlites_own_damage_is_an_error_and_no_empty_answer(path: str) -> None:
    with contextlib.closing(MemoryStore(path)) as store:
        store.ingest([Draft("user_inputs", f"zebra {n} " + "x" * 500) for n in range(300)])
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(Path(path).read_bytes())
    for at in range(8 * 4096, len(data), 4096):
        data[at : at + 100] = b"\xff" * 100
    Path(path).write_bytes(data)
    with pytest.raises(MemoryStoreError) as corrupt, contextlib.closing(MemoryStore(path)) as store:  # noqa: PT012
        store.check()
        store.search("user_inputs", "zebra", 5)
    assert corrupt.value.reason == "store_corrupt"
