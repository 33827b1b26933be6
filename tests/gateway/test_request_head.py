from __future__ import annotations

import pytest

from choir.gateway.request_head import RequestHead, uncompressed

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


def test_uncompressed() -> None:
    kept = b"A: b\r\naccept-ENCODING: gzip\r\nX-Accept-Encoding: gzip\r\n"
    assert uncompressed(kept) == b"A: b\r\nX-Accept-Encoding: gzip\r\nAccept-Encoding: identity\r\n"
    assert uncompressed(b"") == b"Accept-Encoding: identity\r\n"


def test_two_codings_of_a_body_are_none_that_policy_reads() -> None:
    head = RequestHead(BASE + b"Content-Encoding: br\r\nContent-Encoding: identity\r\n")
    assert head.content_encoding == b"br,identity"
