from __future__ import annotations

import base64
import gzip
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.gateway.dialects import Counts, Scanner, whole_counts


def counts(scanner: Scanner) -> tuple[int | None, int | None, int | None]:
    return told(scanner.finish())


def told(found: Counts) -> tuple[int | None, int | None, int | None]:
    return found.input, found.output, found.cached


def sse(*events: object) -> bytes:
    return b"".join(b"event: x\ndata: " + json.dumps(event).encode() + b"\n\n" for event in events)


JSON, SSE, FRAMES = b"application/json; charset=utf-8", b"text/event-stream", b"application/vnd.amazon.eventstream"
OPENAI = {"prompt_tokens": 20, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 8}}
RESPONSES = {"input_tokens": 20, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 8}}
ANTHROPIC = {"input_tokens": 10, "cache_read_input_tokens": 8, "cache_creation_input_tokens": 2, "output_tokens": 5}
GOOGLE = {"promptTokenCount": 20, "candidatesTokenCount": 3, "thoughtsTokenCount": 2, "cachedContentTokenCount": 8}
CONVERSE = {"inputTokens": 12, "outputTokens": 5, "cacheReadInputTokens": 8}
METRICS = {"amazon-bedrock-invocationMetrics": {"inputTokenCount": 20, "outputTokenCount": 5}}

