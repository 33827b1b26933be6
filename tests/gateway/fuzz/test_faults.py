"""Providers that stall, trickle, reset and lie: the caller is told in its own dialect, in time, and never takes a piece
for the whole."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator

import pytest

from ..harness import Client, Gateway, Sandbox, provider
from .liar import CLOSE, HALF, RESET, STALL, Liar, Lie

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
TEXT = b'{"id":"1","choices":[]}'
EVENT = b'data: {"choices":[{"delta":{"content":"Pa"}}]}\n\n'
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
WHOLE = OK + b"Content-Length: %d\r\n\r\n%b" % (len(TEXT), TEXT)
POISON = OK + b"Content-Length: 6\r\n\r\npoison"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def each_byte(data: bytes) -> tuple[bytes | float, ...]:
    return tuple(itertools.chain.from_iterable((data[at : at + 1], 0.0) for at in range(len(data))))


def endless(piece: bytes) -> Iterable[bytes]:
    return itertools.repeat(piece)


def length(value: bytes) -> Lie:
    return Lie((OK + b"Content-Length: " + value + b"\r\n\r\n" + TEXT, CLOSE))


def field(line: bytes) -> Lie:
    return Lie((OK + line + b"\r\nContent-Length: 2\r\n\r\n{}", CLOSE))


def first(data: bytes) -> Lie:
    return Lie((data, CLOSE))


# Those that are answered with an error, and with which: status, reason.
REFUSED: dict[str, tuple[int, str, Lie]] = {
    "stall": (504, "first_byte_timeout", Lie((STALL,))),
    "stall-in-head": (504, "first_byte_timeout", Lie((OK, STALL))),
    "trickle-head": (504, "first_byte_timeout", Lie((OK, *((b"X: y\r\n", 0.05) * 100), STALL))),
    "interim-then-stall": (504, "first_byte_timeout", Lie((b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", STALL))),
    "reset": (502, "reset", Lie((RESET,))),
    "close": (502, "reset", Lie((CLOSE,))),
    "half-close": (502, "reset", Lie((HALF, STALL))),
    "reset-in-head": (502, "reset", Lie((OK, RESET))),
    "close-in-head": (502, "reset", Lie((OK, CLOSE))),
    "close-in-status": (502, "reset", Lie((b"HTTP/1.1 2", CLOSE))),
    "interim-then-close": (502, "reset", Lie((b"HTTP/1.1 100 Continue\r\n\r\n", CLOSE))),
    "garbage": (502, "malformed", first(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")),
    "other-protocol": (502, "malformed", first(b"220 mail.example ESMTP\r\n")),
    "no-head": (502, "malformed", first(b"<html>hello</html>")),
    "http-2-frames": (502, "malformed", first(b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80")),
    "icy": (502, "malformed", first(b"ICY 200 OK\r\n\r\n")),
    "version-9": (502, "malformed", first(WHOLE.replace(b"1.1", b"9.9", 1))),
    "four-digit-status": (502, "malformed", first(WHOLE.replace(b"200", b"2000", 1))),
    "two-digit-status": (502, "malformed", first(WHOLE.replace(b"200", b"20", 1))),
    "status-600": (502, "malformed", first(WHOLE.replace(b"200", b"600", 1))),
    "status-999": (502, "malformed", first(WHOLE.replace(b"200", b"999", 1))),
    "status-000": (502, "malformed", first(WHOLE.replace(b"200", b"000", 1))),
    "word-status": (502, "malformed", first(WHOLE.replace(b"200", b"two", 1))),
    "huge-status-line": (502, "malformed", Lie((b"HTTP/1.1 200 " + b"O" * 200_000 + b"\r\n", STALL))),
    "endless-status-line": (502, "malformed", Lie((b"HTTP/1.1 200 ", lambda: endless(b"O" * 10_000)))),
    "endless-head": (502, "malformed", Lie((OK, lambda: endless(b"X-Long: " + b"a" * 1000 + b"\r\n")))),
    "endless-header": (502, "malformed", Lie((OK + b"X: ", lambda: endless(b"a" * 10_000)))),
    "interim-flood": (502, "malformed", Lie((lambda: endless(b"HTTP/1.1 102 Processing\r\n\r\n" * 100),))),
    "both-framings": (502, "malformed", first(OK + b"Content-Length: 3\r\n" + CHUNKED + b"3\r\nabc\r\n0\r\n\r\n")),
    "both-the-other-way": (
        502,
        "malformed",
        first(OK + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
    ),
    "two-lengths": (502, "malformed", length(b"%d\r\nContent-Length: 7" % len(TEXT))),
    "the-same-length-twice": (502, "malformed", length(b"%d\r\nContent-Length: %d" % (len(TEXT), len(TEXT)))),
    "list-of-lengths": (502, "malformed", length(b"%d, %d" % (len(TEXT), len(TEXT)))),
    "negative-length": (502, "malformed", length(b"-1")),
    "signed-length": (502, "malformed", length(b"+23")),
    "hex-length": (502, "malformed", length(b"0x17")),
    "overflowing-length": (502, "malformed", length(b"99999999999999999999999")),
    "empty-length": (502, "malformed", length(b"")),
    "gzip-framing": (502, "malformed", first(OK + b"Transfer-Encoding: gzip\r\n\r\n" + TEXT)),
    "two-codings": (
        502,
        "malformed",
        first(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + chunk(TEXT) + b"0\r\n\r\n"),
    ),
    "unknown-coding": (
        502,
        "malformed",
        first(OK + b"Transfer-Encoding: xchunked\r\n\r\n" + chunk(TEXT) + b"0\r\n\r\n"),
    ),
    "fold": (502, "malformed", field(b"X: a\r\n b")),
    "bare-lf": (502, "malformed", field(b"X: a\nY: b")),
    "bare-cr": (502, "malformed", field(b"X: a\rY: b")),
    "nul": (502, "malformed", field(b"X: a\0b")),
    "space-before-colon": (502, "malformed", field(b"X : a")),
    "no-name": (502, "malformed", field(b": a")),
    "lf-only": (502, "malformed", first(WHOLE.replace(b"\r\n", b"\n"))),
    "switched-unasked": (
        502,
        "malformed",
        Lie((b"HTTP/1.1 101 Yes\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", STALL)),
    ),
    "redirect": (
        502,
        "redirect",
        first(b"HTTP/1.1 302 F\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"),
    ),
    "long-refusal": (502, "http_429", Lie((b"HTTP/1.1 429 No\r\n" + CHUNKED, lambda: endless(chunk(b"x" * 9999))))),
    "cut-refusal": (502, "closed", first(b"HTTP/1.1 400 No\r\nContent-Length: 99\r\n\r\n{}")),
    "stalled-refusal": (504, "idle_timeout", Lie((b"HTTP/1.1 400 No\r\nContent-Length: 99\r\n\r\n{}", STALL))),
}

# Those whose answer has begun: it is cut, and no reader takes it for whole. True: an event stream that tells the error.
CUT: dict[str, tuple[bool, Lie]] = {
    "short": (False, first(OK + b"Content-Length: 99\r\n\r\n" + TEXT)),
    "short-reset": (False, Lie((OK + b"Content-Length: 99\r\n\r\n" + TEXT, RESET))),
    "stall-in-body": (False, Lie((OK + b"Content-Length: 99\r\n\r\n" + TEXT, STALL))),
    "reset-to-the-end": (False, Lie((OK + b"\r\n" + TEXT, RESET))),
    "no-last-chunk": (False, first(OK + CHUNKED + chunk(TEXT))),
    "half-last-chunk": (False, first(OK + CHUNKED + chunk(TEXT) + b"0\r\n")),
    "stream-stalls": (True, Lie((SSE + chunk(EVENT), STALL))),
    "stream-closes": (True, first(SSE + chunk(EVENT))),
    "stream-resets": (True, Lie((SSE + chunk(EVENT), RESET))),
    "event-cut": (True, first(SSE + chunk(EVENT) + chunk(EVENT[:20]))),
    "chunk-cut": (True, first(SSE + chunk(EVENT) + chunk(EVENT)[:20])),
    "bad-size": (True, Lie((SSE + chunk(EVENT), 0.05, b"zz\r\n", STALL))),
    "negative-size": (True, Lie((SSE + chunk(EVENT), 0.05, b"-5\r\nabc", STALL))),
    "endless-size": (True, Lie((SSE + chunk(EVENT), 0.05, b"fffffffffffffffffffff\r\n", STALL))),
    "chunk-too-long": (True, Lie((SSE + chunk(EVENT), 0.05, b"3\r\nabcdef\r\n0\r\n\r\n", STALL))),
    "bare-lf-size": (True, Lie((SSE + chunk(EVENT), 0.05, b"3\nabc\n0\n\n", STALL))),
    "bad-trailer": (True, Lie((SSE + chunk(EVENT), 0.05, b"0\r\nX : y\r\n\r\n", STALL))),
    "endless-extension": (True, Lie((SSE + chunk(EVENT), 0.05, b"3;", lambda: endless(b"a" * 10_000)))),
    "endless-trailers": (
        True,
        Lie((SSE + chunk(EVENT), 0.05, b"0\r\n", lambda: endless(b"X: " + b"y" * 997 + b"\r\n"))),
    ),
}

# Those that are odd and yet whole: what the caller gets.
PASSED: dict[str, tuple[int, bytes, Lie]] = {
    "whole": (200, TEXT, Lie((WHOLE,))),
    "trickled": (200, TEXT, Lie(each_byte(WHOLE))),
    "trickled-chunks": (200, TEXT, Lie(each_byte(OK + CHUNKED + chunk(TEXT[:9]) + chunk(TEXT[9:]) + b"0\r\n\r\n"))),
    "slow-but-moving": (200, TEXT, Lie((OK + CHUNKED, *((chunk(b"x"), 0.12) * 5), chunk(TEXT) + b"0\r\n\r\n"))),
    "too-long": (200, TEXT, Lie((WHOLE + b"smuggled",))),
    "two-answers": (200, TEXT, Lie((WHOLE + POISON,))),
    "to-the-end": (200, TEXT, first(OK + b"\r\n" + TEXT)),
    "older-version": (200, TEXT, first(WHOLE.replace(b"1.1", b"1.0", 1))),
    "no-reason": (200, TEXT, Lie((WHOLE.replace(b"200 OK", b"200 "),))),
    "interim": (200, TEXT, Lie((b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + WHOLE,))),
    "nothing": (200, b"", Lie((OK + b"Content-Length: 0\r\n\r\n",))),
    "no-content": (204, b"", Lie((b"HTTP/1.1 204 No Content\r\n\r\n",))),
    "content-after-no-content": (204, b"", Lie((b"HTTP/1.1 204 No Content\r\n\r\n" + POISON,))),
    "extension": (200, TEXT, Lie((OK + CHUNKED + b"%x;a=b\r\n%b\r\n0\r\n\r\n" % (len(TEXT), TEXT),))),
    "trailers": (200, TEXT, Lie((OK + CHUNKED + chunk(TEXT) + b"0\r\nX-Checksum: 1\r\n\r\n",))),
    "lies-about-gzip": (200, TEXT, Lie((WHOLE.replace(b"Content-Type", b"Content-Encoding: gzip\r\nContent-Type"),))),
    "early": (400, TEXT, Lie((WHOLE.replace(b"200 OK", b"400 No"), STALL), early=True)),
}
OTHERS: dict[str, Lie] = {
    "second-answer-later": Lie((WHOLE, 0.05, POISON)),
    "early-and-gone": Lie((WHOLE.replace(b"200 OK", b"400 No"), CLOSE), early=True),
}
LIES = {name: row[-1] for table in (REFUSED, CUT, PASSED) for name, row in table.items()} | OTHERS
DIALECTS = {"openai": "/chat/completions", "anthropic": "/v1/messages", "google": "/v1/models/m:generateContent"}


@pytest.fixture(scope="module")
def liar() -> Iterator[Liar]:
    with contextlib.closing(Liar(LIES)) as liar:
        yield liar


@pytest.fixture(scope="module")
def lied_to(liar: Liar, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with a provider for each lie, so that none is blamed for another's."""
    config = "".join(provider(name, liar.port, prefix=f"/{name}") for name in LIES)
    for like in ("anthropic", "google"):
        config += "".join(
            provider(f"{like}-{name}", liar.port, like=like, prefix=f"/{name}") for name in ("reset", "event-cut")
        )
    config += "[timeouts]\nconnect = 2\nfirst_byte = 0.9\nidle = 0.5\n[limits]\nrequests_per_minute = 100000\n"
    gateway = Gateway(tmp_path_factory.mktemp("lied-to"), config)
    yield gateway
    assert "unexpected" not in gateway.log.read_text(), "a defect was logged"
    assert gateway.stop() == 0


