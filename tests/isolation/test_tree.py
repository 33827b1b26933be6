"""Looking at a tree of processes from outside; its root is a process of this test."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from choir.isolation import tree

from .conftest import alive

PROGRAM = """
import os, sys, threading, time
held = bytearray(b"x" * 40 * 1024**2)
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
if os.fork() == 0:
    threading.Thread(target=os.fork).start()
    time.sleep(60)
os.write(1, b"up")
time.sleep(60)
"""


@pytest.fixture
def root() -> Iterator[int]:
    inner = [sys.executable, "-S", "-c", PROGRAM]
    outer = [sys.executable, "-S", "-c", "import subprocess, sys; subprocess.run(sys.argv[1:]); input()"]
    with subprocess.Popen(outer + inner, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(2) == b"up"
        yield process.pid
        for pid in tree.pids(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)


def grown(root: int, number: int) -> list[int]:
    found: list[int] = []
    while len(found) < number:
        found = tree.pids(root)
    return found


def test_everybody_is_found_also_children_of_threads(root: int) -> None:
    found = grown(root, 4)
    assert found[0] == root
    assert len(found) == 4
    assert tree.tasks(found) >= 5
    assert tree.pids(2**22 + 1) == [2**22 + 1]


def test_shared_memory_is_divided_when_it_matters(root: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "in_memory_files", lambda first: 0)
    found = grown(root, 4)
    bound = tree.memory(found, enough=2**40)
    exact = tree.memory(found, enough=0)
    assert bound > 100 * 1024**2  # three of them show the same 40 MB, give or take what a processor has not told yet
    assert 30 * 1024**2 < exact < 90 * 1024**2


def test_the_largest_is_killed(root: int) -> None:
    found = grown(root, 4)
    largest = max(found, key=tree.resident)
    tree.kill_largest(root)
    while alive(largest):
        pass
    assert root in tree.pids(root)


def test_unlinked(tmp_path: Path) -> None:
    device = tmp_path.stat().st_dev
    with open(tmp_path / "file", "wb") as file:
        file.write(os.urandom(100_000))
        file.flush()
        os.fsync(file.fileno())
        before = tree.unlinked([os.getpid()], {device})
        os.unlink(tmp_path / "file")
        again = os.dup(file.fileno())  # the same file once
        assert tree.unlinked([os.getpid()], {device}) - before == os.fstat(again).st_blocks * 512 > 0
        assert tree.unlinked([os.getpid()], set()) == 0
        os.close(again)
