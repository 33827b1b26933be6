from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from choir.sandbox.memory import compaction, index
from choir.sandbox.memory.store import MemoryStore


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "memory.db")


@pytest.fixture
def store(path: str) -> Iterator[MemoryStore]:
    with contextlib.closing(MemoryStore(path)) as opened:
        yield opened


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few documents make a segment and a page that tens of items see every stage of the index."""
    monkeypatch.setattr(index, "SEGMENT", 4)
    monkeypatch.setattr(index, "JOINED", 2)
    monkeypatch.setattr(index, "CAPACITY", 16)
    monkeypatch.setattr(index, "STEPS", 4)
    monkeypatch.setattr(compaction, "STEPS", 2)
