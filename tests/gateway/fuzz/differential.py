"""What the gateway lets through, h11 takes as well, and reads the same in it.

Both sides are driven whole, on connections in memory: bytes of a client in, what a provider was sent out; bytes of a
provider in, what a client was sent out. Nothing of how the gateway parses is known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import h11

from choir import tokens
from choir.contract import UsageRecord
from choir.gateway.gateway import Gateway
from choir.gateway.main import Start, settings_loader
from choir.gateway.request import Connection

from .memory import Loop, Wire
from .messages import Message, read

CONFIG = """
[providers.mock]
like = "openai"
base_url = "http://provider.example:80/v1"
key = "env:MOCK_KEY"
circuit_failures = 0
[limits]
requests_per_minute = 1000000000
max_body_bytes = 4000000
"""
TOKEN = b"TOKEN"
"""Stands for a genuine token, which is another each time."""
CUT = b"<CUT>"
"""Parts what arrives at once from what arrives later, when the calls before it were answered."""
_MOUNT, _PREFIX = b"/provider/v1/mock", b"/v1"
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
_MAX = 1 << 22

_POST = b"POST /provider/v1/mock/%b HTTP/1.1\r\nHost: h\r\n%b: %b\r\n"
REQUESTS = (
    _POST % (b"chat/completions", b"Authorization", b"Bearer TOKEN") + b"Content-Length: 2\r\n\r\n{}",
    _POST % (b"embeddings", b"Authorization", b"Bearer TOKEN") + b"Content-Length: 3\r\n\r\nabc",
    _POST % (b"embeddings", b"x-api-key", b"TOKEN")
    + b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n1\r\nd\r\n0\r\nT: u\r\n\r\n",
    b"GET /provider/v1/mock/models?a=b%20c HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer TOKEN\r\n\r\n",
)
ANSWERS = (
    _ANSWER,
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"9\r\ndata: 1\n\n\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the end",
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\nX-Request-Id: 1\r\n\r\n",
)


class _Records:
    accepting = True
    waiting = 0
    ledger_failing = journal_failing = False

    def __init__(self) -> None:
        self.last: UsageRecord | None = None

    def record(self, records: list[UsageRecord]) -> None:
        self.last = records[-1]


class Pair:
    """A gateway in memory, of which each input is a new connection."""

    def __init__(self, folder: Path) -> None:
        (folder / "choir.toml").write_text(CONFIG)
        start = Start(str(folder), "unused", config=str(folder / "choir.toml"), secrets={"MOCK_KEY": "sk-differential"})
        self._loop = Loop()
        asyncio.set_event_loop(self._loop)
        self._loop.accepts = True
        self._records = _Records()
        key = tokens.new_key()
        chosen, _ = settings_loader(start)(lambda service: None)
        self._gateway = Gateway(self._loop, chosen, self._records, key)  # type: ignore[arg-type]
        with socket.create_server(("127.0.0.1", 0)) as listener:
            attach = self._gateway.registry.attach
            self._loop.call_soon(attach, "s1", "u1", "run", float("inf"), socket.dup(listener.fileno()))
            self._loop.settle()
        self._sandbox = self._gateway.registry.sandboxes["s1"]
        self._token = tokens.sign(key, "s1").encode()

    def close(self) -> None:
        self._gateway.registry.detach("s1")
        for upstream in self._gateway.settings.upstreams.values():
            upstream.close()
        self._loop.settle()
        self._gateway._ticker.cancel()
        self._loop.close()
        asyncio.set_event_loop(None)

    @contextlib.contextmanager
    def _client(self) -> Iterator[Wire]:
        self._loop.accepted.clear()
        client = Wire(self._loop, Connection(self._gateway, self._sandbox))
        self._loop.settle()
        yield client
        client.reset()
        for wire in self._loop.accepted:
            wire.reset()
        self._loop.settle()
        assert not self._gateway.calls
        assert not self._sandbox.connections
        assert not self._loop.faults, self._loop.faults

    def _answer(self) -> None:
        """Answer what was asked, so that pipelined requests get their turn."""
        for _ in range(8):
            self._loop.settle()
            for wire in self._loop.accepted:
                whole = sum(message.whole for message in read(bytes(wire.seen)))
                if wire.open and whole > getattr(wire, "answered", 0):
                    wire.answered = whole  # type: ignore[attr-defined]
                    wire.send(_ANSWER)

    def request(self, data: bytes) -> int:
        """Send ``data`` as a client, in pieces that ``CUT`` parts; how many whole requests went upstream.

        Raises:
            AssertionError: one of them h11 does not take, or reads otherwise.
        """
        data = data.replace(TOKEN, self._token)
        with self._client() as client:
            for piece in data.split(CUT):
                client.send(piece)
                self._answer()
            sent = [message for wire in self._loop.accepted for message in read(bytes(wire.seen)) if message.whole]
        theirs = list(_requests(data.replace(CUT, b"")))
        at = 0
        for message in sent:  # in order; those refused in between h11 reads, too
            while at < len(theirs) and not _same(message, theirs[at]):
                at += 1
            assert at < len(theirs), f"h11 reads no such request: {message} in {data!r}: {theirs}"
            at += 1
        return len(sent)

    def response(self, data: bytes) -> bool:
        """Send ``data`` as a provider and end the connection; whether the client got a whole answer of it.

        Raises:
            AssertionError: h11 does not take it, or reads it otherwise.
        """
        self._records.last = None
        with self._client() as client:
            client.send(REQUESTS[0].replace(TOKEN, self._token))
            self._loop.settle()
            (provider,) = self._loop.accepted
            provider.send(data)
            self._loop.settle()
            provider.end()
            self._loop.settle()
            answers = read(bytes(client.seen))
            assert len(answers) == 1
            record = self._records.last
        if record is None or record.outcome != "ok":
            return False
        (ours,) = answers
        assert ours.whole
        theirs = _response(data)
        assert theirs == (ours.status, ours.body), f"h11 reads {theirs}, the gateway {ours} in {data!r}"
        return True


def _same(message: Message, theirs: tuple[bytes, bytes, bytes]) -> bool:
    method, target, body = theirs
    ours = message.line.split(b" ")
    return ours[0] == method and _MOUNT + ours[1].removeprefix(_PREFIX) == target and message.body == body


def _requests(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Method, target and body of each whole request that h11 reads before it takes offence."""
    while data := data.lstrip(b"\r\n"):  # empty lines before a request, which h11 does not know
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX)
        connection.receive_data(data)
        method = target = body = b""
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError:
                return
            if isinstance(event, h11.Request):
                method, target = event.method, event.target
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return
        yield method, target, body
        data = connection.trailing_data[0]