@pytest.fixture
def caller(lied_to: Gateway) -> Sandbox:
    return lied_to.sandbox()


def idle(caller: Sandbox) -> None:
    """Return once the caller has no call left; pytest's timeout ends a wait in vain."""
    while any(
        s["calls"] for s in caller.gateway.ask({"op": "status"})["sandboxes"] if s["sandbox_id"] == caller.sandbox_id
    ):
        pass


@pytest.mark.parametrize("name", REFUSED)
def test_an_error_of_the_callers_dialect(caller: Sandbox, liar: Liar, name: str) -> None:
    status, reason, _ = REFUSED[name]
    before = liar.requests.get(name, 0)
    with contextlib.closing(Client(caller.port)) as client:
        client.send(caller.request(provider=name))
        answer = client.answer()
        assert (answer.status, answer.error["reason"], answer.whole) == (status, reason, True)
        assert answer.error["message"].startswith(f"The provider {name} ")
        client.send(caller.request(provider="whole"))
        assert client.answer().body == TEXT, "the connection is of use for the next call"
    assert liar.requests[name] == before + 1, "a POST is sent once"
    idle(caller)
    record, _ = caller.records(2)
    assert (record.outcome, record.status, record.provider) == (f"upstream:{reason}", status, name)


@pytest.mark.parametrize("name", CUT)
def test_a_piece_is_never_taken_for_the_whole(caller: Sandbox, name: str) -> None:
    told, _ = CUT[name]
    with contextlib.closing(Client(caller.port)) as client:
        client.send(caller.request(provider=name))
        answer = client.answer()
        assert (answer.status, answer.whole) == (200, False)
        assert client.closed()
    if told:
        last = answer.body.rpartition(b"\n\ndata: ")[2]
        assert json.loads(last)["error"]["message"].startswith(f"The provider {name} ")
        assert answer.body.startswith(EVENT)
    idle(caller)
    (record,) = caller.records(1)
    assert (record.outcome, record.status) == ("cut", 200)


