"""Several processes at once, and processes that are killed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from choir.sandbox.event_store import EventLog
from choir.sandbox.memory.model import Draft
from choir.sandbox.memory.store import MemoryStore

# Small pages and large steps, so that a kill may hit a flush, a merge or a compaction; repeats, so that it may hit an
# occurrence.
WRITER = """
import sys
from choir.sandbox.memory import compaction, index, store
from choir.sandbox.memory.model import Draft
index.SEGMENT, index.CAPACITY, index.STEPS, compaction.STEPS, store.MERGE_EVERY = 8, 64, 8, 4, 1
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
memory = store.MemoryStore(path)
for n in range(count):
    done = memory.ingest([Draft("user_inputs", f"writer {name} says word{name}x{n - n % 7}", f"{name}/{n}", name)])[0]
    print(n, done.item_id, flush=True)
memory.close()
"""
READER = """
import os, sys
from choir.sandbox.memory import index, store
index.SEGMENT, index.CAPACITY = 8, 64
memory = store.MemoryStore(sys.argv[1])
rounds, seen, done = 0, 0, False
while not done:
    done = os.path.exists(sys.argv[1] + ".stop")  # then one more look
    found = len(memory.search("user_inputs", "writer says", 1000))
    assert found >= min(seen, 100), (found, seen)
    seen, rounds = found, rounds + 1
memory.close()
print(rounds, seen)
"""


@pytest.fixture(autouse=True)
def _as_the_writers(monkeypatch: pytest.MonkeyPatch) -> None:
    from choir.sandbox.memory import compaction, index

    monkeypatch.setattr(index, "SEGMENT", 8)
    monkeypatch.setattr(index, "CAPACITY", 64)
    monkeypatch.setattr(index, "STEPS", 8)
    monkeypatch.setattr(compaction, "STEPS", 4)


def writer(path: str, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WRITER, path, name, str(count)], stdout=subprocess.PIPE, text=True)


def acknowledged(process: subprocess.Popen[str]) -> list[tuple[int, str]]:
    assert process.stdout is not None
    with process.stdout:
        lines = process.stdout.read().splitlines(keepends=True)
    process.wait()
    return [(int(line.split()[0]), line.split()[1]) for line in lines if line.endswith("\n")]


def holds(path: str, written: dict[str, list[tuple[int, str]]]) -> None:
    """All that was acknowledged is there once, and the index is what a rebuild makes."""
    with contextlib.closing(MemoryStore(path)) as store:
        assert store.check() == ""
        lines = {line["source_ref"]: line for line in store.export()}
        for name, done in written.items():
            for n, item_id in done:
                assert lines[f"{name}/{n}"]["item_id"] == item_id
                assert lines[f"{name}/{n}"]["content"] == f"writer {name} says word{name}x{n - n % 7}"
            if done:
                last = done[-1][0]
                found = store.search("user_inputs", f"word{name}x{last - last % 7}", 1)
                assert found[0].item.item_id == done[-1][1]
        incremental = store.dump()
        store.rebuild()
        assert store.dump() == incremental


def test_three_writers_and_two_readers(path: str) -> None:
    MemoryStore(path).close()
    readers = [
        subprocess.Popen([sys.executable, "-c", READER, path], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    writers = {name: writer(path, name, 150) for name in "abc"}
    written = {name: acknowledged(process) for name, process in writers.items()}
    for process in writers.values():
        assert process.returncode == 0
    Path(path + ".stop").touch()
    for reader in readers:
        output, _ = reader.communicate()
        assert reader.returncode == 0
        rounds, seen = map(int, output.split())
        assert rounds >= 1
        assert seen >= 60  # 22 different contents from each of three
    assert all([n for n, _ in done] == list(range(150)) for done in written.values())
    holds(path, written)
    with contextlib.closing(MemoryStore(path)) as store:  # each writer's thread is in its own order
        for name, done in written.items():
            before = store.expand([done[-1][1]], 1)[0].occurrences[0].before[0]
            last_block = 149 - 149 % 7
            assert before.content == f"writer {name} says word{name}x{last_block - 7}"


def kill_loop(path: str, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    written: dict[str, list[tuple[int, str]]] = {}
    for number in range(rounds):
        name = f"k{number}"
        process = writer(path, name, 100_000)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(chance.randint(1, 120))]
        os.kill(process.pid, signal.SIGKILL)
        rest = acknowledged(process)
        written[name] = [(int(line.split()[0]), line.split()[1]) for line in lines] + rest
        holds(path, {name: written[name]})
    holds(path, written)


def test_kill(path: str) -> None:
    kill_loop(path, 5, seed=1)


@pytest.mark.long
def test_kill_long(tmp_path: Path) -> None:
    for number in range(10):
        kill_loop(str(tmp_path / f"{number}.db"), 10, seed=number)


def test_others_see_what_comes_after_they_closed(path: str) -> None:
    """Beside an event store and an export in this process, which open the same file."""
    code = (
        "import sys; from choir.sandbox.memory.store import MemoryStore\n"
        "s = MemoryStore(sys.argv[1]); print(s.stats().items['user_inputs']); s.close()"
    )
    with contextlib.closing(MemoryStore(path)) as store, contextlib.closing(EventLog(path)):
        for number in (1, 2):
            store.ingest([Draft("user_inputs", f"zebra {number}")])
            assert len(list(store.export())) == number
            assert subprocess.check_output([sys.executable, "-c", code, path], text=True) == f"{number}\n"