_STATUS = re.compile(rb"(HTTP/1\.[01] ([0-9])[0-9]{2})(?: [^\r\n]*)?(?=\r\n)")


def _plain(data: bytes) -> bytes:
    """Without empty lines before a status line, which h11 does not know, and without reasons, which are not relayed."""
    found = b""
    while True:
        data = data.lstrip(b"\r\n")
        line = _STATUS.match(data)
        if line is None:
            return found + data
        head, end, data = data.partition(b"\r\n\r\n")
        found += line[1] + b" OK" + head[line.end() :] + end
        if line[2] != b"1":
            return found + data


_CODING = re.compile(r"(multiple|Only) Transfer-Encoding")
"""What h11 says of a Transfer-Encoding, in trailers as well, which frame nothing and are not forwarded."""


def _response(data: bytes) -> tuple[int, bytes] | None:
    """Status and body of the answer, or None when h11 does not take it."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX)
    connection.send(h11.Request(method="POST", target="/", headers=[("Host", "h"), ("Content-Length", "0")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(_plain(data))
    ended = False
    status, body = 0, b""
    while True:
        try:
            event = connection.next_event()
            if event is h11.NEED_DATA and not ended:
                ended = True
                connection.receive_data(b"")
                continue
        except h11.RemoteProtocolError as error:
            # The head was taken before: the coding that is wrong is a trailer's.
            return (status, body) if status and _CODING.match(str(error)) else None
        if isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return status, body
        elif not isinstance(event, h11.InformationalResponse):
            return None
