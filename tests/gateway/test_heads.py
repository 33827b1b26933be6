from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.gateway.heads import Chunks, RequestHead, ResponseHead, split_length

BASE = b"Host: h\r\nAuthorization: Bearer t\r\n"


def test_passes_lines_as_they_are() -> None:
    head = RequestHead(BASE + b"anthropic-version:2023-06-01\r\nX-Odd:   two  spaces \r\n")
    assert head.kept == b"anthropic-version:2023-06-01\r\nX-Odd:   two  spaces \r\n"
    assert (head.token, head.bad, head.chunked, head.websocket) == (b"t", None, False, False)
    assert RequestHead(BASE).kept == b""


@pytest.mark.parametrize(
    "name",
    [
        *("Authorization", "X-API-KEY", "api-key", "x-goog-api-key", "X-Subscription-Token", "Cookie", "Host"),
        *("Connection", "Keep-Alive", "TE", "Trailer", "Upgrade", "Transfer-Encoding", "Expect", "content-length"),
        *("Proxy-Authorization", "Proxy-Connection", "X-Forwarded-For", "X-Forwarded-Anything", "Forwarded", "Via"),
        *("X-Real-IP", "x-choir-request-id", "X_Underscore", "OpenAI-Organization", "X-HTTP-Method-Override"),
        *("X-Original-URL", "X-Goog-User-Project", "X-Amz-Security-Token"),
    ],
)
def test_drops(name: str) -> None:
    for spelled in (name, name.lower(), name.upper()):
        head = RequestHead(b"Host: h\r\n" + spelled.encode() + b": canary\r\nA: b\r\n")
        assert head.kept == b"A: b\r\n", spelled


def test_connection_names_further_ones() -> None:
    assert RequestHead(BASE + b"Connection: close, X-A , x-b\r\nX-A: 1\r\nX-B: 2\r\nX-C: 3\r\n").kept == b"X-C: 3\r\n"


def test_several_carriers() -> None:
    assert not RequestHead(BASE + b"x-api-key: t\r\n").ambiguous
    assert RequestHead(BASE + b"x-api-key: u\r\n").ambiguous
    assert RequestHead(BASE + b"x-api-key:\r\n").ambiguous
    assert RequestHead(b"Host: h\r\n").token == b""


def test_response_list() -> None:
    head = ResponseHead(
        b"Content-Type: application/json\r\nContent-Length: 12\r\nSet-Cookie: a\r\nOpenAI-Organization: o\r\n"
        b"openai-processing-ms: 5\r\nanthropic-ratelimit-requests-limit: 9\r\nanthropic-organization-id: o\r\n"
        b"Location: http://evil\r\nConnection: close\r\nAccess-Control-Allow-Origin: *\r\nX-Powered-By: x\r\n"
        b"X-Amzn-Bedrock-Input-Token-Count: 7\r\nX-Amzn-Bedrock-Output-Token-Count: 8\r\nx-request-id: SECRET-1\r\n",
        b"SECRET",
    )
    assert head.kept == (
        b"Content-Type: application/json\r\nopenai-processing-ms: 5\r\nanthropic-ratelimit-requests-limit: 9\r\n"
        b"X-Amzn-Bedrock-Input-Token-Count: 7\r\nX-Amzn-Bedrock-Output-Token-Count: 8\r\n"
    )
    assert (head.length, head.chunked, head.input_tokens, head.output_tokens) == (12, False, 7, 8)
    assert ResponseHead(b"Transfer-Encoding: gzip, chunked\r\n").bad


@pytest.mark.parametrize(
    ("head", "parts"),
    [
        (b"POST / HTTP/1.1\r\nA: b\r\n", (b"POST / HTTP/1.1\r\nA: b\r\n", 0, b"")),
        (
            b"POST / HTTP/1.1\r\ncontent-LENGTH: \t12 \r\nA: b\r\n",
            (b"POST / HTTP/1.1\r\ncontent-LENGTH: \t", 12, b" \r\nA: b\r\n"),
        ),
        (b"POST /?Content-Length:5 HTTP/1.1\r\nX-Content-Length: 6\r\n", None),
    ],
)
def test_split_length(head: bytes, parts: tuple[bytes, int, bytes] | None) -> None:
    assert split_length(head) == (parts or (head, 0, b""))


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=20), st.sampled_from([b"", b";a=b", b';q="x"'])), max_size=5),
    st.sampled_from([b"", b"X: y\r\n"]),
    st.binary(max_size=10),
    st.lists(st.integers(1, 9), min_size=1),
)
def test_finds_the_end_of_chunks(
    chunks: list[tuple[bytes, bytes]], trailers: bytes, rest: bytes, sizes: list[int]
) -> None:
    body = b"".join(b"%x%b\r\n%b\r\n" % (len(data), extension, data) for data, extension in chunks)
    body += b"0\r\n" + trailers + b"\r\n"
    assert Chunks().end(body + rest) == len(body)
    walk, at, turn = Chunks(), 0, 0
    while True:
        size = sizes[turn % len(sizes)]
        end = walk.end((body + rest)[at : at + size])
        if end >= 0:
            assert at + end == len(body)
            break
        at, turn = at + size, turn + 1
        assert at < len(body) + len(rest)
