from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import stat

from .conftest import StartGateway
from .harness import Double, Gateway, Sandbox, provider
from .test_main import reconnect


def scrape(gateway: Gateway, request: bytes = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n") -> bytes:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.settimeout(10)
        sock.connect(str(gateway.state.metrics_socket))
        sock.sendall(request)
        answer = b""
        while data := sock.recv(65536):
            answer += data
    return answer


def test_metrics_on_a_private_socket(gateway: Gateway, sandbox: Sandbox) -> None:
    assert stat.S_IMODE(os.stat(gateway.state.metrics_socket).st_mode) == 0o600
    sandbox.call()
    sandbox.call(path="/nowhere")
    sandbox.records(2)
    head, _, body = scrape(gateway).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4")
    assert b"Content-Length: %d\r\n" % len(body) in head
    assert b'choir_calls_total{provider="mock",status="2xx",outcome="ok"} ' in body
    assert b'choir_calls_total{provider="mock",status="4xx",outcome="refused"} ' in body
    assert b"choir_ledger_failing 0\n" in body
    for secret in (gateway.canary, sandbox.token, sandbox.sandbox_id, "m1"):
        assert secret.encode() not in body


def test_what_stands_ready_is_told_by_the_hypervisor_and_is_no_sandbox(gateway: Gateway) -> None:
    attached = re.findall("^choir_sandboxes [0-9]+", gateway.metrics_text(), re.MULTILINE)
    assert "choir_sandboxes_warm 0\n" in gateway.metrics_text()
    for warm, lease, shown in ((2, 100.0, 2), (1, 100.0, 1), (1, 0.0, 0)):
        assert gateway.ask({"op": "renew", "sandbox_ids": [], "lease_s": lease, "warm": warm})["ok"]
        assert f"choir_sandboxes_warm {shown}\n" in gateway.metrics_text()
    assert gateway.ask({"op": "renew", "sandbox_ids": [], "lease_s": 100.0, "warm": 3})["ok"]
    assert gateway.ask({"op": "renew", "sandbox_ids": [], "lease_s": 100.0})["ok"]  # of somebody who does not know
    assert "choir_sandboxes_warm 3\n" in gateway.metrics_text()
    assert f"{attached[0]}\n" in gateway.metrics_text()


def test_nothing_else_is_answered(gateway: Gateway) -> None:
    assert scrape(gateway, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 404 ")
    assert scrape(gateway, b"POST /metrics HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 404 ")
    assert scrape(gateway, b"\r\n\r\n").startswith(b"HTTP/1.1 404 ")
    assert scrape(gateway, b"x" * 100_000) == b""


def test_a_new_worker_serves_them_again(double: Double, start_gateway: StartGateway) -> None:
    gateway = start_gateway(provider("mock", double.port))
    assert scrape(gateway)
    old = gateway.worker_pid
    os.kill(old, signal.SIGKILL)
    gateway.lost()
    reconnect(gateway, old)
    assert scrape(gateway).startswith(b"HTTP/1.1 200 ")
    assert gateway.stop() == 0
    assert not gateway.state.metrics_socket.exists()
