from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from choir.sandbox.actor import ThreadActor
from choir.sandbox.agent.events import CALL, RESULT
from choir.sandbox.agent.recollection import STEP_CHARACTERS, Recollection, told
from choir.sandbox.memory.model import MemoryStoreError, RebuildingError


def test_what_is_remembered_of_the_steps() -> None:
    steps = [
        (CALL, {"call": "1", "tool": "shell", "arguments": {"command": "ls"}}),
        (CALL, {"call": "2", "tool": "write_file", "arguments": {"path": "a", "content": "x" * 9999}}),
        (RESULT, {"call": "1", "text": "a b"}),
    ]
    assert told(steps) == ["shell: ls\na b", f"write_file: {('a ' + 'x' * 9999)[:STEP_CHARACTERS]}\n[stopped]"]


class Failing:
    """A memory that answers nothing but this."""

    def __init__(self, error: MemoryStoreError) -> None:
        self._error = error

    async def ask(self, message: Any) -> Any:
        raise self._error


def test_a_run_does_not_wait_for_a_memory_that_is_made_anew() -> None:
    memory = cast("ThreadActor", Failing(RebuildingError(0.25)))
    text, shown, without = asyncio.run(Recollection(lambda: memory).context("where is the zebra"))
    assert shown == []
    assert "25%" in without
    assert without in text


def test_a_memory_that_cannot_be_used_is_not_passed_over() -> None:
    memory = cast("ThreadActor", Failing(MemoryStoreError("store_corrupt", "It is damaged.")))
    with pytest.raises(MemoryStoreError):
        asyncio.run(Recollection(lambda: memory).context("where is the zebra"))
