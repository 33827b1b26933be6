"""What ``choir memory import`` takes; the command in its sandbox is asked in ``tests/integration/test_memory.py``."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from choir.sandbox.memory.command import take
from choir.sandbox.memory.model import MemoryStoreError
from choir.sandbox.memory.store import MemoryStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    with contextlib.closing(MemoryStore(tmp_path / "memory.db")) as made:
        yield made


def test_what_was_exported_is_taken(store: MemoryStore, tmp_path: Path) -> None:
    line = b'{"collection": "user_inputs", "content": "tea", "source_ref": "notes", "thread": "t", "created_at": 1.0}\n'
    assert take(store, io.BytesIO(line + b"\n")) == {"inserted": 1, "duplicates": 0}
    exported = b"".join(msgspec.json.encode(row) + b"\n" for row in store.export())
    with contextlib.closing(MemoryStore(tmp_path / "other.db")) as other:
        assert take(other, io.BytesIO(exported)) == {"inserted": 1, "duplicates": 0}
        (row,) = other.export()
    assert (row["content"], row["source_ref"], row["created_at"]) == ("tea", "notes", 1.0)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b'{"collection": "user_inputs", "content": "x", "source": "notes"}', "unknown field `source`"),
        (b'{"collection": "user_inputs"}', "missing required field `content`"),
        (b"[]", "Expected `object`"),
        (b"{", "truncated"),
    ],
)
def test_a_line_that_is_wrong_is_named(store: MemoryStore, line: bytes, what: str) -> None:
    with pytest.raises(MemoryStoreError) as caught:
        take(store, io.BytesIO(b'{"collection": "user_inputs", "content": "fine"}\n' + line + b"\n"))
    assert caught.value.reason == "bad_line"
    assert caught.value.message.startswith("Line 2 ")
    assert what in caught.value.message
    assert "source_ref" in caught.value.hint
    assert list(store.export()) == []
