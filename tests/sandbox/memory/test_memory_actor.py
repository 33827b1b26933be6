from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from choir.errors import ChoirError
from choir.sandbox.actor import ActorError, Message, ThreadActor
from choir.sandbox.memory.actor import memory_actor
from choir.sandbox.memory.messages import (
    ArtifactContextPack,
    ArtifactExpand,
    ArtifactSearch,
    Check,
    Explain,
    Forget,
    GetContextSnapshot,
    GetStats,
    Ingest,
    IngestBatch,
)
from choir.sandbox.memory.model import Draft, MemoryStoreError


def run(path: str, scenario: object) -> None:
    async def main() -> None:
        actor = memory_actor(path)
        actor.start()
        try:
            await scenario(actor)  # type: ignore[operator]
        finally:
            await actor.stop()

    asyncio.run(main())


def test_each_message(path: str) -> None:
    async def scenario(memory: ThreadActor) -> None:
        one = await memory.ask(Ingest(Draft("user_inputs", "the zebra is in the kitchen", "a", "t")))
        two, again = await memory.ask(
            IngestBatch(
                [Draft("user_inputs", "feed it", "b", "t"), Draft("user_inputs", "the zebra is in the kitchen", "c")]
            )
        )
        assert (one.duplicate, two.duplicate, again.duplicate) == (False, False, True)
        found = await memory.ask(ArtifactSearch("user_inputs", "zebra kitchen", 1))
        assert [each.item.item_id for each in found] == [one.item_id]
        expanded = await memory.ask(ArtifactExpand([one.item_id], 1))
        assert expanded[0].occurrences[0].after[0].content == "feed it"
        assert (await memory.ask(GetContextSnapshot("zebra", 1)))[0].item.item_id == one.item_id
        assert "kitchen" in (await memory.ask(ArtifactContextPack("zebra", 100))).text
        assert (await memory.ask(Explain(one.item_id, "zebra"))).shares[0].term == "zebra"
        assert await memory.ask(Check()) == ""
        assert (await memory.ask(GetStats())).items["user_inputs"] == 2
        assert await memory.ask(Forget(item_ids=[one.item_id])) == 1
        assert await memory.ask(ArtifactSearch("user_inputs", "kitchen", 1)) == []

    run(path, scenario)


def test_errors_reach_the_caller(path: str) -> None:
    async def scenario(memory: ThreadActor) -> None:
        for message in (ArtifactSearch("nonsense", "x"), Explain("nothing", "x"), Message[int]()):
            with pytest.raises(MemoryStoreError):
                await memory.ask(message)
        assert memory.restarted == 0

    run(path, scenario)


def test_a_file_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "m.db").write_bytes(b"no database " * 500)

    async def scenario(memory: ThreadActor) -> None:
        with pytest.raises(ActorError, match="damaged") as refused:
            await memory.ask(GetStats())
        assert isinstance(refused.value, ChoirError)

    run(str(tmp_path / "m.db"), scenario)


def test_many_at_once(path: str) -> None:
    async def scenario(memory: ThreadActor) -> None:
        async def one(n: int) -> None:
            done = await memory.ask(Ingest(Draft("run_trajectories", f"step{n}x done")))
            found = await memory.ask(ArtifactSearch("run_trajectories", f"step{n}x", 1))
            assert found[0].item.item_id == done.item_id

        await asyncio.gather(*(one(n) for n in range(200)))

    run(path, scenario)


def test_importing_the_actor_is_light() -> None:
    """The sandbox's first process imports it; numpy and SQLite come with the thread."""
    code = "import sys, choir.sandbox.memory.actor; print({'numpy', 'sqlite3', 'snowballstemmer'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
