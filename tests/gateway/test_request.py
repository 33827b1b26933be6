"""Who may call, and in what form: the gateway's door, with a real process."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from choir import tokens
from choir.contract import UsageRecord
from choir.gateway.gateway import Gateway as Relay
from choir.gateway.main import Start, settings_loader
from choir.gateway.policy import Spending
from choir.gateway.request import Connection
from choir.gateway.sandboxes import Sandbox as Caller

from .fuzz.memory import Loop, Wire
from .harness import ANSWER, Client, Double, Gateway, Sandbox

HEAD = "POST /provider/v1/mock/chat/completions HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n"


def test_relays_a_call(sandbox: Sandbox, gateway: Gateway, double: Double) -> None:
    answer = sandbox.call(headers="Cookie: a=b\r\nX-Forwarded-For: 1.2.3.4\r\nOpenAI-Beta: x=1\r\nX_Choir: 1\r\n")
    assert (answer.status, answer.body) == (200, ANSWER)
    assert answer.headers["x-request-id"] == "up-1"
    assert answer.headers["x-ratelimit-remaining-requests"] == "9"
    assert {"set-cookie", "openai-organization", "server"}.isdisjoint(answer.headers)
    head, body = double.requests[0]
    assert body == b'{"model":"m1","messages":[]}'
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % double.port)
    assert head.count(b"Authorization: Bearer " + gateway.canary.encode()) == 1
    assert b"OpenAI-Beta: x=1\r\n" in head
    for absent in (sandbox.token.encode(), b"Cookie", b"X-Forwarded", b"X_Choir", b"7070"):
        assert absent not in head
    (record,) = sandbox.records(1)
    assert (record.provider, record.model, record.route) == ("mock", "m1", "POST /chat/completions")
    assert (record.status, record.outcome, record.user_id) == (200, "ok", "u1")
    assert (record.input_tokens, record.output_tokens, record.cached_tokens, record.cost_usd) == (12, 3, None, None)
    assert (record.bytes_in, record.bytes_out) == (len(body), len(ANSWER))
    assert record.request_id == answer.headers["x-choir-request-id"]
    assert record.ttft_ms is not None
    assert 0 < record.ttft_ms <= record.latency_ms


@pytest.mark.parametrize(
    "carrier",
    [
        *("Authorization: Bearer {}", "authorization: bearer {}", "x-api-key: {}", "api-key: {}", "x-goog-api-key: {}"),
        *("X-Subscription-Token: {}", "X-API-Key: {0}\r\nAuthorization: Bearer {0}"),
    ],
)
def test_takes_the_token_in_every_carrier(sandbox: Sandbox, gateway: Gateway, double: Double, carrier: str) -> None:
    assert sandbox.call(auth=carrier.format(sandbox.token) + "\r\n").status == 200
    head = double.requests[0][0]
    assert tokens.PREFIX.encode() not in head
    assert head.lower().count(b"x-api-key") == 0
    assert head.count(gateway.canary.encode()) == 1


PATHS = ["/chat/completions", "/models", "/nothing", "/../x", ""]


@pytest.mark.parametrize(
    "path", [f"/provider/v1/mock{path}" for path in PATHS] + ["/", "/healthz", "/provider/v1/none/x"]
)
def test_without_a_token_every_path_is_401(sandbox: Sandbox, double: Double, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        answer = sandbox.call(f"{method} {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        assert (answer.status, answer.error["reason"]) == (401, "token_missing")
    assert double.requests == []


def test_refuses_tokens_that_are_not_this_sandboxes(gateway: Gateway, sandbox: Sandbox, double: Double) -> None:
    other = gateway.sandbox()
    forged = tokens.sign(tokens.new_key(), sandbox.sandbox_id)
    cases = {
        f"Authorization: Bearer {other.token}": "token_of_another_sandbox",
        f"Authorization: Bearer {forged}": "token_forged",
        f"Authorization: Bearer {sandbox.token}x": "token_forged",
        "Authorization: Bearer sk-made-up": "token_malformed",
        "Authorization: Bearer ": "token_malformed",
        "Authorization: Basic dTpw": "token_malformed",
        f"Authorization: Bearer {sandbox.token}\r\nx-api-key: sk-other": "tokens_differ",
        f"Authorization: Bearer {sandbox.token}\r\nx-api-key: {other.token}": "tokens_differ",
        f"Authorization: Basic x\r\nx-api-key: {sandbox.token}": "tokens_differ",
    }
    for auth, reason in cases.items():
        answer = sandbox.call(auth=auth + "\r\n")
        assert (answer.status, answer.error["reason"]) == (401, reason), auth
        assert sandbox.token.encode() not in answer.body
    assert double.requests == []
    assert [record.outcome for record in sandbox.records(len(cases))] == [f"refused:{r}" for r in cases.values()]


def test_a_verified_connection_does_not_lend_its_token(sandbox: Sandbox, double: Double) -> None:
    with contextlib.closing(Client(sandbox.port)) as client:
        client.send(sandbox.request())
        assert client.answer().status == 200
        client.send(sandbox.request(auth="Authorization: Bearer choir-gt-x.y.z\r\n"))
        assert client.answer().status == 401
        client.send(sandbox.request(auth=""))
        assert client.answer().status == 401
    assert len(double.requests) == 1


@pytest.mark.parametrize("query", ["key={}", "KEY={}", "api_key={}", "%6bey={}", "a=1&access_token={}", "x={}"])
def test_refuses_a_key_in_the_query(sandbox: Sandbox, double: Double, query: str) -> None:
    answer = sandbox.call(path="/chat/completions?" + query.format(sandbox.token))
    assert answer.status == 401
    assert answer.error["reason"] in ("key_in_query", "token_misplaced")
    assert double.requests == []


def test_the_token_reaches_the_provider_in_no_other_header(sandbox: Sandbox, double: Double) -> None:
    answer = sandbox.call(headers=f"Sec-WebSocket-Protocol: openai-insecure-api-key.{sandbox.token}\r\n")
    assert (answer.status, answer.error["reason"]) == (401, "token_misplaced")
    assert double.requests == []


def test_the_caller_cannot_choose_the_host_or_the_account(sandbox: Sandbox, double: Double) -> None:
    headers = (
        "X-Forwarded-Host: evil\r\nX-Original-URL: /v1/files\r\nX-HTTP-Method-Override: DELETE\r\n"
        "OpenAI-Organization: o\r\nX-Choir-Sandbox-Id: other\r\nForwarded: for=x\r\n"
        "Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nProxy-Authorization: x\r\n"
    )
    body = b'{"api_base":"http://evil","base_url":"http://evil","metadata":{"user_id":"other"},"model":"m1"}'
    assert sandbox.call(headers=headers, body=body, path="/chat/completions?api_base=http://evil").status == 200
    head = double.requests[0][0].lower()
    assert head.splitlines()[0] == b"post /v1/chat/completions?api_base=http://evil http/1.1"
    for absent in (
        b"evil\r\n",
        b"x-original",
        b"override",
        b"organization",
        b"sandbox",
        b"forwarded",
        b"x-hop",
        b"proxy-",
    ):
        assert absent not in head
    (record,) = sandbox.records(1)
    assert (record.sandbox_id, record.user_id) == (sandbox.sandbox_id, "u1")


MALFORMED = {
    "both lengths": HEAD + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both, other order": HEAD + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "a list of lengths": HEAD + "Content-Length: 3, 3\r\n\r\nabc",
    "a signed length": HEAD + "Content-Length: +3\r\n\r\nabc",
    "an endless length": HEAD + "Content-Length: 99999999999999999999999\r\n\r\nabc",
    "a folded header": HEAD + "X: a\r\n b\r\n\r\n",
    "bare LF": HEAD + "X: a\nY: b\r\n\r\n",
    "bare CR": HEAD + "X: a\rY: b\r\n\r\n",
    "NUL": HEAD + "X: a\0b\r\n\r\n",
    "space before colon": HEAD + "X : a\r\n\r\n",
    "no name": HEAD + ": a\r\n\r\n",
    "gzip coding": HEAD + "Transfer-Encoding: gzip\r\n\r\n",
    "two codings": HEAD + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "hidden coding": HEAD + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "coding twice": HEAD + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "not a chunk size": HEAD + "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a chunk that lies": HEAD + "Transfer-Encoding: chunked\r\n\r\n3\r\nabcX0\r\n\r\n",
    "a hex prefix": HEAD + "Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
    "an endless chunk": HEAD + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nabc",
    "HTTP/1.0": HEAD.replace("HTTP/1.1", "HTTP/1.0") + "Connection: keep-alive\r\n\r\n",
    "HTTP/2.0": HEAD.replace("HTTP/1.1", "HTTP/2.0") + "\r\n",
    "HTTP/0.9": "GET /provider/v1/mock/models\r\n\r\n",
    "absolute form": HEAD.replace("POST /", "POST http://evil/") + "\r\n",
    "CONNECT": "CONNECT evil:443 HTTP/1.1\r\nHost: evil:443\r\nAuthorization: Bearer {token}\r\n\r\n",
    "asterisk": "OPTIONS * HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\r\n",
    "no host": HEAD.replace("Host: h\r\n", "") + "\r\n",
    "two hosts": HEAD + "Host: i\r\n\r\n",
    "other upgrade": HEAD + "Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{{}}",
    "upgrade elsewhere": HEAD.replace("POST", "GET") + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "unknown expectation": HEAD + "Expect: 200-ok\r\nContent-Length: 2\r\n\r\n{{}}",
    "HTTP/2 preface": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_refuses_what_is_not_strict(sandbox: Sandbox, double: Double, name: str) -> None:
    raw = MALFORMED[name].format(token=sandbox.token).encode("latin-1")
    with contextlib.closing(Client(sandbox.port)) as client:
        client.send(raw)
        answer = client.answer()
        assert answer.status in (400, 403, 505), answer.body
        assert client.closed() or answer.status == 403
    (record,) = sandbox.records(1)
    assert record.outcome.startswith("refused:")
    assert record.status == answer.status
    # A chunked body may have been begun; a whole request never arrives.
    assert double.requests == []
    assert sandbox.call().status == 200


@pytest.mark.parametrize(
    "line", ["X-Long: " + "a" * 70_000, "X" * 70_000 + ": a", "\r\n".join(f"X-{i}: a" for i in range(300))]
)
def test_refuses_oversized_heads(sandbox: Sandbox, double: Double, line: str) -> None:
    assert sandbox.call(headers=line + "\r\n").status == 431
    assert double.requests == []


def test_a_head_that_never_ends_is_refused(sandbox: Sandbox) -> None:
    with contextlib.closing(Client(sandbox.port)) as client:
        client.send(b"GET / HTTP/1.1\r\nX: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(40):
                client.send(b"a" * 4096)
        assert client.answer().status == 431


def test_keeps_the_connection_and_answers_in_order(sandbox: Sandbox, double: Double) -> None:
    bodies = [b'{"n":%d}' % n for n in range(20)]
    with contextlib.closing(Client(sandbox.port)) as client:
        client.send(b"".join(sandbox.request(body=body, behave="echo") for body in bodies))
        assert [client.answer().body for _ in bodies] == bodies
        client.send(b"\r\n" + sandbox.request(body=b"{}", behave="echo"))
        assert client.answer().body == b"{}"
        client.send(sandbox.request(headers="Connection: close\r\n"))
        assert client.answer().status == 200
        assert client.closed()
    assert len(double.requests) == 22
    assert len(sandbox.records(22)) == 22


def test_pipelined_refusals_are_answered_in_order(sandbox: Sandbox) -> None:
    with contextlib.closing(Client(sandbox.port)) as client:
        good, bad = sandbox.request(), sandbox.request(path="/files", body=b"{}")
        client.send(bad + good + bad + bad + good + sandbox.request(auth=""))
        assert [client.answer().status for _ in range(6)] == [403, 200, 403, 403, 200, 401]


def test_what_follows_a_broken_request_is_never_a_request(sandbox: Sandbox, double: Double) -> None:
    smuggled = sandbox.request(body=b"{}")
    with contextlib.closing(Client(sandbox.port)) as client:
        client.send(HEAD.format(token=sandbox.token).encode() + b"Content-Length: 3, 3\r\n\r\n" + smuggled)
        assert client.answer().status == 400
        assert client.closed()
    assert double.requests == []


def test_chunked_bodies_pass_and_trailers_do_not(sandbox: Sandbox, double: Double) -> None:
    raw = HEAD.replace("chat/completions", "embeddings")
    raw += "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\nX-Behave: echo\r\n\r\n"
    body = "5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nAuthorization: Bearer x\r\n\r\n"
    answer = sandbox.call((raw + body).format(token=sandbox.token).encode())
    assert answer.body == b"hello world"
    head, received = double.requests[0]
    assert received == b"hello world"
    assert b"Bearer x" not in head


def test_expect_continue(sandbox: Sandbox, double: Double) -> None:
    with contextlib.closing(Client(sandbox.port)) as client:
        request = sandbox.request(body=b"{}", headers="Expect: 100-continue\r\n")
        client.send(request[:-2])
        assert client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(request[-2:])
        assert client.answer().status == 200
    assert b"expect" not in double.requests[0][0].lower()
    with contextlib.closing(Client(sandbox.port)) as client:
        client.send(sandbox.request(path="/files", headers="Expect: 100-continue\r\n")[:-2])
        assert client.answer().status == 403


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_413(sandbox: Sandbox, double: Double, chunked: bool) -> None:
    body = b"x" * 20_000_000
    with contextlib.closing(Client(sandbox.port)) as client:
        if chunked:
            head = HEAD.format(token=sandbox.token) + "Transfer-Encoding: chunked\r\n\r\n"
            client.send(
                head.encode() + b"".join(b"186a0\r\n%b\r\n" % body[:100_000] for _ in range(200)) + b"0\r\n\r\n"
            )
        else:
            client.send(sandbox.request(body=body))
        answer = client.answer()
        assert (answer.status, answer.error["reason"]) == (413, "body_too_large")
        assert "300000" in answer.error["message"]
    assert double.requests == []
    assert sandbox.records(1)[0].outcome == "refused:body_too_large"


def test_paths_are_refused_before_anything_is_sent(sandbox: Sandbox, double: Double) -> None:
    for path in (
        "/chat%2Fcompletions",
        "/chat//completions",
        "/chat/../files",
        "/models/%2e%2e/files",
        "/models/a%5cb",
    ):
        assert sandbox.call(path=path).status == 400, path
    for path, method in (
        ("/files", "GET"),
        ("/chat/completions", "DELETE"),
        ("/batches", "POST"),
        ("/responses/r1", "GET"),
    ):
        answer = sandbox.call(path=path, method=method)
        assert (answer.status, answer.error["reason"]) == (403, "route_not_allowed"), path
    assert sandbox.call(provider="none").status == 404
    off = sandbox.call(provider="keyless")
    assert (off.status, off.error["reason"]) == (404, "provider_not_enabled")
    assert "NOT_THERE" in off.error["message"]
    assert double.requests == []


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b'{"model":"m2"}', 200, ""),
        (b'{"model":"m3"}', 403, "model_not_allowed"),
        (b'{"messages":[]}', 400, "model_unreadable"),
        (b'{"model":"m1","model":"m3"}', 400, "body_undecodable"),
        (b'{"model":"m3","m\\u006fdel":"m1"}', 400, "body_undecodable"),
        (b'{"model":["m1"]}', 400, "model_unreadable"),
        (b'[{"model":"m1"}]', 400, "body_undecodable"),
        (b'{"model":"m1"} {"model":"m3"}', 400, "body_undecodable"),
        (b"model=m1", 400, "body_undecodable"),
        (b"", 400, "body_undecodable"),
    ],
)
def test_a_provider_with_a_list_of_models(
    sandbox: Sandbox, double: Double, body: bytes, status: int, reason: str
) -> None:
    answer = sandbox.call(provider="few", body=body)
    assert answer.status == status
    if reason:
        assert answer.error["reason"] == reason
        assert double.requests == []
    else:
        assert double.requests[0][1] == body
    assert sandbox.records(1)[0].model == {200: "m2", 403: "m3"}.get(status)


@pytest.mark.parametrize(
    ("provider", "path", "where"),
    [
        ("mock", "/files", ("error", "message")),
        ("claude", "/v1/files", ("error", "message")),
        ("gemini", "/v1beta/files", ("error", "message")),
        ("bedrock", "/model/x/nothing", ("message",)),
    ],
)
def test_errors_have_the_shape_of_the_callers_sdk(
    sandbox: Sandbox, provider: str, path: str, where: tuple[str, ...]
) -> None:
    answer = sandbox.call(provider=provider, path=path)
    import json

    value = json.loads(answer.body)
    error = value["error"]
    assert set(error) >= {"type", "reason", "message", "request_id"}
    for name in where:
        value = value[name]
    assert value.startswith("Choir's gateway refused this call: ")
    assert error["request_id"] == answer.headers["x-choir-request-id"]
    assert ("x-amzn-errortype" in answer.headers) == (provider == "bedrock")


CHANGES = {
    "another token": ("{token}", "{token}x"),
    "another path": ("/chat/completions", "/files"),
    "two lengths": ("Content-Length: 28", "Content-Length: 28\r\nContent-Length: 5"),
    "chunked too": ("Content-Length: 28", "Content-Length: 28\r\nTransfer-Encoding: chunked"),
    "a signed length": ("Content-Length: 28", "Content-Length: +28"),
    "a bare LF": ("h\r\n", "h\n"),
    "a fold": ("Host: h", "Host: h\r\n x"),
    "no host": ("Host: h\r\n", ""),
    "another version": ("HTTP/1.1", "HTTP/1.0"),
    "a forbidden tool": ("[]", '[],"tools":[{{"type":"web_search"}}]'),
    "an escaped key": ('"messages":[]', '"\\u0074ools":[{{"type":"mcp"}}]'),
    "a key twice": ('"messages":[]', '"model":"m2"'),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_was_judged_before_lends_nothing_to_what_is_not_the_same(
    sandbox: Sandbox, double: Double, change: tuple[str, str]
) -> None:
    head, body = HEAD + "Content-Length: {length}\r\n\r\n", '{{"model":"m1","messages":[]}}'
    first = (head + body).format(token=sandbox.token, length=len(body) - 2).encode()
    other = (head.replace("{length}", "28") + body).replace(*change)
    if change[0] in body:
        length = len(body.replace(*change).format())
        other = other.replace("Content-Length: 28", f"Content-Length: {length}")
    with contextlib.closing(Client(sandbox.port)) as client:
        for _ in range(3):
            client.send(first)
            assert client.answer().status == 200
        client.send(other.format(token=sandbox.token).encode())
        answer = client.answer()
        assert 400 <= answer.status < 600
        if answer.headers.get("connection") != "close":
            client.send(first)
            assert client.answer().status == 200
    assert all(body == b'{"model":"m1","messages":[]}' for _, body in double.requests)
    assert len(double.requests) in (3, 4)


@pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")
@pytest.mark.parametrize(
    "raw",
    [
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nno chunk",
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n\0",
        b"GET / HTTP/1.0\r\nHost: h\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\n\0",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n",
    ],
)
def test_what_follows_a_refusal_is_read_to_its_end(tmp_path: Path, raw: bytes) -> None:
    """Also where the rest of the refused body cannot be parsed: else the caller's end is not seen."""
    config = tmp_path / "choir.toml"
    config.write_text("")
    loop = Loop()
    asyncio.set_event_loop(loop)
    try:
        settings, _ = settings_loader(Start(str(tmp_path), "unused", config=str(config)))(lambda service: None)
        relay = Relay(loop, settings, Records(), tokens.new_key())  # type: ignore[arg-type]
        caller = Caller("s1", "u1", "run", settings.config, tokens.new_key(), Spending())
        caller.listener = Listening()  # type: ignore[assignment]
        wire = Wire(loop, Connection(relay, caller))
        loop.settle()
        wire.send(raw)
        loop.settle()
        assert wire.seen.startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 505 "))
        assert wire.ended
        assert wire.is_reading()
        relay._ticker.cancel()
    finally:
        loop.close()
        asyncio.set_event_loop(None)


class Records:
    """Stands in for ``choir.gateway.usage.Recorder``."""

    accepting = True

    def record(self, records: list[UsageRecord]) -> None:
        pass


class Listening:
    def resume(self) -> None:
        pass


@pytest.mark.parametrize("framing", ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"])
def test_a_websocket_is_not_asked_for_with_a_body(sandbox: Sandbox, double: Double, framing: str) -> None:
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    raw = sandbox.request("/realtime?model=m", method="GET", headers=upgrade).removesuffix(b"\r\n") + framing.encode()
    answer = sandbox.call(raw)
    assert (answer.status, answer.error["reason"]) == (400, "upgrade_refused")
    assert double.requests == []
