from __future__ import annotations

import asyncio
from typing import Any

import pytest

from choir.sandbox.agent_loop import AgentError, AgentLoop, Route, choose, recent, sentence

GATEWAY = "http://127.0.0.1:7070/provider/v1"


@pytest.mark.parametrize(
    ("environment", "route"),
    [
        ({"OPENAI_BASE_URL": f"{GATEWAY}/openai"}, Route("openai", "openai")),
        ({"ANTHROPIC_BASE_URL": f"{GATEWAY}/anthropic"}, Route("anthropic", "anthropic")),
        (
            {"OPENAI_BASE_URL": f"{GATEWAY}/groq/openai/v1", "ANTHROPIC_BASE_URL": f"{GATEWAY}/anthropic"},
            Route("openai", "groq"),
        ),
        (
            {"OPENAI_BASE_URL": f"{GATEWAY}/local/v1", "ANTHROPIC_BASE_URL": f"{GATEWAY}/anthropic"},
            Route("anthropic", "anthropic"),
        ),
        (
            {"OPENAI_BASE_URL": f"{GATEWAY}/local/v1", "ANTHROPIC_BASE_URL": f"{GATEWAY}/local"},
            Route("openai", "local"),
        ),
        ({"OPENAI_BASE_URL": "http://elsewhere/v1"}, Route("openai", "")),
    ],
)
def test_choose(environment: dict[str, str], route: Route) -> None:
    assert choose(environment) == route


def test_no_provider_is_a_sentence() -> None:
    async def ask() -> None:
        async for _ in AgentLoop({}).answer([{"role": "user", "content": "hi"}]):
            pass

    with pytest.raises(AgentError, match="No model is available"):
        asyncio.run(ask())


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("turns", "kept"),
    [
        ([turn("user", "a")], [turn("user", "a")]),
        ([turn("assistant", "x"), turn("user", "a")], [turn("user", "a")]),
        ([turn("user", "a"), turn("assistant", " "), turn("user", "b")], [turn("user", "a\n\nb")]),
        (
            [turn("user", "a"), turn("assistant", "x"), turn("user", "b")],
            [turn("user", "a"), turn("assistant", "x"), turn("user", "b")],
        ),
    ],
)
def test_recent(turns: list[dict[str, str]], kept: list[dict[str, str]]) -> None:
    assert recent(turns) == kept


def test_recent_is_bounded_and_begins_with_the_person() -> None:
    turns = [turn("user" if number % 2 else "assistant", str(number)) for number in range(500)]
    kept = recent(turns)
    assert kept[0]["role"] == "user"
    assert kept[-1]["content"] == "499"
    assert len(kept) <= 40


class RefusalError(Exception):
    def __init__(self, body: Any = None, status_code: int | None = None) -> None:
        self.body = body
        self.status_code = status_code


class APITimeoutError(Exception): ...


class APIConnectionError(Exception): ...


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RefusalError({"message": "Too many calls."}, 429), "Too many calls."),
        (RefusalError({"type": "error", "error": {"message": "No such model."}}, 404), "No such model."),
        (RefusalError("not json", 502), "status 502"),
        (RefusalError({"error": "odd"}, 500), "status 500"),
        (APITimeoutError(), "too long"),
        (APIConnectionError(), "does not answer"),
        (KeyError("x"), "KeyError"),
    ],
)
def test_sentence(error: Exception, words: str) -> None:
    assert words in sentence(error)
