from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir import plain_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_says_and_reads_what_json_does(value: Any) -> None:
    text = plain_json.dumps(value)
    assert text == json.dumps(value, separators=(",", ":"))
    assert plain_json.loads(text) == json.loads(text) == plain_json.loads(f" {text}\n".encode())


@pytest.mark.parametrize(
    "text",
    ["", " ", "no", "nul", "NaN", "-Infinity", "{", '"text', "[1,]", '{"a":1,}', "[1] 2", "01", '"\t"', b"\xff", b"\0"],
)
def test_garbage_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - as json raises
        plain_json.loads(text)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}, b"x"])
def test_what_json_has_not_is_refused(value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        plain_json.dumps([value])
