"""Plain HTTP and TLS on one listener of the real gateway."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
from collections.abc import Iterator

import pytest
from websockets.frames import Frame, Opcode

from choir.gateway import sandboxes

from .harness import ANSWER, Client, Double, Gateway, Sandbox


class TlsClient(Client):
    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        super().__init__(port)
        self.sock = context.wrap_socket(self.sock, server_hostname="localhost")


@pytest.fixture
def trust(gateway: Gateway, sandbox: Sandbox) -> ssl.SSLContext:
    return ssl.create_default_context(
        cadata=gateway.ask({"op": "authority", "sandbox_id": sandbox.sandbox_id})["certificate"]
    )


@pytest.fixture
def client(sandbox: Sandbox, trust: ssl.SSLContext) -> Iterator[TlsClient]:
    with contextlib.closing(TlsClient(sandbox.port, trust)) as client:
        yield client


def open_descriptors(gateway: Gateway) -> int:
    """Only root may look; 0 else."""
    return len(os.listdir(f"/proc/{gateway.worker_pid}/fd")) if os.geteuid() == 0 else 0


def test_a_call_over_tls(sandbox: Sandbox, client: TlsClient) -> None:
    for _ in range(2):
        client.send(sandbox.request())
        assert client.answer().body == ANSWER
    assert [record.outcome for record in sandbox.records(2)] == ["ok", "ok"]
    assert client.sock.version() in ("TLSv1.2", "TLSv1.3")  # type: ignore[attr-defined]


def test_plain_calls_go_on_beside(sandbox: Sandbox, client: TlsClient) -> None:
    client.send(sandbox.request())
    assert sandbox.call().status == 200
    assert client.answer().status == 200


def test_a_stream_over_tls(sandbox: Sandbox, client: TlsClient) -> None:
    client.send(sandbox.request(behave="sse"))
    assert client.answer().body.endswith(b"data: [DONE]\n\n")


def test_a_large_answer_over_tls(sandbox: Sandbox, client: TlsClient) -> None:
    client.send(sandbox.request(behave="big"))
    answer = client.answer()
    assert answer.whole
    assert len(answer.body) == 64 * 1024 * 1024


def test_a_large_body_over_tls(sandbox: Sandbox, client: TlsClient) -> None:
    body = json.dumps({"model": "m1", "messages": [], "user": "x" * 250_000}).encode()
    client.send(sandbox.request(body=body, behave="echo"))
    assert client.answer().body == body


def test_a_websocket_over_tls(sandbox: Sandbox, client: TlsClient) -> None:
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    client.send(sandbox.request("/realtime?model=m1", method="GET", behave="websocket", headers=upgrade))
    assert client.head()[0] == 101
    assert client.exactly(5) == b"hello"
    frame = Frame(Opcode.TEXT, b'{"type":"response.cancel"}').serialize(mask=True)
    client.send(frame)
    assert client.exactly(len(frame)) == frame.upper()


def test_a_body_that_is_refused_before_its_end(sandbox: Sandbox, client: TlsClient) -> None:
    """The answer arrives whole, and what is left of the body is read and thrown away, as without TLS."""
    head = (
        sandbox.request(auth="").partition(b"\r\n\r\n")[0].replace(b"Content-Length: 28", b"Content-Length: 20000000")
    )
    client.send(head + b"\r\n\r\n" + b"x" * 1000)
    answer = client.answer()
    assert (answer.status, answer.whole) == (401, True)
    client.sock.settimeout(3)
    client.send(b"x" * 19_000_000)


def test_without_a_token(sandbox: Sandbox, client: TlsClient, double: Double) -> None:
    client.send(sandbox.request(auth=""))
    assert client.answer().status == 401
    assert double.requests == []


def test_another_sandboxes_authority_is_not_this_ones(gateway: Gateway, sandbox: Sandbox) -> None:
    other = gateway.ask({"op": "authority", "sandbox_id": "another"})["certificate"]
    with pytest.raises(ssl.SSLCertVerificationError):
        TlsClient(sandbox.port, ssl.create_default_context(cadata=other))
    assert sandbox.call().status == 200


@pytest.mark.parametrize("hello", [b"\x16", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00" + bytes(512), b"\x16\x15"])
def test_a_broken_handshake_costs_nothing(gateway: Gateway, sandbox: Sandbox, hello: bytes) -> None:
    sandbox.call()
    before = open_descriptors(gateway)
    for _ in range(20):
        with contextlib.closing(Client(sandbox.port)) as client:
            client.send(hello)
            client.sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                while client.sock.recv(4096):
                    pass
    assert sandbox.call().status == 200
    assert open_descriptors(gateway) <= before + 1
    assert b"Traceback" not in gateway.log.read_bytes()
    assert b"unexpected" not in gateway.log.read_bytes()


def test_the_first_byte_may_come_late_and_alone(sandbox: Sandbox) -> None:
    with contextlib.closing(Client(sandbox.port)) as late:
        assert sandbox.call().status == 200  # by now it was accepted
        raw = sandbox.request()
        late.send(raw[:1])
        late.send(raw[1:])
        assert late.answer().status == 200


def test_silent_connections_end_with_their_sandbox(gateway: Gateway, sandbox: Sandbox) -> None:
    clients = [Client(sandbox.port) for _ in range(5)]
    assert sandbox.call().status == 200
    assert gateway.ask({"op": "detach", "sandbox_id": sandbox.sandbox_id}) == {"ok": True}
    for client in clients:
        assert client.closed()
        client.close()


def test_silent_connections_that_leave_make_room(gateway: Gateway) -> None:
    sandbox = gateway.sandbox()
    for _ in range(2):
        clients = [Client(sandbox.port) for _ in range(sandboxes.MAX_CONNECTIONS)]
        for client in clients:
            client.close()
    assert sandbox.call().status == 200


def test_a_reattached_sandbox_keeps_its_authority(gateway: Gateway, sandbox: Sandbox, trust: ssl.SSLContext) -> None:
    gateway.ask({"op": "detach", "sandbox_id": sandbox.sandbox_id})
    assert sandbox.attach() == {"ok": True}
    with contextlib.closing(TlsClient(sandbox.port, trust)) as client:
        client.send(sandbox.request())
        assert client.answer().status == 200