CASES = {
    "openai chat": (JSON, json.dumps({"choices": [{"text": '"usage":{"prompt_tokens":1}'}], "usage": OPENAI}).encode()),
    "openai chat stream": (
        SSE,
        sse({"choices": [], "usage": None}, {"choices": [], "usage": OPENAI}) + b"data: [DONE]\n\n",
    ),
    "openai responses": (JSON, json.dumps({"usage": RESPONSES, "output": []}).encode()),
    "openai responses stream": (SSE, sse({"type": "response.completed", "response": {"usage": RESPONSES}})),
    "openai embeddings": (JSON, json.dumps({"data": [0.1] * 60_000, "usage": {**OPENAI}}).encode()),
    "anthropic": (
        JSON,
        json.dumps({"content": [{"input": {"usage": {"input_tokens": 1}}}], "usage": ANTHROPIC}).encode(),
    ),
    "anthropic stream": (
        SSE,
        sse(
            {"type": "message_start", "message": {"usage": {**ANTHROPIC, "output_tokens": 1}}},
            {"type": "message_delta", "usage": {"output_tokens": 5}},
        ),
    ),
    "google": (JSON, json.dumps({"candidates": [], "usageMetadata": GOOGLE}).encode()),
    "google stream": (
        SSE,
        sse({"usageMetadata": {"promptTokenCount": 20}}, {"usageMetadata": GOOGLE}).replace(b"\n", b"\r\n"),
    ),
    "google stream as a list": (
        JSON,
        json.dumps([{"usageMetadata": {"promptTokenCount": 20}}, {"usageMetadata": GOOGLE}]).encode(),
    ),
    "bedrock converse": (JSON, json.dumps({"output": {}, "usage": CONVERSE}).encode()),
    "bedrock converse stream": (
        FRAMES,
        b"\x00\x00\x00\xff:event-type\x07\x00\x08metadata" + json.dumps({"usage": CONVERSE}).encode() + b"\x12\x34",
    ),
    "bedrock invoke stream": (
        FRAMES,
        b"\x00\x01" + json.dumps({"bytes": base64.b64encode(json.dumps(METRICS).encode()).decode()}).encode() + b"\x02",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_counts(name: str) -> None:
    content_type, data = CASES[name]
    cached = None if name == "bedrock invoke stream" else 8
    for step in (len(data), 1000, 7):
        scanner = Scanner(content_type)
        for at in range(0, len(data), step):
            scanner.feed(data[at : at + step])
        assert counts(scanner) == (20, 5, cached), step
    assert told(whole_counts(content_type, b"", data)) == (20, 5, cached)


@pytest.mark.parametrize("name", ["openai chat", "anthropic stream"])
def test_counts_compressed(name: str) -> None:
    content_type, data = CASES[name]
    for coding, packed in ((b"gzip", gzip.compress(data)), (b"deflate", zlib.compress(data))):
        scanner = Scanner(content_type, coding)
        for at in range(0, len(packed), 5):
            scanner.feed(packed[at : at + 5])
        assert counts(scanner) == (20, 5, 8)
        assert told(whole_counts(content_type, coding, packed)) == (20, 5, 8)


@pytest.mark.parametrize(
    ("content_type", "coding", "data"),
    [
        (JSON, b"", b""),
        (JSON, b"", b'{"usage": "none"}'),
        (JSON, b"", b'{"usage": {"prompt_tokens": "many"}}'),
        (JSON, b"", b'{"usage": {"prompt_tokens": 1'),
        (JSON, b"br", CASES["openai chat"][1]),
        (JSON, b"gzip", b"not gzip"),
        (JSON, b"gzip", gzip.compress(b'{"usage":' + b" " * 100_000_000)),
        (b"text/plain", b"", CASES["openai chat"][1]),
        (SSE, b"", b'data: {"usage":\n\ndata: {"usage": 3}\n\n: "usage"\n'),
        (SSE, b"", b'data: {"usage' + b"x" * 1_000_000),
        (FRAMES, b"", b'{"bytes":"####"}{"bytes":"AAAA"}'),
    ],
)
def test_unknown_is_none(content_type: bytes, coding: bytes, data: bytes) -> None:
    scanner = Scanner(content_type, coding)
    for at in range(0, len(data), 65536):
        scanner.feed(data[at : at + 65536])
    assert counts(scanner) == (None, None, None)
    assert told(whole_counts(content_type, coding, data)) == (None, None, None)


@given(st.sampled_from([JSON, SSE, FRAMES]), st.lists(st.binary(max_size=30), max_size=10))
def test_never_raises(content_type: bytes, pieces: list[bytes]) -> None:
    scanner = Scanner(content_type)
    for piece in pieces:
        scanner.feed(b'"usage":{' + piece)
    assert told(whole_counts(content_type, b"", b"".join(b'"usage":{' + piece for piece in pieces))) == counts(scanner)


@given(st.sampled_from(sorted(CASES)), st.lists(st.integers(1, 400), min_size=1))
def test_any_split_counts_the_same(name: str, sizes: list[int]) -> None:
    content_type, data = CASES[name]
    data = data if len(data) < 5000 else data[-5000:]
    whole, split = Scanner(content_type), Scanner(content_type)
    whole.feed(data)
    at, turn = 0, 0
    while at < len(data):
        split.feed(data[at : at + sizes[turn % len(sizes)]])
        at, turn = at + sizes[turn % len(sizes)], turn + 1
    assert counts(split) == counts(whole)


@given(
    st.sampled_from(
        [
            (b"data: [DONE]\n\n", True),
            (b"data:[DONE]\r\n\r\n", True),
            (b'event: message_stop\ndata: {"type":"message_stop"}\n\n', True),
            (b'data: { "type" : "message_stop" }\n\n', True),
            (b'data: {"type":"response.completed","response":{"usage":{"input_tokens":3}}}\n\n', True),
            (b'data: {"type":"response.incomplete","response":{}}\n\n', True),
            (b'data: {"type":"response.failed","response":{}}\n\n', True),
            (b'data: {"choices":[{"delta":{"content":"data: [DONE]"}}]}\n\n', False),
            (b'data: {"type":"content_block_delta","delta":{"text":"\\"message_stop\\""}}\n\n', False),
            (b'data: {"type":"response.output_text.delta","delta":"\\"response.completed\\""}\n\n', False),
            (b'data: {"type":["message_stop"]}\n\n', False),
            (b": [DONE]\n\n", False),
            (b"data: [DO\n\n", False),
        ]
    ),
    st.lists(st.integers(1, 30), min_size=1, max_size=5),
)
def test_the_last_event_is_seen_once_its_line_is_whole(event: tuple[bytes, bool], sizes: list[int]) -> None:
    text, last = event
    stream = b'data: {"type":"x"}\n\n' + text
    scanner, at, turn = Scanner(b"text/event-stream"), 0, 0
    while at < len(stream):
        assert not scanner.ended or stream[:at].count(b"\n") >= 3
        at, start, turn = at + sizes[turn % len(sizes)], at, turn + 1
        scanner.feed(stream[start:at])
    assert scanner.ended == last


def test_a_last_event_is_one_of_a_stream_only() -> None:
    scanner = Scanner(b"application/json")
    scanner.feed(b'{"type":"message_stop","usage":{}}')
    scanner.finish()
    assert not scanner.ended


@pytest.mark.parametrize("tokens", ["-5", "9" * 20, "9" * 400])
def test_a_count_that_cannot_be_meant_is_none(tokens: str) -> None:
    """The ledger could not hold it, and a negative one would give money back."""
    answer = b'{"usage":{"prompt_tokens":%b,"completion_tokens":3}}' % tokens.encode()
    assert told(whole_counts(JSON, b"", answer)) == (None, None, None)


def test_what_is_nested_too_deeply_has_no_counts() -> None:
    deep = b"[" * 5000 + b"]" * 5000
    assert told(whole_counts(JSON, b"", b'{"usage":null,"x":' + deep + b"}")) == (None, None, None)
    scanner = Scanner(SSE)
    scanner.feed(b'data: {"usage":null,"x":' + deep + b"}\n\n")
    assert counts(scanner) == (None, None, None)
