from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.gateway.body import Undecodable, model_in_ends, model_of, printable, strict_members, strict_model

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=6), VALUES, max_size=6)


@given(OBJECTS, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_an_object_with_each_key_once_is_read(value: dict[str, object], plain: bool, indent: str | int | None) -> None:
    text = json.dumps(value, ensure_ascii=plain, indent=indent)
    assert {name: json.loads(raw) for name, raw in strict_members(text.encode()).items()} == value


@given(OBJECTS.filter(bool), VALUES, st.data())
def test_a_key_that_comes_twice_is_refused(value: dict[str, object], other: object, data: st.DataObject) -> None:
    twice = data.draw(st.sampled_from(sorted(value)))
    members = [(json.dumps(name), json.dumps(item)) for name, item in value.items()]
    spelled = data.draw(
        st.sampled_from([json.dumps(twice), '"' + "".join(f"\\u{ord(c):04x}" for c in twice if ord(c) < 65536) + '"'])
    )
    if json.loads(spelled) != twice:
        return
    members.insert(data.draw(st.integers(0, len(members))), (spelled, json.dumps(other)))
    with pytest.raises(Undecodable):
        strict_members(("{" + ", ".join(f"{name}: {item}" for name, item in members) + "}").encode())


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"1", b"{", b'{"a":1}x', b'{"a":1,}', b"\xff", b'{"a":NaN}', b'{"model":1}{"model":2}']
)
def test_what_is_not_one_object_is_refused(text: bytes) -> None:
    with pytest.raises(Undecodable):
        strict_members(text)


def test_models() -> None:
    assert strict_model(b'{"model": "a\\u002db"}') == "a-b"
    assert strict_model(b'{"model": 1}') is None
    assert strict_model(b"{}") is None
    assert model_of(b'{"x": {"model": "no"}, "model": "yes"}') == "yes"
    assert model_of(b'{"x": {"model": "no"}}') is None
    assert model_of(b'{"model": 1}') is None
    assert model_of(b'{"model": "cut') is None
    assert model_in_ends(b'{"model" : "head", ', b'"model":"tail"}') == "head"
    assert model_in_ends(b'{"text": "', b'"model":"x"}, "model":"tail"}') == "tail"
    assert model_in_ends(b"", b"") is None


def test_only_printable_ascii_gets_into_a_record() -> None:
    assert printable(None) is None
    assert printable("") is None
    assert printable("a\nb\x00é" + "x" * 200) == "a?b??" + "x" * 123
