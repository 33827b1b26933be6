"""Bytes both ways, and every way a call can end."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import select
import socket
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import StartGateway
from .harness import ANSWER, EVENTS, Client, Double, Gateway, Sandbox, provider


def test_streams_as_it_comes(sandbox: Sandbox, double: Double) -> None:
    with contextlib.closing(Client(sandbox.port)) as client:
        client.send(sandbox.request(behave="hold"))
        status, headers = client.head()
        assert (status, headers["content-type"], headers["transfer-encoding"]) == (200, "text/event-stream", "chunked")
        # The first event is here while the provider still holds the rest back.
        client.until(EVENTS[0])
        double.release.set()
        client.until(EVENTS[3])
        client.until(b"0\r\n\r\n")
        client.send(sandbox.request())
        client.exactly(0)
        assert client.answer().status == 200
    assert [record.outcome for record in sandbox.records(2)] == ["ok", "ok"]


def test_counts_tokens_of_a_stream(sandbox: Sandbox) -> None:
    answer = sandbox.call(behave="sse")
    assert answer.body == b"".join(EVENTS)
    (record,) = sandbox.records(1)
    assert (record.input_tokens, record.output_tokens) == (7, 2)


STREAM = b'{ "stream":true, "model":"m1"}'
HIDDEN = EVENTS[0] + EVENTS[1] + EVENTS[3]


@pytest.mark.parametrize("behave", ["sse", "sse_plain"])
def test_asks_for_the_usage_of_a_stream_and_hides_it(sandbox: Sandbox, double: Double, behave: str) -> None:
    answer = sandbox.call(body=STREAM, behave=behave, headers="Accept-Encoding: gzip\r\n")
    assert (answer.body, answer.whole) == (HIDDEN, True)
    head, body = double.requests[0]
    assert body == b'{"stream_options":{"include_usage":true}, "stream":true, "model":"m1"}'
    assert b"Accept-Encoding: identity\r\n" in head
    assert b"gzip" not in head
    (record,) = sandbox.records(1)
    assert (record.model, record.input_tokens, record.output_tokens) == ("m1", 7, 2)
    assert (record.bytes_in, record.bytes_out) == (len(STREAM), len(HIDDEN))


@pytest.mark.parametrize(
    ("provider", "path", "body"),
    [
        ("mock", "/chat/completions", b'{"stream":true,"stream_options":{"include_usage":true}}'),
        ("mock", "/chat/completions", b'{"stream":false}'),
        ("mock", "/responses", b'{"stream":true}'),
        ("unasked", "/v1/chat/completions", b'{"stream":true}'),
        ("claude", "/v1/messages", b'{"stream":true}'),
    ],
)
def test_other_streams_are_not_touched(sandbox: Sandbox, double: Double, provider: str, path: str, body: bytes) -> None:
    assert sandbox.call(provider=provider, path=path, body=body, behave="sse").body == b"".join(EVENTS)
    assert double.requests[0][1] == body


def test_a_refused_stream_keeps_its_error(sandbox: Sandbox) -> None:
    answer = sandbox.call(body=STREAM, behave="limited")
    assert (answer.status, answer.body) == (429, b'{"error":{"message":"slow down"}}')
    assert sandbox.call(body=STREAM, behave="json").body == ANSWER
    answer = sandbox.call(body=STREAM, behave="refused_events")
    assert (answer.status, answer.body) == (429, b"".join(EVENTS))
    outcomes = [record.outcome for record in sandbox.records(3)]
    assert outcomes == ["upstream:http_429", "ok", "upstream:http_429"]


def test_a_compressed_stream_passes_though_it_was_asked(sandbox: Sandbox) -> None:
    answer = sandbox.call(body=STREAM, behave="sse_gzip")
    assert gzip.decompress(answer.body) == b"".join(EVENTS)
    assert sandbox.records(1)[0].input_tokens == 7


@pytest.mark.parametrize("body", [STREAM, b'{"stream":true,"stream_options":{"include_usage":true}}'])
def test_a_client_that_leaves_after_the_last_event_had_its_answer(
    sandbox: Sandbox, double: Double, body: bytes
) -> None:
    client = Client(sandbox.port)
    client.send(sandbox.request(body=body, behave="linger"))
    client.until(EVENTS[3])
    # The record is there although the provider has not ended its answer.
    (record,) = sandbox.records(1)
    assert (record.outcome, record.input_tokens, record.output_tokens) == ("ok", 7, 2)
    client.close()
    assert double.lost.wait(5)
    assert sandbox.call().status == 200
    assert [record.outcome for record in sandbox.records(2)] == ["ok", "ok"], "one record each"


def test_what_breaks_after_the_last_event_is_not_an_error_of_the_answer(sandbox: Sandbox) -> None:
    answer = sandbox.call(behave="ended_cut")
    assert (answer.body, answer.whole) == (b"".join(EVENTS), False)
    assert sandbox.records(1)[0].outcome == "ok"


def test_a_body_that_policy_reads_is_forwarded_however_it_came(sandbox: Sandbox, double: Double) -> None:
    body = json.dumps({"model": "m1", "text": "x" * 5000}).encode()
    head = sandbox.request(body=b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    pieces = [body[at : at + 7] for at in range(0, len(body), 7)]
    raw = head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    with contextlib.closing(Client(sandbox.port)) as client:
        for at in range(0, len(raw), 1000):
            client.send(raw[at : at + 1000])
        assert client.answer().status == 200
    assert double.requests[0][1] == body
    assert b"Content-Length: %d\r\n" % len(body) in double.requests[0][0]


def test_one_sandbox_cannot_fill_the_memory_with_bodies(sandbox: Sandbox, gateway: Gateway) -> None:
    body = b'{"x":"' + b"y" * 299_900 + b'"}'
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(contextlib.closing(Client(sandbox.port))) for _ in range(5)]
        for client in clients:
            client.send(sandbox.request(body=body)[:-10])
        refused = {client for client in clients if select.select([client.sock], [], [], 0)[0]}
        while not refused:
            refused = {client for client in clients if select.select([client.sock], [], [], 1)[0]}
        (one,) = refused
        answer = one.answer()
        assert (answer.status, answer.error["reason"]) == (429, "bodies_waiting")
        assert gateway.sandbox().call(body=body).status == 200, "others go on"
        for client in set(clients) - refused:
            client.send(body[-10:])
            assert client.answer().status == 200
    for _ in range(6):
        assert sandbox.call(body=body).status == 200


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b'{"model":"m1","tools":[{"type":"web_search"}]}', 403, "provider_tool_denied"),
        (b'{"messages":[{"content":[{"type":"file","file":{"file_id":"f"}}]}]}', 403, "foreign_id_denied"),
        (b"not JSON", 400, "body_undecodable"),
        (b'{"model":"a","model":"b"}', 400, "body_undecodable"),
    ],
)
def test_refused_bodies_reach_nobody(sandbox: Sandbox, double: Double, body: bytes, status: int, reason: str) -> None:
    with contextlib.closing(Client(sandbox.port)) as client:
        for content_type in ("application/json", "text/plain"):
            request = sandbox.request(body=body).replace(b"application/json", content_type.encode())
            client.send(request)
            answer = client.answer()
            assert (answer.status, answer.error["reason"]) == (status, reason)
    assert double.requests == []
    assert [record.outcome for record in sandbox.records(2)] == [f"refused:{reason}"] * 2


def test_the_operator_allows_tools_and_stored_things(sandbox: Sandbox, double: Double) -> None:
    body = b'{"tools":[{"type":"web_search"}],"previous_response_id":"r"}'
    assert sandbox.call(provider="generous", path="/responses", body=body).status == 200
    assert double.requests[0][1] == body


def test_compressed_bodies_pass_untouched_and_are_counted(sandbox: Sandbox, double: Double) -> None:
    answer = sandbox.call(behave="gzip", headers="Accept-Encoding: br;q=1.0, gzip, zstd\r\n")
    assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(answer.body) == ANSWER
    assert sandbox.records(1)[0].input_tokens == 12
    assert b"Accept-Encoding: gzip\r\n" in double.requests[0][0]
    body = gzip.compress(b'{"model":"m1"}')
    assert sandbox.call(behave="echo", body=body, headers="Content-Encoding: gzip\r\n").body == body


@pytest.mark.parametrize("behave", ["trickle", "continue", "eof"])
def test_odd_but_whole_answers_pass(sandbox: Sandbox, behave: str) -> None:
    answer = sandbox.call(behave=behave)
    assert (answer.status, answer.body, answer.whole) == (200, ANSWER, True)
    assert sandbox.records(1)[0].outcome == "ok"


@pytest.mark.parametrize(
    ("behave", "status", "reason"),
    [
        ("close", 502, "reset"),
        ("reset", 502, "reset"),
        ("garbage", 502, "malformed"),
        ("redirect", 502, "redirect"),
        ("websocket", 502, "malformed"),
    ],
)
def test_failures_before_the_answer(sandbox: Sandbox, double: Double, behave: str, status: int, reason: str) -> None:
    with contextlib.closing(Client(sandbox.port)) as client:
        client.send(sandbox.request(behave=behave))
        answer = client.answer()
        assert (answer.status, answer.error["reason"]) == (status, reason)
        assert answer.error["message"].startswith("The provider mock ")
        client.send(sandbox.request())
        assert client.answer().status == 200
    assert len(double.requests) == 2, "a POST is not sent twice"
    assert sandbox.records(2)[0].outcome == f"upstream:{reason}"


def test_a_stream_that_breaks_says_so(sandbox: Sandbox) -> None:
    for behave in ("cut", "badchunk"):
        answer = sandbox.call(behave=behave)
        assert answer.status == 200
        assert not answer.whole, "no client may take it for a whole answer"
        assert answer.body.startswith(EVENTS[0])
        last = answer.body.strip().splitlines()[-1]
        error = json.loads(last.removeprefix(b"data: "))["error"]
        assert error["message"].startswith("The provider mock ")
        assert b"[DONE]" not in answer.body
    assert [record.outcome for record in sandbox.records(2)] == ["cut", "cut"]
    answer = sandbox.call(provider="claude", path="/v1/messages?beta=true", behave="cut")
    assert b"\n\nevent: error\ndata: " in answer.body
    assert json.loads(answer.body.strip().splitlines()[-1][6:])["type"] == "error"


def test_a_body_that_ends_early_is_cut(sandbox: Sandbox) -> None:
    answer = sandbox.call(behave="short")
    assert (answer.status, answer.whole) == (200, False)
    assert sandbox.records(1)[0].outcome == "cut"


def test_a_client_that_leaves_ends_the_call(sandbox: Sandbox, gateway: Gateway, double: Double) -> None:
    client = Client(sandbox.port)
    client.send(sandbox.request(behave="hold"))
    client.until(EVENTS[0])
    client.close()
    assert double.lost.wait(5), "the provider's connection is closed"
    (record,) = sandbox.records(1)
    assert (record.outcome, record.status) == ("client_gone", 200)
    found = [s for s in gateway.ask({"op": "status"})["sandboxes"] if s["sandbox_id"] == sandbox.sandbox_id]
    assert (found[0]["calls"], found[0]["connections"]) == (0, 0)


def test_a_provider_that_answers_early(sandbox: Sandbox, double: Double) -> None:
    with contextlib.closing(Client(sandbox.port)) as client:
        client.send(sandbox.request(path="/embeddings", body=b"x" * 200_000, behave="early")[:-100_000])
        answer = client.answer()
        assert (answer.status, answer.error["message"]) == (400, "no")
        client.send(b"x" * 100_000)
        assert client.closed()
    assert sandbox.call().status == 200


def test_a_providers_limit_is_told_apart(sandbox: Sandbox) -> None:
    answer = sandbox.call(behave="limited")
    assert (answer.status, answer.headers["retry-after"]) == (429, "7")
    assert answer.body == b'{"error":{"message":"slow down"}}'
    assert sandbox.records(1)[0].outcome == "upstream:http_429"


def test_keeps_connections_to_the_provider(sandbox: Sandbox, double: Double) -> None:
    sandbox.call()
    before = double.connections
    for _ in range(10):
        assert sandbox.call().status == 200
    assert double.connections == before


def test_a_get_is_repeated_on_a_connection_that_had_gone_stale(sandbox: Sandbox, double: Double) -> None:
    sandbox.call()
    # The double answers the second request on a kept connection by closing it, and any first one properly.
    answer = sandbox.call(method="GET", path="/models", behave="close")
    assert answer.status == 502
    assert len(double.requests) == 3, "once more on a fresh connection, then no more"


def test_a_slow_reader_slows_the_provider_down(sandbox: Sandbox, double: Double) -> None:
    with contextlib.closing(Client(sandbox.port)) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.send(sandbox.request(behave="big"))
        assert client.head()[0] == 200
        last = -1
        while last != double.sent:
            last = double.sent
            time.sleep(0.2)
        assert last < 48 * 1024 * 1024, "it stopped, though nobody told it to"
        assert len(client.exactly(64 * 1024 * 1024)) == 64 * 1024 * 1024
        client.send(sandbox.request())
        assert client.answer().status == 200


def test_websocket(sandbox: Sandbox, double: Double) -> None:
    head = sandbox.request(
        path="/realtime?model=gpt-realtime",
        method="GET",
        behave="websocket",
        headers="Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\nSec-WebSocket-Version: 13\r\n",
    )
    with contextlib.closing(Client(sandbox.port)) as client:
        client.send(head + b"early")
        status, headers = client.head()
        assert (status, headers["upgrade"], headers["sec-websocket-accept"]) == (101, "websocket", "abc")
        assert "set-cookie" not in headers
        assert client.exactly(10) == b"helloEARLY"
        client.send(b"x" * 300_000)
        assert client.exactly(300_000) == b"X" * 300_000
    (record,) = sandbox.records(1)
    assert (record.status, record.outcome, record.model) == (101, "ok", "gpt-realtime")
    assert (record.bytes_in, record.bytes_out) == (300_005, 300_010)
    sent = double.requests[0][0]
    assert b"Upgrade: websocket\r\n" in sent
    assert b"Sec-WebSocket-Key: k\r\n" in sent
    assert sandbox.token.encode() not in sent


def test_a_websocket_that_is_refused(sandbox: Sandbox) -> None:
    head = sandbox.request(
        path="/realtime", method="GET", behave="limited", headers="Connection: Upgrade\r\nUpgrade: websocket\r\n"
    )
    assert sandbox.call(head).status == 429


def test_reads_the_model_of_long_bodies(sandbox: Sandbox, double: Double, start_gateway: StartGateway) -> None:
    gateway = start_gateway(provider("mock", double.port))
    sandbox = gateway.sandbox()
    long = "x" * 3_000_000
    bodies = [
        {"model": "first", "input": long},
        {"input": long, "model": "last"},
        {"input": [{"model": "nested"}, "x" * 200_000], "model": "outer"},
        {"input": '"model":"quoted"'},
    ]
    for body in bodies:
        raw = json.dumps(body).encode()
        assert sandbox.call(body=raw, behave="echo").body == raw
    assert [record.model for record in sandbox.records(4)] == ["first", "last", "outer", None]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.binary(max_size=40), st.booleans()), min_size=1, max_size=4),
    st.lists(st.integers(min_value=1, max_value=60), min_size=1, max_size=40),
)
def test_any_split_of_the_bytes_makes_no_difference(
    sandbox: Sandbox, bodies: list[tuple[bytes, bool]], sizes: list[int]
) -> None:
    raw = b""
    for body, chunked in bodies:
        if chunked:
            head = sandbox.request("/embeddings", b"", "echo").replace(
                b"Content-Length: 0", b"Transfer-Encoding: chunked"
            )
            pieces = [body[at : at + 7] for at in range(0, len(body), 7)]
            raw += head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        else:
            raw += sandbox.request("/embeddings", body, "echo")
    with contextlib.closing(Client(sandbox.port)) as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        at, turn = 0, 0
        while at < len(raw):
            size = sizes[turn % len(sizes)] * (20 if turn > 60 else 1)
            client.send(raw[at : at + size])
            at, turn = at + size, turn + 1
        assert [client.answer().body for _ in bodies] == [body for body, _ in bodies]


def test_no_descriptor_is_left_behind(sandbox: Sandbox, gateway: Gateway) -> None:
    def descriptors() -> int:
        return len(os.listdir(f"/proc/{gateway.worker_pid}/fd"))

    if os.geteuid() != 0:
        pytest.skip("another's /proc/PID/fd can be read by root only; the gateway is not dumpable")
    for behave in ("json", "cut", "close", "garbage", "redirect", "short"):
        sandbox.call(behave=behave)
    before = descriptors()
    for _ in range(15):
        for behave in ("json", "cut", "close", "garbage", "redirect", "short"):
            sandbox.call(behave=behave)
    assert descriptors() <= before + 2


SHORT = "[timeouts]\nconnect = 0.3\nfirst_byte = 0.3\nidle = 0.3\n"


def test_timeouts(double: Double, start_gateway: StartGateway) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf, contextlib.ExitStack() as stack:
        port = deaf.getsockname()[1]
        for _ in range(3):  # fill its queue, so that nothing is accepted any more
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        gateway = start_gateway(provider("mock", double.port) + provider("deaf", port) + SHORT)
        sandbox = gateway.sandbox()
        answer = sandbox.call(provider="deaf")
        assert (answer.status, answer.error["reason"]) == (504, "connect_timeout")
    answer = sandbox.call(behave="stall")
    assert (answer.status, answer.error["reason"]) == (504, "first_byte_timeout")
    answer = sandbox.call(behave="silent")
    assert (answer.status, answer.whole) == (200, False)
    assert b"fell silent" in answer.body
    with contextlib.closing(Client(sandbox.port)) as client:
        client.send(sandbox.request()[:-5])
        assert client.answer().status == 408
    outcomes = ["upstream:connect_timeout", "upstream:first_byte_timeout", "cut", "refused:body_timeout"]
    assert [record.outcome for record in sandbox.records(4)] == outcomes


def test_unreachable_and_unresolvable(start_gateway: StartGateway) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    config = provider("mock", port) + provider("lost", 80).replace("127.0.0.1:80", "no-such-host.invalid")
    sandbox = start_gateway(config).sandbox()
    assert sandbox.call().error["reason"] == "unreachable"
    assert sandbox.call(provider="lost").error["reason"] in ("unresolvable", "unreachable", "connect_timeout")


def test_a_service_is_started_on_its_first_use(tmp_path: Path, start_gateway: StartGateway) -> None:
    path = tmp_path / "own" / "state" / "run" / "local.sock"
    gateway = start_gateway("", services={"local": "the-local-key"})
    assert {"name": "local", "enabled": True, "reason": ""} in gateway.ready["providers"]
    sandbox = gateway.sandbox()
    with contextlib.closing(Client(sandbox.port)) as client:
        client.send(sandbox.request(provider="local", path="/v1/chat/completions"))
        assert gateway.event() == {"event": "wanted", "service": "local"}
        local = Double(path)
        assert client.answer().body == ANSWER
        assert b"Authorization: Bearer the-local-key\r\n" in local.requests[0][0]
        assert b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n" in local.requests[0][0]
        local.stop()
