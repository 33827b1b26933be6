from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.gateway.body import (
    Undecodable,
    inflated,
    model_in_ends,
    model_of,
    printable,
    strict_members,
    strict_spans,
    strict_value,
    string,
)
from choir.gateway.names import READ, folded

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_FOLDED = {folded(name) for name in READ}
NAMES = st.text(max_size=6).filter(lambda name: name in READ or folded(name) not in _FOLDED)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=6)


@given(OBJECTS, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_an_object_with_each_key_once_is_read(value: dict[str, object], plain: bool, indent: str | int | None) -> None:
    text = json.dumps(value, ensure_ascii=plain, indent=indent)
    assert {name: json.loads(bytes(raw)) for name, raw in strict_members(text.encode()).items()} == value


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
    "text",
    [
        *(b"", b"[]", b"1", b"{", b'{"a":1}x', b'{"a":1,}', b"\xff", b'{"a":NaN}', b'{"model":1}{"model":2}'),
        b'{"a":1,"b":2,"a":1,"b":2,"a\\":1,\\"b":2}',
        *(b'{"\\ud800":1}', b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'\xef\xbb\xbf{"a":1}'),
    ],
)
def test_what_is_not_one_object_is_refused(text: bytes) -> None:
    with pytest.raises(Undecodable):
        strict_members(text)


def test_models() -> None:
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


@given(OBJECTS, st.sampled_from([None, 1]))
def test_spans_are_where_the_values_are(value: dict[str, object], indent: int | None) -> None:
    text = json.dumps(value, indent=indent).encode()
    assert {name: json.loads(text[start:end]) for name, (start, end) in strict_spans(text).items()} == value


KEYS = st.sampled_from(
    ['"a"', '"b"', '"\\u0061"', '"a\\n"', '""', '"\u00e9"', '"\\u00e9"', '"a\\"b"', '"{"', '"a":1,"b"', " "]
)
ITEMS = st.sampled_from(["1", '"x"', '"\\u0061"', '{"a":1,"a":2}', "[1, 2]", "null", "1e5", "tru", '"', "{", ""])
SPACES = st.sampled_from(["", "", "", " ", "\n"])


@given(st.lists(st.tuples(KEYS, ITEMS), max_size=4), st.lists(SPACES, min_size=3, max_size=3), st.booleans())
def test_the_quick_look_at_a_body_sees_what_the_walk_sees(
    members: list[tuple[str, str]], spaces: list[str], whole: bool
) -> None:
    before, after, outside = spaces
    text = ",".join(f"{before}{key}{after}:{before}{item}{after}" for key, item in members)
    body = f"{outside}{{{text}{'}' if whole else ''}{outside}".encode()

    def read(look: Callable[[bytes], Any]) -> Any:
        try:
            return look(body)
        except Undecodable:
            return Undecodable

    quick = read(lambda text: {name: bytes(raw) for name, raw in strict_members(text).items()})
    walked = read(lambda text: {name: text[start:end] for name, (start, end) in strict_spans(text).items()})
    assert quick == walked
    if quick is not Undecodable:
        pairs = json.loads(body, object_pairs_hook=list)
        assert [name for name, _ in pairs] == list(quick), "no key was dropped"


@given(VALUES)
def test_a_strict_value(value: object) -> None:
    assert strict_value(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    "text", [b'[{"a":1,"a":2}]', b'{"a":{"b":1,"\\u0062":1}}', b"[NaN]", b"[", b"\xff", b"[" * 100_000]
)
def test_a_value_with_two_meanings(text: bytes) -> None:
    with pytest.raises(Undecodable):
        strict_value(text)


def test_strings() -> None:
    assert string(b'"a\\u002db"') == "a-b"
    assert string(b"1") is None
    with pytest.raises(Undecodable):
        string(b'"\xff"')


def test_inflates_what_it_can() -> None:
    plain = b'{"model":"m"}' * 100
    assert inflated(plain, b"", 10) == plain
    assert inflated(gzip.compress(plain), b"gzip", 5000) == plain
    assert inflated(zlib.compress(plain), b"deflate", 5000) == plain
    whole = gzip.compress(plain)
    for body, coding, limit in (
        (plain, b"gzip", 5000),
        (plain, b"br", 5000),
        (whole, b"gzip", 100),
        (whole[:-9], b"gzip", 5000),
        (whole + whole, b"gzip", 5000),
        (whole + b"x", b"gzip", 5000),
        (whole, b"gzip, gzip", 5000),
    ):
        with pytest.raises(Undecodable):
            inflated(body, coding, limit)


def test_no_model_in_what_is_nested_too_deeply() -> None:
    assert model_of(b'{"model":"m","x":' + b"[" * 5000 + b"]" * 5000 + b"}") is None
