"""The agent loop: the real service, warm process, runs and tools, against a model double on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from choir.sandbox.actor import ThreadActor
from choir.sandbox.agent import events, separation
from choir.sandbox.agent.events import AgentError
from choir.sandbox.agent.recollection import Recollection
from choir.sandbox.agent.service import TOOLS, AgentService
from choir.sandbox.agent.tree import descendants
from choir.sandbox.event_store import Event, EventStore
from choir.sandbox.memory.actor import memory_actor

from .model_double import ModelDouble

needs_landlock = pytest.mark.skipif(not separation.available(), reason="this kernel has no Landlock")


@dataclass
class World:
    """One sandbox's services, kept for all tests of this module: a warm process takes seconds to load."""

    home: Path
    runner: asyncio.Runner = field(default_factory=asyncio.Runner)
    double: ModelDouble = field(default_factory=ModelDouble)

    def run(self, test: Coroutine[Any, Any, None]) -> None:
        self.runner.run(asyncio.wait_for(test, 40))

    async def open(self) -> None:
        await self.double.start()
        await self.begin()

    async def begin(self) -> None:
        database = str(self.home / ".choir" / "choir.db")
        self.store = EventStore(database)
        self.store.start()
        self.memory: ThreadActor = memory_actor(database)
        self.memory.start()
        providers = [
            {"name": "openai", "speaks": ["openai"], "path": "", "models": ["m"]},
            {"name": "anthropic", "speaks": ["anthropic"], "path": "", "models": []},
            {"name": "google", "speaks": ["google"], "path": "", "models": []},
            {"name": "mistral", "speaks": ["openai"], "path": "/v1", "models": []},
            {"name": "local", "speaks": ["openai", "anthropic"], "path": "/v1", "models": []},
            {"name": "tavily", "speaks": ["search"], "path": "", "models": []},
        ]
        environment = {
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "CHOIR_PROVIDERS": json.dumps(providers),
            "CHOIR_PROVIDER_GATEWAY_BASE_URL": self.double.origin,
            "CHOIR_PROVIDER_GATEWAY_TOKEN": "the-token",
        }
        self.agent = AgentService(self.store, Recollection(lambda: self.memory), environment, str(self.home / ".choir"))

    async def end(self) -> None:
        await self.agent.close()
        await self.memory.stop()
        await self.store.stop()

    async def close(self) -> None:
        await self.end()
        await self.double.close()

    async def prompt(self, text: str, model: str = "") -> list[Event]:
        """The events of a whole run."""
        return await self.rest(await self.agent.prompt(text, model))

    async def rest(self, run: str) -> list[Event]:
        found = []
        async for event in self.agent.subscribe():
            if event.data.get("run") == run:
                found.append(event)
                if event.kind in events.ENDS:
                    break
        return found

    async def until(self, run: str, kind: str) -> Event:
        async for event in self.agent.subscribe():
            if event.data.get("run") == run and event.kind == kind:
                return event
        raise AssertionError("the store stopped")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="choir-agent-") as name:
        made = World(Path(name))
        made.run(made.open())
        yield made
        made.run(made.close())
        made.runner.close()


def kinds(found: list[Event]) -> list[str]:
    return [event.kind for event in found]


def text(found: list[Event], kind: str = events.TEXT) -> str:
    return "".join(event.data["text"] for event in found if event.kind == kind)


def test_a_plain_answer_is_events_and_is_remembered(world: World) -> None:
    async def test() -> None:
        found = await world.prompt("hello zanzibar")
        assert kinds(found)[0] == events.STARTED
        assert set(kinds(found)[1:-2]) == {events.TEXT}
        assert kinds(found)[-2:] == [events.USAGE, events.FINISHED]
        assert text(found) == "you said hello zanzibar "
        assert found[0].data["model"] == "openai/m"
        assert found[0].data["tools"] == [*TOOLS, "search_web"]
        assert found[-2].data["input_tokens"] == 7
        assert found[-2].data["output_tokens"] == 3
        assert world.double.headers[-1]["Authorization"] == "Bearer the-token"
        again = await world.prompt("what about zanzibar?")
        assert len(again[0].data["context"]) >= 1, "what was said before is shown"
        system, *turns = world.double.asked[-1]["messages"]
        assert "hello zanzibar" in system["content"]
        assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
        await world.agent.clear()
        await world.prompt("afresh")
        assert [turn["role"] for turn in world.double.asked[-1]["messages"]] == ["system", "user"]

    world.run(test())


