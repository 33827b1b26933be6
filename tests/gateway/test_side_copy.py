from __future__ import annotations

import json

import pytest

from choir.gateway.body import SIDE_COPY
from choir.gateway.side_copy import SideCopy

LONG = "x" * (3 * SIDE_COPY)


@pytest.mark.parametrize("size", [1000, 70_000, 10 * SIDE_COPY])
@pytest.mark.parametrize(
    ("body", "model"),
    [
        ({"model": "first", "input": LONG}, "first"),
        ({"input": LONG, "model": "last"}, "last"),
        ({"input": [{"model": "nested"}, LONG[:200_000]], "model": "outer"}, "outer"),
        ({"input": LONG}, None),
        ({"model": "a\nb"}, "a?b"),
        ({}, None),
    ],
)
def test_finds_the_name_however_the_body_comes(body: dict[str, object], model: str | None, size: int) -> None:
    text = json.dumps(body).encode()
    copy = SideCopy()
    for at in range(0, len(text), size):
        copy.feed(text[at : at + size])
        assert sum(map(len, copy._pieces)) <= SIDE_COPY
    assert copy.finish() == model