@pytest.mark.parametrize("name", PASSED)
def test_what_is_whole_passes_alone(caller: Sandbox, name: str) -> None:
    status, body, lie = PASSED[name]
    for _ in range(2):  # what came after the first answer is not the second
        with contextlib.closing(Client(caller.port)) as client:
            text = b'{"x":"' + b"y" * 20_000_000 + b'"}' if lie.early else b"{}"
            route = "/embeddings" if lie.early else "/chat/completions"
            with contextlib.suppress(ConnectionError):
                client.send(caller.request(route, provider=name, body=text))
            answer = client.answer()
            assert (answer.status, answer.whole) == (status, True)
            assert answer.body.endswith(body)
            assert b"smuggled" not in answer.body
            assert b"poison" not in answer.body
    idle(caller)
    outcome = "ok" if status < 300 else f"upstream:http_{status}"
    assert [record.outcome for record in caller.records(2)] == [outcome, outcome]


@pytest.mark.parametrize("like", ["anthropic", "google"])
def test_every_dialect_has_its_own_error(caller: Sandbox, like: str) -> None:
    path = DIALECTS[like]
    answer = caller.call(provider=f"{like}-reset", path=path, body=b'{"max_tokens":1}')
    said = json.loads(answer.body)
    assert answer.status == 502
    assert (said["type"] if like == "anthropic" else said["error"]["status"]) == (
        "error" if like == "anthropic" else "INTERNAL"
    )
    answer = caller.call(provider=f"{like}-event-cut", path=path, body=b'{"max_tokens":1}')
    assert not answer.whole
    assert (b"\n\nevent: error\ndata: " in answer.body) == (like == "anthropic")
    assert json.loads(answer.body.rpartition(b"data: ")[2])["error"]["reason"] == "closed"


def test_an_answer_that_nobody_asked_for_is_given_to_nobody(caller: Sandbox) -> None:
    """It came on a kept connection, after the answer and before the next question."""
    for _ in range(2):
        assert caller.call(provider="second-answer-later").body == TEXT
        assert caller.call(provider="stall").status == 504  # by then the second answer has arrived


def test_an_early_answer_on_a_connection_that_is_reset(caller: Sandbox) -> None:
    """What was not read of the request makes a reset, which may overtake the answer: one of the two is told."""
    with contextlib.closing(Client(caller.port)) as client:
        with contextlib.suppress(ConnectionError):
            client.send(caller.request("/embeddings", provider="early-and-gone", body=b"y" * 20_000_000))
        answer = client.answer()
    assert (answer.status, answer.whole) in ((400, True), (502, True))
    idle(caller)
    assert caller.records(1)[0].outcome in ("upstream:http_400", "upstream:reset")
