from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.sandbox.agent import events
from choir.sandbox.agent.events import HISTORY_CHARACTERS, HISTORY_MESSAGES, Transcript, Turn, recent


def turn(role: str, content: str) -> Turn:
    return {"role": role, "content": content}


def fed(*happened: tuple[str, dict[str, str]]) -> Transcript:
    transcript = Transcript()
    for kind, data in happened:
        transcript.apply(kind, data)
    return transcript


def test_a_conversation_by_its_events() -> None:
    transcript = fed(
        (events.STARTED, {"run": "1", "prompt": "hello"}),
        (events.TEXT, {"run": "1", "text": "good "}),
        (events.CALL, {"run": "1", "call": "c", "tool": "shell"}),
        (events.TEXT, {"run": "1", "text": "day"}),
        (events.FINISHED, {"run": "1"}),
        (events.STARTED, {"run": "2", "prompt": "more"}),
        (events.TEXT, {"run": "of another time", "text": "lost"}),
        ("windows", {"run": "2"}),
    )
    assert transcript.unfinished() == ["2"]
    assert transcript.turns() == [turn("user", "hello"), turn("assistant", "good day"), turn("user", "more")]
    transcript.apply(events.CLEARED, {})
    assert transcript.turns() == []


@pytest.mark.parametrize(
    ("turns", "kept"),
    [
        ([turn("user", "a")], [turn("user", "a")]),
        ([turn("assistant", "x"), turn("user", "a")], [turn("user", "a")]),
        ([turn("user", "a"), turn("assistant", " "), turn("user", "b")], [turn("user", "a\n\nb")]),
        ([turn("user", "a" * HISTORY_CHARACTERS), turn("user", "b")], [turn("user", "b")]),
        ([turn("user", "a" * (HISTORY_CHARACTERS + 1))], []),
    ],
)
def test_recent(turns: list[Turn], kept: list[Turn]) -> None:
    assert recent(turns) == kept


@given(st.lists(st.tuples(st.sampled_from(("user", "assistant")), st.text(max_size=9))))
def test_recent_is_what_models_take(said: list[tuple[str, str]]) -> None:
    kept = recent([turn(role, content) for role, content in said] * 9)
    assert len(kept) <= HISTORY_MESSAGES
    assert [each["role"] for each in kept] == ["user", "assistant"] * (len(kept) // 2) + ["user"] * (len(kept) % 2)
    assert all(each["content"].strip() for each in kept)
