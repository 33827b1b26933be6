"""Bytes both ways, and every way a call can end."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from choir.frames import CLOSE
from choir.gateway.websocket import Reader

from .conftest import StartGateway
from .harness import ANSWER, EVENTS, LONG, SAID, Client, Double, Gateway, Sandbox, provider


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


def test_an_answer_that_comes_again_is_told_and_recorded_alike(sandbox: Sandbox) -> None:
    answers = [sandbox.call() for _ in range(3)]
    assert {answer.body for answer in answers} == {ANSWER}
    assert len({answer.headers.pop("x-choir-request-id") for answer in answers}) == 3
    assert answers[0].headers == answers[1].headers == answers[2].headers
    records = sandbox.records(3)
    assert [(each.status, each.outcome, each.bytes_out) for each in records] == [(200, "ok", len(ANSWER))] * 3
    assert [(each.input_tokens, each.output_tokens) for each in records] == [(12, 3)] * 3
    assert all(each.ttft_ms is not None and each.ttft_ms <= each.latency_ms for each in records)


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


def event(value: dict[str, Any]) -> bytes:
    return Frame(Opcode.TEXT, json.dumps(value).encode()).serialize(mask=True)


UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
DENIED = event({"type": "response.create", "conversation": "x", "response": {"tools": [{"type": "mcp"}]}})


@contextlib.contextmanager
def websocket(sandbox: Sandbox, path: str = "/realtime?model=m", behave: str = "websocket") -> Iterator[Client]:
    with contextlib.closing(Client(sandbox.port)) as client:
        client.send(sandbox.request(path, method="GET", behave=behave, headers=UPGRADE))
        assert client.head()[0] == 101
        yield client


def rest(client: Client) -> bytes:
    """All that comes until the end."""
    heard = b""
    with contextlib.suppress(EOFError):
        while True:
            heard += client.exactly(1)
    return heard


@pytest.mark.parametrize("path", ["/realtime?model=m", "/responses"])
def test_what_may_not_be_said_on_a_websocket(sandbox: Sandbox, path: str) -> None:
    with websocket(sandbox, path) as client:
        assert client.exactly(5) == b"hello"
        client.send(DENIED)
        client.send(b"x" * 1_000_000)
        heard = rest(client)
    assert b'"type":"error"' in heard
    assert b"Choir's gateway refused" in heard
    (record,) = sandbox.records(1)
    assert record.outcome in ("refused:provider_tool_denied", "refused:foreign_id_denied")


def test_messages_under_way_are_bodies_that_wait(sandbox: Sandbox) -> None:
    """Many WebSockets with unfinished messages hold no more than many unfinished bodies may."""
    half = Frame(Opcode.TEXT, b"x" * 290_000, fin=False).serialize(mask=True)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(websocket(sandbox)) for _ in range(5)]
        for client in clients:
            assert client.exactly(5) == b"hello"
            client.send(half)
        refused = select.select([client.sock for client in clients], [], [], 10)[0]
        (one,) = [client for client in clients if client.sock in refused]
        assert b"bodies_waiting" in rest(one)
    outcomes = [record.outcome for record in sandbox.records(5)]
    assert outcomes.count("refused:bodies_waiting") == 1
    assert sandbox.call(body=b'{"model":"m1","messages":[],"user":"%b"}' % (b"x" * 200_000)).status == 200


def test_a_farewell_follows_the_providers_message(sandbox: Sandbox, double: Double) -> None:
    """What came in the middle of it could not be read as a frame."""
    with websocket(sandbox, "/responses", "half_a_message") as client:
        client.send(event({"type": "response.cancel"}) + DENIED)
        heard = rest(client)
    said, error, end = Reader(masked=False, max_bytes=10_000).feed(heard)
    assert said.raw == SAID
    assert json.loads(error.text)["error"]["reason"] == "foreign_id_denied"
    assert end.opcode == CLOSE
    assert double.lost.wait(5)
    assert sandbox.records(1)[0].bytes_out == len(SAID)


def test_a_websocket_waits_for_who_reads_slowly(sandbox: Sandbox, double: Double) -> None:
    """In both directions."""
    with websocket(sandbox, behave="talkative") as client:
        client.sock.settimeout(1)
        with pytest.raises(TimeoutError):  # the provider never reads
            client.send(event({"type": "response.cancel", "x": "x" * 131_072}) * 512)
        assert double.sent < 400, "it stopped, though nobody told it to"
        client.sock.settimeout(10)
        assert client.exactly(512 * len(LONG)) == 512 * LONG
        double.release.set()
        assert client.closed()
    assert sandbox.records(1)[0].bytes_out == 512 * len(LONG)


def test_each_response_asked_for_is_a_request(double: Double, start_gateway: StartGateway) -> None:
    sandbox = start_gateway(provider("mock", double.port) + "[limits]\nrequests_per_minute = 3\n").sandbox()
    ask, cancel = event({"type": "response.create"}), event({"type": "response.cancel"})
    with websocket(sandbox) as client:
        passed = ask + cancel + ask + cancel
        client.send(passed)
        assert client.exactly(5 + len(passed)) == b"hello" + passed.upper()
        client.send(ask)
        assert b"requests_per_minute" in rest(client)
    assert sandbox.call().error["reason"] == "requests_per_minute"


def test_a_limit_that_comes_later_holds_for_open_websockets(double: Double, start_gateway: StartGateway) -> None:
    gateway = start_gateway(provider("mock", double.port))
    sandbox, append = gateway.sandbox(), event({"type": "input_audio_buffer.append"})
    with websocket(sandbox) as client:
        client.send(append)
        assert client.exactly(5 + len(append)) == b"hello" + append.upper()
        gateway.config.write_text(gateway.config.read_text() + "[limits]\ntokens_per_minute = 1000\n")
        assert gateway.ask({"op": "reload"})["ok"]
        client.send(append)
        assert b"nothing bounds what `GET /realtime` uses" in rest(client)
    assert sandbox.records(1)[0].outcome == "refused:bound_required"


def test_a_websockets_model(double: Double, start_gateway: StartGateway) -> None:
    """In the address, or in what is said; for the provider's list and for the user's."""
    users = '[users.u2]\nmodels = ["mock/m*"]\ndeny_models = ["mock/m2"]\n'
    gateway = start_gateway(provider("mock", double.port, 'models = ["m1", "m2"]') + users)
    for user, allowed, denied in (("u1", "m2", "m3"), ("u2", "m1", "m2")):
        sandbox = gateway.sandbox(user_id=user)
        for path in (f"/realtime?model={denied}", "/realtime"):
            assert sandbox.call(path=path, method="GET", headers=UPGRADE, behave="websocket").status in (400, 403)
        ask = event({"type": "response.create", "model": allowed, "input": "x"})
        with websocket(sandbox, "/responses") as client:
            client.send(ask)
            assert client.exactly(5 + len(ask)) == b"hello" + ask.upper()
            client.send(event({"type": "response.create", "model": denied}))
            assert b"model_not_allowed" in rest(client)
        with websocket(sandbox, f"/realtime?model={allowed}") as client:
            client.send(event({"type": "session.update", "session": {"audio": {"input": {"x": {"model": denied}}}}}))
            assert b"model_not_allowed" in rest(client)
        assert {record.model for record in sandbox.records(4)[2:]} == {allowed}


def test_a_websockets_route_is_nothing_else(sandbox: Sandbox, double: Double) -> None:
    """A plain GET of ``/responses`` could list what is stored."""
    for path in ("/responses", "/realtime?model=m"):
        answer = sandbox.call(path=path, method="GET")
        assert (answer.status, answer.error["reason"]) == (400, "upgrade_required")
    assert double.requests == []


def test_a_binary_stream_that_breaks_says_so(sandbox: Sandbox) -> None:
    path = "/model/m/converse-stream"
    with contextlib.closing(Client(sandbox.port)) as client:
        client.send(sandbox.request(path, behave="frames_cut", provider="bedrock"))
        answer = client.answer()
    assert not answer.whole
    reader = EventStreamBuffer()
    reader.add_data(answer.body)
    first, last = list(reader)
    assert first.headers[":event-type"] == "messageStart"
    assert last.headers[":message-type"] == "exception"
    assert last.headers[":exception-type"] == "modelStreamErrorException"
    (record,) = sandbox.records(1)
    assert record.outcome == "cut"


def test_websocket(sandbox: Sandbox, double: Double) -> None:
    head = sandbox.request(
        path="/realtime?model=gpt-realtime",
        method="GET",
        behave="websocket",
        headers="Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Extensions: permessage-deflate\r\n",
    )
    with contextlib.closing(Client(sandbox.port)) as client:
        early, long = (
            event({"type": "input_audio_buffer.clear"}),
            event({"type": "response.cancel", "x": "x" * 250_000}),
        )
        client.send(head + early)
        status, headers = client.head()
        assert (status, headers["upgrade"], headers["sec-websocket-accept"]) == (101, "websocket", "abc")
        assert "set-cookie" not in headers
        assert client.exactly(5 + len(early)) == b"hello" + early.upper()
        client.send(long)
        assert client.exactly(len(long)) == long.upper()
    (record,) = sandbox.records(1)
    assert (record.status, record.outcome, record.model) == (101, "ok", "gpt-realtime")
    assert (record.bytes_in, record.bytes_out) == (len(early + long), 5 + len(early + long))
    sent = double.requests[0][0]
    assert b"Upgrade: websocket\r\n" in sent
    assert b"Sec-WebSocket-Key: k\r\n" in sent
    assert b"Extensions" not in sent, "compressed, nobody could read it"
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
