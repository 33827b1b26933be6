from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from choir.sandbox import conversation as module
from choir.sandbox.agent_loop import AgentError, Turn
from choir.sandbox.conversation import Conversation, Messages, database_path


class Model:
    """Says what is put into ``pieces``; None ends the answer, an exception fails it."""

    def __init__(self) -> None:
        self.pieces: asyncio.Queue[str | Exception | None] = asyncio.Queue()
        self.turns: list[Turn] = []
        self.warmed = 0

    async def warm(self) -> None:
        self.warmed += 1

    async def answer(self, turns: list[Turn]) -> AsyncIterator[str]:
        self.turns = turns
        while (piece := await self.pieces.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            yield piece


def run(tmp_path: Path, test: Callable[[Conversation, Model], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        messages, model = Messages(str(tmp_path / "x" / "choir.db")), Model()
        conversation = Conversation(messages, model)
        try:
            await test(conversation, model)
        finally:
            await conversation.close()
            messages.close()

    asyncio.run(asyncio.wait_for(main(), 10))


def stored(tmp_path: Path) -> list[tuple[str, str, str, str]]:
    messages = Messages(str(tmp_path / "x" / "choir.db"))
    try:
        return [(each["role"], each["text"], each["state"], each["note"]) for each in messages.all()]
    finally:
        messages.close()


def test_a_prompt_is_answered_in_pieces_and_kept(tmp_path: Path) -> None:
    async def test(conversation: Conversation, model: Model) -> None:
        with conversation.follow() as (first, following):
            assert first == {"type": "history", "messages": [], "busy": False}
            conversation.prompt(" Hello ")
            assert [(await following())["message"]["role"] for _ in range(2)] == ["user", "assistant"]
            for piece in ("Hi", " there"):
                model.pieces.put_nowait(piece)
                assert (await following())["text"] == piece
            model.pieces.put_nowait(None)
            assert (await following())["state"] == "done"
        assert model.turns == [{"role": "user", "content": "Hello"}]

    run(tmp_path, test)
    assert stored(tmp_path) == [("user", "Hello", "done", ""), ("assistant", "Hi there", "done", "")]


def test_a_page_that_comes_later_sees_what_was_said_so_far(tmp_path: Path) -> None:
    async def test(conversation: Conversation, model: Model) -> None:
        with conversation.follow() as (_, following):
            conversation.prompt("Hello")
            model.pieces.put_nowait("Hi")
            while (await following())["type"] != "token":
                pass
        with conversation.follow() as (first, _):
            assert first["busy"]
            assert [each["text"] for each in first["messages"]] == ["Hello", "Hi"]

    run(tmp_path, test)


def test_stop_keeps_what_has_come(tmp_path: Path) -> None:
    async def test(conversation: Conversation, model: Model) -> None:
        with conversation.follow() as (_, following):
            conversation.prompt("Hello")
            model.pieces.put_nowait("Half")
            while (await following())["type"] != "token":
                pass
            conversation.stop()
            assert (await following())["state"] == "stopped"
            assert not conversation.busy
        conversation.stop()

    run(tmp_path, test)
    assert stored(tmp_path)[1] == ("assistant", "Half", "stopped", "")


def test_a_failure_is_kept_with_its_sentence(tmp_path: Path) -> None:
    async def test(conversation: Conversation, model: Model) -> None:
        with conversation.follow() as (_, following):
            conversation.prompt("Hello")
            model.pieces.put_nowait(AgentError("Too many calls."))
            while (event := await following())["type"] != "end":
                pass
            assert (event["state"], event["note"]) == ("failed", "Too many calls.")
            conversation.prompt("Again")
            model.pieces.put_nowait(None)

    run(tmp_path, test)
    assert stored(tmp_path)[1] == ("assistant", "", "failed", "Too many calls.")


def test_a_mistake_of_ours_ends_the_run_too(tmp_path: Path) -> None:
    async def test(conversation: Conversation, model: Model) -> None:
        with conversation.follow() as (_, following):
            conversation.prompt("Hello")
            model.pieces.put_nowait(KeyError("oops"))
            while (event := await following())["type"] != "end":
                pass
            assert event["state"] == "failed"
            assert "KeyError" in event["note"]

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("text", "words"), [("  ", "Type something"), ("x" * (module.MAX_PROMPT_CHARACTERS + 1), "longer")]
)
def test_refused_prompts(tmp_path: Path, text: str, words: str) -> None:
    async def test(conversation: Conversation, model: Model) -> None:
        with pytest.raises(AgentError, match=words):
            conversation.prompt(text)

    run(tmp_path, test)
    assert stored(tmp_path) == []


def test_one_run_at_a_time(tmp_path: Path) -> None:
    async def test(conversation: Conversation, model: Model) -> None:
        conversation.prompt("Hello")
        with pytest.raises(AgentError, match="not finished"):
            conversation.prompt("Again")

    run(tmp_path, test)


def test_clear_forgets_also_what_is_under_way(tmp_path: Path) -> None:
    async def test(conversation: Conversation, model: Model) -> None:
        with conversation.follow() as (_, following):
            conversation.prompt("Hello")
            await following()
            await following()
            conversation.clear()
            assert (await following())["type"] == "cleared"

    run(tmp_path, test)
    assert stored(tmp_path) == []


def test_what_was_under_way_when_the_sandbox_ended_is_stopped(tmp_path: Path) -> None:
    messages = Messages(str(tmp_path / "x" / "choir.db"))
    messages.add("assistant", "Ha", "running")
    messages.close()
    assert stored(tmp_path) == [("assistant", "Ha", "stopped", "")]


def test_a_follower_that_does_not_read_is_told_to_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOLLOWER_BACKLOG", 4)

    async def test(conversation: Conversation, model: Model) -> None:
        with conversation.follow() as (_, following):
            conversation.prompt("Hello")
            for _ in range(10):
                model.pieces.put_nowait("x")
            model.pieces.put_nowait(None)
            while conversation.busy:
                await asyncio.sleep(0)
            assert (await following())["type"] == "behind"

    run(tmp_path, test)


def test_warming_happens_once(tmp_path: Path) -> None:
    async def test(conversation: Conversation, model: Model) -> None:
        conversation.warm()
        conversation.warm()
        await asyncio.sleep(0)
        assert model.warmed == 1

    run(tmp_path, test)


def test_database_path() -> None:
    assert database_path("sqlite:////home/choir/.choir/choir.db") == "/home/choir/.choir/choir.db"
    for wrong in ("sqlite:///relative.db", "postgresql://x/y", ""):
        with pytest.raises(ValueError, match="DATABASE_URL"):
            database_path(wrong)