def test_the_tools(world: World) -> None:
    async def test() -> None:
        found = await world.prompt("sh:echo from $PWD; touch made; exit 3")
        call, result = (next(e for e in found if e.kind == kind) for kind in (events.CALL, events.RESULT))
        assert call.data["tool"] == "shell"
        assert call.data["arguments"] == {"command": "echo from $PWD; touch made; exit 3"}
        assert text(found, events.OUTPUT) == f"from {world.home}/work\n"
        assert result.data["text"] == f"from {world.home}/work\n\n[exit code 3]"
        assert result.data["call"] == call.data["call"]
        assert (world.home / "work" / "made").exists()
        assert {tool["function"]["name"] for tool in world.double.asked[-1]["tools"]} == {*TOOLS, "search_web"}

        async def result_of(prompt: str) -> tuple[bool, str]:
            found = await world.prompt(prompt)
            (made,) = (event for event in found if event.kind == events.RESULT)
            assert found[-1].kind == events.FINISHED
            return made.data["ok"], made.data["text"]

        assert await result_of('call:write_file {"path": "a/b.txt", "content": "one\\ntwo\\n"}') == (
            True,
            "Wrote 8 bytes to a/b.txt.",
        )
        assert await result_of('call:edit_file {"path": "a/b.txt", "old": "two", "new": "three"}') == (
            True,
            "Changed a/b.txt.",
        )
        assert await result_of('call:read_file {"path": "a/b.txt"}') == (True, "one\nthree\n")
        assert (await result_of('call:list_files {"path": "a"}'))[1] == "b.txt  10 bytes"
        assert not (await result_of('call:read_file {"path": "/etc/passwd"}'))[0]
        assert "zanzibar" in (await result_of('call:search_memory {"query": "zanzibar"}'))[1]
        assert "They sing." in (await result_of('call:search_web {"query": "choirs"}'))[1]

    world.run(test())


@needs_landlock
def test_commands_are_kept_from_the_state_and_the_service(world: World) -> None:
    async def test() -> None:
        me = os.getpid()
        state = world.home / ".choir"
        commands = [
            f"cat {state}/choir.db",
            f"echo x > {state}/planted",
            f"rm {state}/choir.db",
            f"mv {state} {world.home}/elsewhere",
            f"ln {state}/choir.db stolen",
            f"kill -0 {me}",
            f"echo x > /proc/{me}/mem",
            f"cat /proc/{me}/root{state}/choir.db",
        ]
        script = "; ".join(f"if ({each}) >/dev/null 2>&1; then echo 'DONE: {each}'; fi" for each in commands)
        found = await world.prompt(f"sh:{script}; echo end; cat {state}/../work/made && echo works")
        assert found[0].data["separated"] is True
        assert "DONE" not in text(found, events.OUTPUT)
        assert text(found, events.OUTPUT).split() == ["end", "works"]
        assert not (state / "planted").exists()

    world.run(test())


