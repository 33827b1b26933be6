from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from choir.sandbox.event_store import Event, EventLog, EventStore, EventStoreError

WRITER = """
import sys
from choir.sandbox.event_store import EventLog
log = EventLog(sys.argv[1])
while True:
    print(log.append([("n", {"n": log.last() + 1})])[0].sequence, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "new" / "state.db")


def test_order_and_replay(path: str) -> None:
    with contextlib.closing(EventLog(path)) as log:
        assert log.last() == 0
        log.append([("a", {"n": 1}), ("b", {"n": 2})])
        log.append([("c", {"text": "é 🎉\n"})], at=12.5)
    with contextlib.closing(EventLog(path)) as log:
        assert [(each.sequence, each.kind) for each in log.read()] == [(1, "a"), (2, "b"), (3, "c")]
        assert log.read(2) == [Event(3, 12.5, "c", {"text": "é 🎉\n"})]
        assert log.read(3) == []
        assert [each.sequence for each in log.read(0, 2)] == [1, 2]


@pytest.mark.parametrize("data", [{"x": object()}, {"x": float("nan")}, {"x": "y" * 1_000_001}, {"x": "\ud800"}])
def test_a_bad_event_is_refused_and_takes_the_others_with_it(path: str, data: dict[str, object]) -> None:
    with contextlib.closing(EventLog(path)) as log:
        with pytest.raises(EventStoreError) as refused:
            log.append([("fine", {}), ("bad", data)])
        assert refused.value.reason == "bad_event"
        assert log.read() == []
        assert log.append([("next", {})])[0].sequence == 1


def test_retention(path: str) -> None:
    with contextlib.closing(EventLog(path)) as log:
        for at in range(1, 11):
            log.append([("n", {})], at=float(at))
        assert log.trim(keep=6) == 4
        assert log.trim(before=7.0) == 2
        assert [each.sequence for each in log.read()] == [7, 8, 9, 10]
        assert [each.sequence for each in log.read(6)] == [7, 8, 9, 10]
        with pytest.raises(EventStoreError) as gone:
            log.read(5)
        assert gone.value.reason == "events_gone"
        assert log.trim(before=100.0) == 4
        assert log.append([("n", {})])[0].sequence == 11  # never given twice


def test_a_file_that_is_no_database(path: str, tmp_path: Path) -> None:
    (tmp_path / "bad.db").write_bytes(b"not a database, but long enough to be taken for one" * 100)
    with pytest.raises(EventStoreError) as bad:
        EventLog(str(tmp_path / "bad.db"))
    assert bad.value.reason == "events_unusable"


@settings(max_examples=30)
@given(st.lists(st.integers(0, 3), max_size=30), st.integers(0, 40))
def test_following_sees_each_event_once(tmp_path_factory: pytest.TempPathFactory, sizes: list[int], after: int) -> None:
    async def scenario() -> None:
        store = EventStore(str(tmp_path_factory.mktemp("events") / "e.db"))
        store.start()
        total = sum(sizes)
        start = min(after, total)
        seen: list[int] = []

        async def follow() -> None:
            if start == total:
                return
            async for event in store.follow(start):
                seen.append(event.sequence)
                if event.sequence == total:
                    return

        following = asyncio.ensure_future(follow())
        for size in sizes:
            await store.append_all([("n", {})] * size)
        await following
        assert seen == list(range(start + 1, total + 1))
        await store.stop()

    asyncio.run(scenario())


def test_stopping_ends_the_followers(path: str) -> None:
    async def scenario() -> None:
        store = EventStore(path)
        store.start()
        await store.append("n", {})
        first = asyncio.Event()

        async def follow() -> int:
            count = 0
            async for _ in store.follow():
                count += 1
                first.set()
            return count

        following = asyncio.ensure_future(follow())
        await first.wait()
        await store.stop()
        assert await following == 1

    asyncio.run(scenario())


def test_who_follows_too_late_is_told(path: str) -> None:
    async def scenario() -> None:
        store = EventStore(path)
        store.start()
        await store.append_all([("n", {"n": n}) for n in range(6)])
        assert await store.trim(keep=2) == 4
        with pytest.raises(EventStoreError) as gone:
            await anext(store.follow(1))
        assert gone.value.reason == "events_gone"
        assert (await anext(store.follow(4))).sequence == 5
        assert (await anext(store.follow())).sequence == 5  # from the beginning of what is kept
        await store.stop()

    asyncio.run(scenario())


def test_latest_of_a_kind(path: str) -> None:
    async def scenario() -> None:
        store = EventStore(path)
        store.start()
        await store.append_all([("a", {"n": 1}), ("b", {}), ("a", {"n": 2}), ("b", {})])
        found = await store.latest("a")
        assert found is not None
        assert (found.sequence, found.data) == (3, {"n": 2})
        assert await store.latest("c") is None
        assert await store.last() == 4
        await store.stop()

    asyncio.run(scenario())


def test_export_is_jsonl(path: str) -> None:
    async def scenario() -> None:
        store = EventStore(path)
        store.start()
        await store.append_all([("n", {"text": f"line\n{n}"}) for n in range(1200)])
        lines = [line async for line in store.export()]
        await store.stop()
        assert all("\n" not in line for line in lines)
        assert [json.loads(line)["sequence"] for line in lines] == list(range(1, 1201))
        assert json.loads(lines[7])["data"] == {"text": "line\n7"}

    asyncio.run(scenario())


def kill_while_writing(path: str, after: int) -> None:
    """Nothing acknowledged is lost, and no number is missing."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = 0
    for _ in range(after):
        acknowledged = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    rest = process.stdout.read().splitlines(keepends=True)
    acknowledged = max([acknowledged, *(int(line) for line in rest if line.endswith("\n"))])
    process.wait()
    process.stdout.close()
    with contextlib.closing(EventLog(path)) as log:
        assert log.last() >= acknowledged
        sequence, after_ = [], 0
        while page := log.read(after_):
            sequence += page
            after_ = page[-1].sequence
        assert [each.sequence for each in sequence] == list(range(1, log.last() + 1))
        assert all(each.data == {"n": each.sequence} for each in sequence)


def test_kill(path: str) -> None:
    for after in (1, 40, 7):
        kill_while_writing(path, after)


@pytest.mark.long
def test_kill_long(path: str) -> None:
    for after in range(100):
        kill_while_writing(path, 1 + after * 7 % 50)


def test_shares_its_file(path: str) -> None:
    with contextlib.closing(EventLog(path)) as log, contextlib.closing(sqlite3.connect(path)) as other:
        log.append([("n", {})])
        other.execute("CREATE TABLE other (x)")
        other.commit()
        assert log.append([("n", {})])[0].sequence == 2
