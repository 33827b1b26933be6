from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.gateway.body import Undecodable, strict_members
from choir.gateway.stream_usage import MAX_EVENT, UsageFilter, asking

from .test_body import NAMES, OBJECTS


def ask(body: bytes) -> bytes | None:
    return asking(body, strict_members(body))


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (b'{"stream":true}', b'{"stream_options":{"include_usage":true},"stream":true}'),
        (b' {\n "stream" : true }', b' {"stream_options":{"include_usage":true},\n "stream" : true }'),
        (b'{"stream":true,"stream_options":null}', b'{"stream":true,"stream_options":{"include_usage":true}}'),
        (b'{"stream_options": { },"stream":true}', b'{"stream_options": {"include_usage":true },"stream":true}'),
        (
            b'{"stream":true,"stream_options":{"a":{"include_usage":false}}}',
            b'{"stream":true,"stream_options":{"include_usage":true,"a":{"include_usage":false}}}',
        ),
        (
            b'{"stream":true,"stream_options":{"a":1, "include_usage": false}}',
            b'{"stream":true,"stream_options":{"a":1, "include_usage": true}}',
        ),
        (
            b'{"stream":true,"stream_options":{"include_usage":null}}',
            b'{"stream":true,"stream_options":{"include_usage":true}}',
        ),
        (b'{"stream":true,"stream_options":{"include_usage":true}}', None),
        (b'{"stream":true,"stream_options":{"include_\\u0075sage":true}}', None),
        (b'{"stream":true,"stream_options":"x"}', None),
        (b'{"stream":false}', None),
        (b'{"stream":1}', None),
        (b'{"text":"\\"stream\\":true"}', None),
        (b'{"inner":{"stream":true}}', None),
        (b"{}", None),
    ],
)  # fmt: skip
def test_asks_in_one_place(body: bytes, changed: bytes | None) -> None:
    assert ask(body) == changed


def test_options_with_two_meanings() -> None:
    with pytest.raises(Undecodable):
        ask(b'{"stream":true,"stream_options":{"include_usage":true,"include_usage":false}}')


@given(OBJECTS, st.sampled_from([None, 1]), st.none() | st.dictionaries(NAMES, st.integers(), max_size=2))
def test_asking_changes_nothing_else(value: dict[str, object], indent: int | None, options: dict[str, int]) -> None:
    value = {**value, "stream": True, "stream_options": options}
    body = json.dumps(value, indent=indent).encode()
    changed = ask(body)
    assert changed is not None
    assert json.loads(changed) == {**value, "stream_options": {**(options or {}), "include_usage": True}}


def event(text: str, end: str = "\n\n") -> bytes:
    return f"data: {text}{end}".encode()


USAGE = event('{"choices":[],"usage":{"prompt_tokens":1}}')
KEPT = [
    event('{"choices":[{"delta":{"content":"\\"usage\\""}}],"usage":null}'),
    event('{"choices":[],"usage":null}'),
    event('{"choices":[],"prompt_filter_results":[]}'),
    event('{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}'),
    event('{"choices":"usage","usage":{}}'),
    event('{"usage":{"prompt_tokens":1}}'),
    event("[DONE]", "\r\n\r\n"),
    event('{"error":{"message":"\\"usage\\""}}', "\n\r\n"),
    b": a comment\n\n",
    b"\n\n",
    event('{"choices":[],"usage":{"x":"' + "y" * MAX_EVENT + '"}}'),
    event("z" * (MAX_EVENT + 5)),
]
HIDDEN = [
    USAGE,
    USAGE.replace(b"\n", b"\r\n"),
    b": ping\nevent: message\n" + USAGE,
    b'data: {"choices":[],\ndata: "usage":{}}\n\n',
    b'data:{"usage" : {"a":1} , "choices" : [ ], "id":"x"}\n\n',
]


@given(
    st.lists(st.sampled_from([*((text, True) for text in KEPT), *((text, False) for text in HIDDEN)]), max_size=8),
    st.sampled_from([b"", b"data: cut", USAGE[:-2], USAGE[:-1], USAGE[:20]]),
    st.lists(st.integers(1, 200), min_size=1, max_size=20),
    st.booleans(),
)
def test_any_split_hides_the_same(events: list[tuple[bytes, bool]], tail: bytes, sizes: list[int], big: bool) -> None:
    stream = b"".join(text for text, _ in events) + tail
    expected = b"".join(text for text, kept in events if kept)
    expected += b"" if tail in (USAGE[:-2], USAGE[:-1]) else tail
    hide, out, at, turn = UsageFilter(), [], 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)] * (300 if big else 1)
        if turn > 400:
            size = len(stream)
        out.append(hide.feed(stream[at : at + size]))
        at, turn = at + size, turn + 1
    assert b"".join(out) + hide.finish() == expected


def test_whole_events_are_not_held() -> None:
    hide = UsageFilter()
    assert hide.feed(KEPT[0]) == KEPT[0]
    assert hide.feed(KEPT[0] + USAGE + KEPT[0][:5]) == KEPT[0]
    assert hide.feed(KEPT[0][5:]) == KEPT[0]


def test_an_event_too_long_to_hold_ends_where_it_ends() -> None:
    hide = UsageFilter()
    long = b"data: " + b"z" * MAX_EVENT
    assert hide.feed(long + b"\n\r") + hide.feed(b"\n" + USAGE + KEPT[1]) == long + b"\n\r\n" + KEPT[1]