def test_stop_means_stop(world: World) -> None:
    async def test() -> None:
        run = await world.agent.prompt("sh:echo $$; (setsid sh -c 'echo $$; exec sleep 1000' &); sleep 1001")
        shown = ""
        while len(shown.split()) < 2:
            async for event in world.agent.subscribe():
                if event.data.get("run") == run and event.kind == events.OUTPUT:
                    shown = text([e async for e in _now(world, run)], events.OUTPUT)
                    break
        assert world.agent.busy
        below = descendants(os.getpid())
        assert len(below) >= 4
        sleepers = [pid for pid in below if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep\x00100")]
        assert len(sleepers) == 2
        await world.agent.stop()
        assert not world.agent.busy
        assert not any(_lives(pid) for pid in sleepers)
        found = await world.rest(run)
        assert kinds(found)[-1] == events.STOPPED
        assert found[-1].data["by"] == "person"

        run = await world.agent.prompt("hang")
        await world.until(run, events.TEXT)
        assert world.double.open == 1
        await world.agent.stop()
        while world.double.open:
            await asyncio.sleep(0.01)
        assert text(await world.rest(run)) == "well"
        assert kinds(await world.prompt("and on it goes"))[-1] == events.FINISHED

    world.run(test())


async def _now(world: World, run: str) -> Any:
    for event in await world.store.read(0, 10_000):
        if event.data.get("run") == run:
            yield event


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_what_a_run_leaves_running_ends_with_it(world: World) -> None:
    async def test() -> None:
        found = await world.prompt("sh:(setsid sleep 1002 >/dev/null 2>&1 &) ; echo left")
        assert found[-1].kind == events.FINISHED
        names = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in descendants(os.getpid())]
        assert not any(name.startswith(b"sleep\x001002") for name in names)

    world.run(test())


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (429, "usd_per_day", "used up for today"),
        (402, "usd_per_month", "used up for this month"),
        (403, "bound_required", "it must say how much"),
    ],
)
def test_refusals_are_sentences(world: World, status: int, reason: str, words: str) -> None:
    async def test() -> None:
        error = {"type": "x", "reason": reason, "message": "Choir's gateway refused this call: it must say how much."}
        found = await world.prompt(f"refuse:{status} {json.dumps({'error': error})}")
        assert found[-1].kind == events.FAILED
        assert found[-1].data["reason"] == reason
        assert words in found[-1].data["message"]
        assert "Choir's gateway" in found[-1].data["message"]

    world.run(test())


@pytest.mark.parametrize(
    ("model", "answer"),
    [("anthropic", "Bonjour"), ("google/gemini-2.5-flash", "Grüezi"), ("mistral", "you said salut ")],
)
def test_each_family(world: World, model: str, answer: str) -> None:
    async def test() -> None:
        found = await world.prompt("salut", model)
        assert text(found) == answer, found[-1]
        assert ("stream_options" in world.double.asked[-1]) is False

    world.run(test())


def test_the_little_one_is_plain_chat(world: World) -> None:
    async def test() -> None:
        found = await world.prompt("hello", "local")
        assert found[0].data["tools"] == found[0].data["context"] == []
        asked = world.double.asked[-1]
        assert "tools" not in asked
        assert asked["messages"][-1] == {"role": "user", "content": "hello"}
        assert all(message["role"] != "system" for message in asked["messages"])

    world.run(test())


def test_what_is_not_taken(world: World) -> None:
    async def test() -> None:
        for wrong, reason in ((" ", "empty_prompt"), ("x" * 200_001, "prompt_too_long")):
            with pytest.raises(AgentError) as caught:
                await world.agent.prompt(wrong)
            assert caught.value.reason == reason
        run = await world.agent.prompt("hang")
        with pytest.raises(AgentError, match="not finished yet"):
            await world.agent.prompt("another")
        await world.until(run, events.TEXT)
        await world.agent.stop()

    world.run(test())


def test_a_warm_process_that_died_is_replaced(world: World) -> None:
    async def test() -> None:
        process = world.agent._worker._process
        assert process is not None
        run = await world.agent.prompt("hang")
        await world.until(run, events.TEXT)
        os.kill(process.pid, signal.SIGKILL)
        found = await world.rest(run)
        assert found[-1].kind == events.FAILED
        assert found[-1].data["reason"] == "run_died"
        assert (await world.prompt("again"))[-1].kind == events.FINISHED

    world.run(test())


def test_a_sandbox_that_ends_stops_its_run_and_the_next_one_goes_on(world: World) -> None:
    async def test() -> None:
        run = await world.agent.prompt("hang")
        await world.until(run, events.TEXT)
        await world.end()
        await world.begin()
        found = await world.rest(run)
        assert found[-1].data == {"run": run, "by": "restart"}
        # One that was killed wrote no end.
        await world.store.append(events.STARTED, {"run": "lost", "prompt": "never answered", "model": "m"})
        await world.end()
        await world.begin()
        assert (await world.rest("lost"))[-1].data["by"] == "restart"
        await world.prompt("do you remember?")
        said = [message["content"] for message in world.double.asked[-1]["messages"]]
        assert any("never answered" in str(each) for each in said)
        sequences = [event.sequence for event in await world.store.read(0, 10_000)]
        half = sequences[len(sequences) // 2]
        async for event in world.agent.subscribe(half):
            assert event.sequence == half + 1
            break

    world.run(test())
