"""A large index is made anew bit by bit, and said so; nothing answers as if there were nothing."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import sqlite3
import tempfile
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from choir.sandbox.actor import ThreadActor
from choir.sandbox.memory import command, file, rebuild
from choir.sandbox.memory.actor import memory_actor
from choir.sandbox.memory.http_api import PREFIX, MemoryApi
from choir.sandbox.memory.messages import ArtifactSearch, Ingest
from choir.sandbox.memory.model import Draft, MemoryStoreError, RebuildingError
from choir.sandbox.memory.postings import DamagedIndexError
from choir.sandbox.memory.store import MemoryStore

pytestmark = pytest.mark.usefixtures("small_pages")


@pytest.fixture(autouse=True)
def _all_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "AT_ONCE", 0)
    monkeypatch.setattr(rebuild, "ITEMS", 3)
    monkeypatch.setattr(rebuild, "ROWS", 20)


@pytest.fixture
def known(path: str) -> object:
    """What a store of 45 items says before another version opens it."""
    with contextlib.closing(MemoryStore(path)) as store:
        store.ingest([Draft("user_inputs", f"zebra number {n}", "s", "t", float(n)) for n in range(45)])
        while store.maintain():
            pass
        dump = store.dump()
    other_version(path)
    return dump


def other_version(path: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE memory_meta SET value = value + 1 WHERE name = 'terms'")


def steps(store: MemoryStore) -> int:
    count = 0
    while store.maintain():
        count += 1
    return count


def test_how_far_it_is_and_its_end(path: str, known: object) -> None:
    with contextlib.closing(MemoryStore(path)) as store:  # opening does not wait for it
        progress = []
        while store._file.index.stale():
            with pytest.raises(RebuildingError, match="of it is done") as told:
                store.search("user_inputs", "zebra", 100)
            assert told.value.reason == "rebuilding"
            progress.append(told.value.progress)
            assert store.maintain()
        assert len(store.search("user_inputs", "zebra", 100)) == 45
        assert progress[0] == 0
        assert len(set(progress)) > 10
        assert all(left <= right < 1 for left, right in pairwise(progress))
        steps(store)
        assert store.dump() == known
        assert store.check() == ""


def test_all_that_look_something_up_say_it(path: str, known: object) -> None:
    with contextlib.closing(MemoryStore(path)) as store:
        item = next(store.export())["item_id"]  # the items themselves are there
        for call in (
            lambda: store.snapshot("zebra", 1),
            lambda: store.context_pack("zebra", 100),
            lambda: store.expand([item], 1),
            lambda: store.explain(item, "zebra"),
            lambda: store.forget(item_ids=[item]),
            store.stats,
            store.check,
        ):
            with pytest.raises(RebuildingError):
                call()


def test_a_damaged_one_too(path: str, known: object) -> None:
    with contextlib.closing(MemoryStore(path)) as store:
        steps(store)
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            db.execute("UPDATE memory_postings SET postings = substr(postings, 2)")
        with pytest.raises(RebuildingError):
            store.search("user_inputs", "zebra", 1)
        steps(store)
        assert store.dump() == known
        assert len(store.stats().notes) == 2
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            db.execute("DELETE FROM memory_postings")
        assert store.check() != ""
        with pytest.raises(RebuildingError):
            store.search("user_inputs", "zebra", 1)


@pytest.mark.parametrize("before", [0, 3, 12, 30])
def test_what_is_ingested_meanwhile_is_kept(path: str, known: object, before: int) -> None:
    with contextlib.closing(MemoryStore(path)) as store:
        for _ in range(before):
            store.maintain()
        drafts = [Draft("user_inputs", f"zebra or lion {n}", thread="t") for n in range(20)]
        made = [store.ingest([each])[0] for each in drafts]
        assert store.ingest([Draft("user_inputs", "zebra number 7")])[0].duplicate
        steps(store)
        assert [each.item.item_id for each in store.search("user_inputs", "lion 13", 1)] == [made[13].item_id]
        neighbours = store.expand([made[0].item_id], 1)[0].occurrences[0].before
        assert [each.content for each in neighbours] == ["zebra number 44"]
        assert store.check() == ""
        dump = store.dump()
        store.rebuild()
        assert store.dump() == dump
        assert store.stats().items["user_inputs"] == 65


@pytest.mark.parametrize("after", [1, 7, 25, 60])
def test_a_killed_one_goes_on(path: str, known: object, after: int) -> None:
    with contextlib.closing(MemoryStore(path)) as store:
        whole = sum(store.maintain() for _ in range(after))
    with contextlib.closing(MemoryStore(path)) as store:
        rest = steps(store)
        assert store.dump() == known
    other_version(path)
    with contextlib.closing(MemoryStore(path)) as store:
        assert rest <= steps(store) - whole + 2  # a segment that was not full is begun again


def test_two_processes_at_it(path: str, known: object) -> None:
    with contextlib.closing(MemoryStore(path)) as one, contextlib.closing(MemoryStore(path)) as other:
        for _ in range(1000):
            more = (one.maintain(), other.maintain())
            if not any(more):
                break
        assert one.dump() == other.dump() == known


def test_a_migration_that_needs_one_is_no_different(path: str) -> None:
    with contextlib.closing(MemoryStore(path)) as store:
        store.ingest([Draft("user_inputs", f"zebra number {n}") for n in range(45)])
        steps(store)
        known = store.dump()
    with contextlib.closing(sqlite3.connect(path)) as db, db:  # as version 1 left it
        db.execute("ALTER TABLE memory_pages DROP COLUMN frequencies")
        db.execute("DROP TABLE memory_runs")
        db.execute("UPDATE memory_meta SET value = 1 WHERE name = 'version'")
    with contextlib.closing(MemoryStore(path)) as store:
        with pytest.raises(RebuildingError):
            store.search("user_inputs", "zebra", 1)
        steps(store)
        assert store.dump() == known
        assert store.check() == ""


@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=10)
@given(st.lists(st.integers(0, 60), max_size=50), st.lists(st.integers(0, 4), max_size=30))
def test_with_anything_between_it_is_as_at_once(before: list[int], between: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(MemoryStore(f"{folder}/m.db")) as store:
        for n in before:
            store.ingest([Draft("user_inputs" if n % 3 else "doc_trajectories", f"zebra {n} lion", thread="t")])
        store._file.mark_stale("a test")
        for n, count in enumerate(between):
            for _ in range(count):
                store.maintain()
            store.ingest([Draft("user_inputs", f"again {n} zebra {count}", thread="t")])
        steps(store)
        grown = store.dump()
        assert store.check() == ""
        store.rebuild()
        assert store.dump() == grown


def test_one_that_never_helps_is_an_error(path: str, known: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise DamagedIndexError("always")

    with contextlib.closing(MemoryStore(path)) as store:
        monkeypatch.setattr(file, "rebuild", broken)
        with pytest.raises(MemoryStoreError) as hopeless:
            steps(store)
        assert hopeless.value.reason == "store_corrupt"


def test_the_actor_goes_on_by_itself_and_http_says_it_in_words(path: str, known: object) -> None:
    async def post(memory: ThreadActor) -> tuple[int, dict[str, dict[str, str]]]:
        sent: list[dict[str, object]] = []

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": b'{"collection": "user_inputs", "query": "zebra"}'}

        async def send(event: object) -> None:
            sent.append(event)  # type: ignore[arg-type]

        await MemoryApi(memory)({"method": "POST", "path": PREFIX + "search"}, receive, send)
        return sent[0]["status"], json.loads(sent[1]["body"])  # type: ignore[return-value, arg-type]

    async def scenario() -> None:
        memory = memory_actor(path)
        # Both are in the mailbox before the actor has a moment for itself.
        asked = asyncio.gather(post(memory), memory.ask(Ingest(Draft("user_inputs", "a late zebra"))))
        await asyncio.sleep(0)
        memory.start()
        (status, body), ingested = await asked
        assert status == 503
        assert body["error"]["reason"] == "rebuilding"
        assert body["error"]["message"] == "The memory's index is being made anew, 0% of it is done."
        assert not ingested.duplicate
        while True:
            try:
                found = await memory.ask(ArtifactSearch("user_inputs", "late", 1))
                break
            except RebuildingError:
                continue
        assert [each.item.item_id for each in found] == [ingested.item_id]
        await memory.stop()

    asyncio.run(scenario())


def test_a_process_for_one_question_finishes_it(path: str, known: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{path}")
    asked = {"op": "search", "body": {"collection": "user_inputs", "query": "zebra", "k": 50}}
    found = command._answer(asked, io.BytesIO(), io.BytesIO())
    assert len(found) == 45
