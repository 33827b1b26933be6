from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from choir.paths import State
from choir.storage.registry import Registry


@pytest.fixture
def state() -> Iterator[State]:
    """A short path: a unix socket's has 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="choir-t-") as folder:
        yield State(Path(folder)).prepare()


@pytest.fixture
def registry(state: State) -> Iterator[Registry]:
    registry = Registry(state.registry)
    yield registry
    registry.close()
