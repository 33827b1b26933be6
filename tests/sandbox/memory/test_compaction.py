from __future__ import annotations

import contextlib
import sqlite3

import pytest

from choir.sandbox.memory import compaction
from choir.sandbox.memory.index import Index
from choir.sandbox.memory.model import Draft
from choir.sandbox.memory.page import Page
from choir.sandbox.memory.store import MemoryStore

pytestmark = pytest.mark.usefixtures("small_pages")


@pytest.mark.parametrize(
    ("pages", "runs", "expected"),
    [
        ("", {}, None),
        ("a", {}, None),
        ("aa", {}, [0, 1]),
        ("aaa", {0: 2}, None),
        ("aaaa", {0: 2}, [2, 3]),
        ("aaaa", {0: 2, 2: 2}, [0, 1, 2, 3]),
        ("ababab", {0: 2}, [1, 3]),
        ("ababab", {0: 2, 1: 2}, None),
        ("ab", {}, None),
        ("a.a", {}, None),  # what comes behind an unfinished page waits
        ("aa.aa", {0: 2}, None),
        ("a" * 32, {0: 16, 16: 16}, None),  # no longer than that
    ],
)
def test_what_is_due(index: Index, pages: str, runs: dict[int, int], expected: list[int] | None) -> None:
    for number, each in enumerate(pages):
        index.pages[number] = Page(0 if each in "a." else 1, "merging" if each == "." else "merged")
    index.runs = runs
    assert compaction.due(index) == expected


@pytest.fixture
def index(store: MemoryStore) -> Index:
    return store._file.index


def rows(path: str) -> dict[int, list[int]]:
    """By term the pages that its rows are at."""
    found: dict[int, list[int]] = {}
    with contextlib.closing(sqlite3.connect(path)) as db:
        for (key,) in db.execute("SELECT key FROM memory_postings ORDER BY key"):
            found.setdefault(key >> 16, []).append(key & 0xFFFF)
    return found


def fill(store: MemoryStore, pages: int) -> None:
    store.ingest([Draft("user_inputs", f"zebra number {n} {'lion' * (n % 16 == 3)}") for n in range(16 * pages)])


def test_a_term_has_a_row_for_each_digit(path: str, store: MemoryStore, index: Index) -> None:
    fill(store, 7)
    known = store.dump()
    most = 0
    while store.maintain():  # after every step the same
        assert store.dump() == known
        assert store.check() == ""
        most = max(most, *map(len, rows(path).values()), 0)
    assert index.runs == {0: 4, 4: 2}
    found = rows(path)
    assert max(found.values(), key=len) == [0, 4, 6]
    assert most > 3
    (lion,) = (key for key, docs in known if len(docs) == 7)
    assert found[lion] == [0, 4, 6]


def test_it_goes_on_where_another_ended(path: str, store: MemoryStore) -> None:
    fill(store, 4)
    known = store.dump()
    for _ in range(4 * 4 + 3):
        assert store.maintain()
    with contextlib.closing(MemoryStore(path)) as other:
        while other.maintain():
            pass
        assert other.dump() == known
    assert not store.maintain()
    assert store.dump() == known
    assert max(map(len, rows(path).values())) == 1


def test_forgetting_from_a_run(path: str, store: MemoryStore) -> None:
    """Beside another collection with the same words: its rows are between those of this one."""
    ids = []
    for n in range(70):
        contents = f"zebra number {n} {'lion' * (n < 32)}"
        ids.append(store.ingest([Draft("user_inputs", contents), Draft("doc_trajectories", contents)])[0].item_id)
    while store.maintain():
        pass
    assert store.forget(item_ids=ids[:17]) == 17  # all of the first page
    assert store.check() == ""
    assert len(store.search("user_inputs", "lion", 100)) == 15
    assert store.forget(item_ids=ids[17:32]) == 15  # the last of a word
    assert store.check() == ""
    assert store.search("user_inputs", "lion", 100) == []
    before = store.dump()
    store.rebuild()
    while store.maintain():
        pass
    assert store.dump() == before


@pytest.mark.parametrize(
    "statement",
    [
        # the second of the two pages that follow the counts is now one that is not there
        "UPDATE memory_postings SET postings = CAST(substr(postings, 1, length(postings) - 8) || x'0900'"
        " || substr(postings, length(postings) - 5) AS BLOB)",
        "UPDATE memory_postings SET postings = CAST(substr(postings, 1, length(postings) - 2) || x'ff'"
        " || substr(postings, -1) AS BLOB)",
        "UPDATE memory_postings SET postings = substr(postings, 4)",
    ],
)
def test_damage_is_seen_when_read(path: str, statement: str) -> None:
    with contextlib.closing(MemoryStore(path)) as store:
        fill(store, 2)
        while store.maintain():
            pass
        known = store.dump()
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        assert db.execute(f"{statement} WHERE length(postings) > 20").rowcount >= 1
    with contextlib.closing(MemoryStore(path)) as store:
        assert len(store.search("user_inputs", "zebra", 100)) == 32
        assert any("made anew" in note for note in store.stats().notes)
        assert store.dump() == known


@pytest.mark.parametrize("run", ["(0, 1, 999)", "(0, 1, -1)", "(0, 0, 0)", "(0, -1, 0)"])
def test_damaged_runs_are_made_anew(path: str, run: str) -> None:
    with contextlib.closing(MemoryStore(path)) as store:
        fill(store, 2)
        while store._file.index.merging() is not None:
            store.maintain()
        known = store.dump()
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(f"INSERT OR REPLACE INTO memory_runs VALUES {run}")
    with contextlib.closing(MemoryStore(path)) as store:
        for _ in range(1000):
            if not store.maintain():
                break
        assert store._file.index.runs == {0: 2}
        assert any("made anew" in note for note in store.stats().notes)
        assert store.dump() == known
