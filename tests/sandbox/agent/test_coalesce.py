from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from choir.sandbox.agent.coalesce import CHARACTERS, Coalescer
from choir.sandbox.agent.events import CALL, OUTPUT, RESULT, TEXT

PIECES = st.one_of(
    st.tuples(st.just(TEXT), st.fixed_dictionaries({"text": st.text(min_size=1, max_size=5)})),
    st.tuples(
        st.just(OUTPUT),
        st.fixed_dictionaries({"call": st.sampled_from("ab"), "text": st.text(min_size=1, max_size=5)}),
    ),
    st.tuples(st.sampled_from((CALL, RESULT)), st.fixed_dictionaries({"call": st.sampled_from("ab")})),
)


def passed(pieces: list[tuple[str, dict[str, Any]]], pause: float = 0.0) -> list[tuple[str, dict[str, Any]]]:
    written: list[tuple[str, dict[str, Any]]] = []

    async def append(kind: str, data: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        written.append((kind, data))

    async def main() -> None:
        coalescer = Coalescer(append)
        for kind, data in pieces:
            await coalescer.add(kind, dict(data))
            if pause:
                await asyncio.sleep(pause)
        await coalescer.flush()
        assert coalescer.text == "".join(data["text"] for kind, data in pieces if kind == TEXT)

    asyncio.run(main())
    return written


@given(st.lists(PIECES, max_size=12))
@settings(deadline=None)
def test_in_order_and_whole(pieces: list[tuple[str, dict[str, Any]]]) -> None:
    expected: list[tuple[str, dict[str, Any]]] = []
    for kind, data in pieces:
        if expected and "text" in data and (expected[-1][0], expected[-1][1].get("call")) == (kind, data.get("call")):
            expected[-1] = (kind, {**data, "text": expected[-1][1]["text"] + data["text"]})
        else:
            expected.append((kind, data))
    assert passed(pieces) == expected


def test_slow_pieces_are_not_held_back_and_much_text_neither() -> None:
    assert len(passed([(TEXT, {"text": "a"})] * 3, pause=0.1)) == 3
    assert len(passed([(TEXT, {"text": "a" * CHARACTERS})] * 3)) == 3
