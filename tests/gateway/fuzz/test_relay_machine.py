"""Any order of any events at both ends of the relay, and what must hold whatever happened.

The real classes run on connections in memory: clients that send piecemeal, pipeline, read slowly and leave; providers
that answer early, in pieces, wrongly or not at all.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
import re
import secrets
import socket
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from choir import tokens
from choir.contract import UsageRecord
from choir.gateway.admission import Settings
from choir.gateway.answer import KEEP_ALIVE
from choir.gateway.gateway import Gateway
from choir.gateway.main import Start, settings_loader
from choir.gateway.request import Connection

from .memory import Loop, Wire
from .messages import Message, read

KEY = "sk-" + secrets.token_hex(16)
CLIENTS = 3
EVENT = b'data: {"choices":[{"delta":{"content":"%d"}}]}\n\n'
CONFIG = """
[providers.mock]
like = "openai"
base_url = "http://provider.example:80/v1"
key = "env:MOCK_KEY"
circuit_failures = 0
[limits]
requests_per_minute = 1000000
concurrent_requests = 4
max_body_bytes = 4000000
"""
Kind = st.sampled_from(
    ["length", "chunks", "events", "refusal", "empty", "to the end", "interim", "garbage", "both", "cut", "long"]
)
Route = st.sampled_from(["chat", "embeddings", "models", "nowhere"])
Share = st.sampled_from([10**7, 1, 2, 40, 300, 5000, 10**7])  # bytes


class Records:
    """Stands in for ``choir.gateway.usage.Recorder``."""

    accepting = True
    waiting = 0
    ledger_failing = journal_failing = False

    def __init__(self) -> None:
        self.all: list[UsageRecord] = []

    def record(self, records: list[UsageRecord]) -> None:
        self.all.extend(records)


@dataclass(eq=False)
class Client:
    wire: Wire
    asked: list[int] = field(default_factory=list)
    """Numbers of the requests it has begun to send, in that order."""
    unsent: bytes = b""


@dataclass(eq=False)
class Provider:
    """The far end of one upstream connection."""

    wire: Wire
    answered: int = 0
    unsent: bytes = b""
    closes: bool = False
    """Ends once everything was sent."""

    def requests(self) -> list[Message]:
        return read(bytes(self.wire.seen))


class Relay(RuleBasedStateMachine):
    settings: ClassVar[Settings]

    def __init__(self) -> None:
        super().__init__()
        self.loop = Loop()
        asyncio.set_event_loop(self.loop)
        self.records = Records()
        key = tokens.new_key()
        upstreams = copy.deepcopy({"mock": self.settings.upstreams["mock"]})
        chosen = dataclasses.replace(self.settings, upstreams=upstreams)
        self.gateway = Gateway(self.loop, chosen, self.records, key)  # type: ignore[arg-type]
        listener = socket.create_server(("127.0.0.1", 0))
        self.loop.call_soon(self.gateway.registry.attach, "s1", "u1", "run", float("inf"), listener.detach())
        # ``attach`` needs a running loop.
        self.loop.settle()
        self.sandbox = self.gateway.registry.sandboxes["s1"]
        self.token = tokens.sign(key, "s1")
        self.clients: list[Client] = []
        self.providers: list[Provider] = []
        self.sent: dict[int, bytes] = {}
        """Body by number."""
        self.whole: dict[int, list[tuple[int, bytes]]] = {}
        """Answers that a provider has sent to its last byte: status and body."""

    # ------------------------------------------------------------------ what happens

    def done(self) -> None:
        self.loop.settle()
        known = {id(provider.wire) for provider in self.providers}
        self.providers += [Provider(wire) for wire in self.loop.accepted if id(wire) not in known]

    @initialize(accepts=st.sampled_from([True, True, False]))
    def first(self, accepts: bool) -> None:
        self.loop.accepts = accepts
        self.connect()

    @precondition(lambda self: sum(c.wire.open for c in self.clients) < CLIENTS)
    @rule()
    def connect(self) -> None:
        wire = Wire(self.loop, Connection(self.gateway, self.sandbox))
        self.clients.append(Client(wire))
        self.done()

    @precondition(lambda self: any(c.wire.open for c in self.clients))
    @rule(
        data=st.data(),
        route=Route,
        chunked=st.booleans(),
        size=st.sampled_from([0, 1, 100, 70_000, 400_000]),
        last=st.sampled_from([False, False, False, True]),
        count=Share,
    )
    def ask(self, data: Any, route: str, chunked: bool, size: int, last: bool, count: int) -> None:
        client = data.draw(st.sampled_from([c for c in self.clients if c.wire.open]))
        number = len(self.sent)
        path = {"chat": "chat/completions", "embeddings": "embeddings", "models": "models", "nowhere": "files"}[route]
        method = "GET" if route == "models" else "POST"
        body = b"" if method == "GET" else json.dumps({"model": "m", "n": number, "x": "y" * size}).encode()
        head = f"{method} /provider/v1/mock/{path} HTTP/1.1\r\nHost: h\r\nX-Number: {number}\r\n"
        head += f"Authorization: Bearer {self.token}\r\n"
        if last:
            head += "Connection: close\r\n"
        if method == "POST":
            head += "Content-Type: application/json\r\n"
            head += "Transfer-Encoding: chunked\r\n" if chunked else f"Content-Length: {len(body)}\r\n"
        framed = body
        if method == "POST" and chunked:
            step = max(1, len(body) // 3)
            pieces = [body[at : at + step] for at in range(0, len(body), step)]
            framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        self.sent[number] = body
        client.asked.append(number)
        client.unsent += head.encode() + b"\r\n" + framed
        self._send(client, count)

    @precondition(lambda self: any(c.unsent and c.wire.open for c in self.clients))
    @rule(data=st.data(), count=Share)
    def send(self, data: Any, count: int) -> None:
        client = data.draw(st.sampled_from([c for c in self.clients if c.unsent and c.wire.open]))
        self._send(client, count)

    def _send(self, client: Client, count: int) -> None:
        piece, client.unsent = client.unsent[:count], client.unsent[count:]
        client.wire.send(piece)
        self.done()

    @precondition(lambda self: any(c.wire.open for c in self.clients))
    @rule(data=st.data(), how=st.sampled_from(["slow", "fast", "slow", "fast", "end", "reset", "garbage"]))
    def client_does(self, data: Any, how: str) -> None:
        client = data.draw(st.sampled_from([c for c in self.clients if c.wire.open]))
        if how == "end":
            client.wire.end()
        elif how == "reset":
            client.wire.reset()
        elif how == "garbage":
            client.unsent += b"\0\0 this is not HTTP\r\n\r\n"
        else:
            client.wire.take(how == "fast")
        self.done()

    @precondition(lambda self: self.loop.waiting)
    @rule(accepts=st.sampled_from([True, True, True, False]))
    def answer_connect(self, accepts: bool) -> None:
        self.loop.accept() if accepts else self.loop.refuse()
        self.done()

    def _may_answer(self) -> list[Provider]:
        return [p for p in self.providers if p.wire.open and not p.closes and len(p.requests()) > p.answered]

    @precondition(lambda self: self._may_answer())
    @rule(data=st.data(), kind=Kind, count=Share)
    def answer(self, data: Any, kind: str, count: int) -> None:
        """The next request of a connection, even before it is whole."""
        provider = data.draw(st.sampled_from(self._may_answer()))
        request = provider.requests()[provider.answered]
        if b"x-number" not in request.fields:
            return
        number = int(request.fields[b"x-number"])
        provider.answered += 1
        body = json.dumps({"n": number}).encode()
        ok = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        chunks = b"Transfer-Encoding: chunked\r\n\r\n"
        if kind == "length":
            text = ok + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        elif kind == "long":
            body += b" " * 300_000
            text = ok + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        elif kind == "chunks":
            text = ok + chunks + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
        elif kind == "events":
            body = EVENT % number + EVENT % number
            text = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + chunks
            text += (b"%x\r\n%b\r\n" % (len(EVENT % number), EVENT % number)) * 2 + b"0\r\n\r\n"
        elif kind == "refusal":
            text = b"HTTP/1.1 429 No\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
                len(body),
                body,
            )
        elif kind == "empty":
            body, text = b"", b"HTTP/1.1 204 No Content\r\n\r\n"
        elif kind == "to the end":
            text, provider.closes = ok + b"\r\n" + body, True
        elif kind == "interim":
            text = (
                b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
                + ok
                + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            )
        elif kind == "cut":
            text, provider.closes = ok + b"Content-Length: 999\r\n\r\n" + body, True
        elif kind == "both":
            text = ok + b"Content-Length: 3\r\n" + chunks + b"3\r\nabc\r\n0\r\n\r\n"
        else:
            text = b"\0garbage\r\n\r\n"
        provider.unsent += text
        if kind not in ("cut", "both", "garbage"):
            status = {"refusal": 429, "empty": 204}.get(kind, 200)
            self.whole.setdefault(number, []).append((status, body))
        self._relay(provider, count)

    @precondition(lambda self: any((p.unsent or p.closes) and p.wire.open for p in self.providers))
    @rule(data=st.data(), count=Share)
    def relay(self, data: Any, count: int) -> None:
        provider = data.draw(st.sampled_from([p for p in self.providers if (p.unsent or p.closes) and p.wire.open]))
        self._relay(provider, count)

    def _relay(self, provider: Provider, count: int) -> None:
        piece, provider.unsent = provider.unsent[:count], provider.unsent[count:]
        provider.wire.send(piece)
        if not provider.unsent and provider.closes:
            provider.wire.end()
        self.done()

    @precondition(lambda self: any(p.wire.open for p in self.providers))
    @rule(data=st.data(), how=st.sampled_from(["slow", "fast", "slow", "fast", "end", "reset", "unasked"]))
    def provider_does(self, data: Any, how: str) -> None:
        provider = data.draw(st.sampled_from([p for p in self.providers if p.wire.open]))
        if how == "end":
            provider.wire.end()
        elif how == "reset":
            provider.wire.reset()
        elif how == "unasked":
            # With a request on its way it would be the answer to that one.
            asked = len(provider.requests()) > provider.answered or provider.wire.get_write_buffer_size()
            if not asked and not provider.unsent:
                provider.wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        else:
            provider.wire.take(how == "fast")
        self.done()

    @rule(seconds=st.sampled_from([1, 20, 20, 1000]))
    def time_passes(self, seconds: int) -> None:
        now = self.loop.time() + seconds  # of the same clock as time.perf_counter on Linux
        for call in sorted(self.gateway.calls, key=lambda call: call.request_id):
            call.tick(now)
        for client in self.clients:
            if client.wire.open:
                client.wire.get_protocol().tick(now)  # type: ignore[attr-defined]
        self.done()

    # ------------------------------------------------------------------ what holds

    @invariant()
    def nothing_raised(self) -> None:
        assert not self.loop.faults, self.loop.faults

    @invariant()
    def every_slot_has_its_call(self) -> None:
        assert self.sandbox.budget.active == len(self.gateway.calls) <= 4

    @invariant()
    def each_call_has_one_record(self) -> None:
        ids = [record.request_id for record in self.records.all]
        assert len(ids) == len(set(ids))

    def teardown(self) -> None:
        for client in self.clients:
            client.wire.take(True)
        for provider in self.providers:
            provider.wire.take(True)
        self.done()
        while self.loop.waiting:
            self.loop.refuse()
            self.done()
        for client in self.clients:
            client.wire.end()
        self.done()
        # A connection that is not read, for backpressure or behind a pipelined request, is seen to end later.
        unseen = sum(client.wire.open and not client.wire.is_reading() for client in self.clients)
        assert len(self.gateway.calls) <= unseen, "a client has gone and its call goes on"
        for _ in self.sent:
            for provider in self.providers:
                provider.wire.end()
            self.done()
            while self.loop.waiting:
                self.loop.refuse()
                self.done()
        self.nothing_raised()
        self.every_slot_has_its_call()
        self.each_call_has_one_record()
        assert not self.gateway.calls, "a call was left behind"
        assert not self.sandbox.connections, "a connection was left behind"
        assert self.sandbox.budget.gathered == 0
        self._requests_are_those_that_were_admitted()
        for client in self.clients:
            self._answers_are_whole_or_seen_to_be_cut(client)
        for upstream in self.gateway.settings.upstreams.values():
            upstream.close()
        self.done()
        assert not any(provider.wire.open for provider in self.providers), "a descriptor was left behind"
        self.gateway.registry.detach("s1")
        self.gateway._ticker.cancel()
        assert asyncio.all_tasks(self.loop) == set(), "a task was left behind"
        self.loop.close()
        asyncio.set_event_loop(None)

    def _requests_are_those_that_were_admitted(self) -> None:
        times: dict[int, int] = {}
        for provider in self.providers:
            for request in provider.requests():
                if not request.fields:  # broken off within its head
                    continue
                number = int(request.fields[b"x-number"])
                times[number] = times.get(number, 0) + 1
                method, path, _ = request.line.split()
                assert path in (b"/v1/chat/completions", b"/v1/embeddings", b"/v1/models")
                assert request.fields[b"authorization"] == b"Bearer " + KEY.encode()
                assert self.token.encode() not in request.line + b"".join(request.fields.values()) + request.body
                assert self.sent[number].startswith(request.body), "bytes that the caller did not send"
                if request.whole:
                    assert request.body == self.sent[number]
                assert times[number] <= (2 if method == b"GET" else 1), "sent again"
        started = [record for record in self.records.all if record.provider == "mock"]
        assert len(started) >= len(times), "a call without a record"

    def _answers_are_whole_or_seen_to_be_cut(self, client: Client) -> None:
        answers = read(bytes(client.wire.seen))
        by_id = {record.request_id: record for record in self.records.all}
        assert len(answers) <= len(client.asked) + 1  # one more for what is no request
        for place, answer in enumerate(answers):
            if not answer.whole:
                assert place == len(answers) - 1
                continue
            record = by_id[answer.fields[b"x-choir-request-id"].decode()]
            assert record.status == answer.status
            if b'"reason":' in answer.body:  # the gateway's own
                assert record.outcome.startswith(("refused:", "upstream:"))
                assert answer.status >= 400
                continue
            number = client.asked[place]
            assert b"poison" not in answer.body
            body = answer.body
            if answer.fields.get(b"content-type") == b"text/event-stream":
                body = body.replace(KEEP_ALIVE, b"")  # it has waited for the provider
            assert (answer.status, body) in self.whole.get(number, []), "taken for whole, or another's"
            assert record.outcome == ("ok" if answer.status < 300 else f"upstream:http_{answer.status}")


@pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")
@pytest.mark.parametrize("examples", [60, pytest.param(5_000, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
def test_whatever_happens(
    examples: int, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("choir.gateway.upstream._AGAIN_SECONDS", 0.0)  # time passes in the machine alone
    folder = tmp_path_factory.mktemp("machine")
    (folder / "choir.toml").write_text(CONFIG)

    start = Start(str(folder), "unused", config=str(folder / "choir.toml"), secrets={"MOCK_KEY": KEY})

    class Machine(Relay):
        settings, _ = settings_loader(start)(lambda service: None)

    health = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=health,
            phases=set(Phase) - {Phase.explain},
        ),
    )


def test_the_reader_of_messages() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert [m.body for m in read(head + b"1\r\na\r\n0\r\n\r\n" + head + b"0\r\n\r\n")] == [b"a", b""]
    assert not read(head + b"1\r\na\r\n0\r\n")[0].whole
    assert re.match(b"HTTP", read(b"HTTP/1.1 200 OK\r\nX: ")[0].line)
    with pytest.raises(AssertionError):
        read(head + b"zz\r\n")
