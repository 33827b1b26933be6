"""A provider that fails, through the real process: its circuit opens, says so, and closes."""

from __future__ import annotations

import socket
import time

from .conftest import StartGateway
from .harness import Double, Gateway, provider


def start(start_gateway: StartGateway, port: int, more: str = "") -> Gateway:
    return start_gateway(provider("mock", port, circuit_failures=5) + more)


def test_it_opens_and_closes(double: Double, start_gateway: StartGateway) -> None:
    gateway = start(start_gateway, double.port)
    sandbox = gateway.sandbox()
    assert [sandbox.call(behave="500").status for _ in range(4)] == [500] * 4
    assert sandbox.call().status == 200, "an answer between them"
    for behave in ("500", "close", "garbage", "reset", "500"):
        assert sandbox.call(behave=behave).status >= 500
    asked = len(double.requests)
    answer = sandbox.call()
    assert (answer.status, answer.error["reason"]) == (503, "circuit_open")
    assert (
        "Choir's gateway refused this call: the provider mock failed several times in a row" in answer.error["message"]
    )
    assert 1 <= int(answer.headers["retry-after"]) <= 5
    assert len(double.requests) == asked
    assert gateway.ask({"op": "status"})["circuits"] == {"mock": "open"}
    assert 'choir_circuit_open{provider="mock"} 1' in gateway.metrics_text()
    assert "circuit of mock open: it fails, last with http_500; next try in 5 s" in gateway.log.read_text()
    # Another user's calls are not to blame.
    other = gateway.sandbox(user_id="u2")
    assert other.call().status == 200
    assert sandbox.call().status == 200
    assert "circuit of mock closed: it answers again" in gateway.log.read_text()
    metrics = gateway.metrics_text()
    assert 'choir_circuit_open{provider="mock"} 0' in metrics
    assert 'choir_circuit_opened_total{provider="mock"} 1' in metrics
    assert gateway.ask({"op": "status"})["circuits"] == {}
    assert [record.outcome for record in sandbox.records(12)][10] == "refused:circuit_open"


def test_refusals_of_the_provider_do_not_open_it(double: Double, start_gateway: StartGateway) -> None:
    sandbox = start(start_gateway, double.port).sandbox()
    for behave in ("400", "401", "limited", "redirect", "cut") * 3:
        sandbox.call(behave=behave)
    assert sandbox.call().status == 200


def test_timeouts_open_it_and_one_call_tries(double: Double, start_gateway: StartGateway) -> None:
    gateway = start(start_gateway, double.port, "[timeouts]\nfirst_byte = 0.1\n")
    sandbox = gateway.sandbox()
    for _ in range(5):
        assert sandbox.call(behave="stall").error["reason"] == "first_byte_timeout"
    assert sandbox.call().status == 503
    deadline = time.monotonic() + 20
    while (answer := sandbox.call(behave="stall")).error["reason"] == "circuit_open":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert answer.error["reason"] == "first_byte_timeout", "the one that tried"
    assert 6 <= int(sandbox.call().headers["retry-after"]) <= 10, "the pause is twice as long"
    assert "next try in 10 s" in gateway.log.read_text()


def test_a_connection_that_is_refused_is_tried_again(double: Double, start_gateway: StartGateway) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    gateway = start(start_gateway, port)
    sandbox = gateway.sandbox()
    assert sandbox.call().error["reason"] == "unreachable"
    assert 'choir_retries_total{provider="mock"} 2' in gateway.metrics_text()
    for _ in range(4):
        assert sandbox.call().error["reason"] == "unreachable"
    assert sandbox.call().error["reason"] == "circuit_open"
    (outcome,) = {record.outcome for record in sandbox.records(6)[:5]}
    assert outcome == "upstream:unreachable"


def test_a_budget_is_not_used_by_what_the_circuit_refuses(double: Double, start_gateway: StartGateway) -> None:
    gateway = start(start_gateway, double.port, "[limits]\nrequests_per_minute = 6\n")
    sandbox = gateway.sandbox()
    for _ in range(5):
        sandbox.call(behave="500")
    assert [sandbox.call().status for _ in range(10)] == [503] * 10
    assert gateway.sandbox(user_id="u2").call().status == 200
    assert [sandbox.call().status for _ in range(2)] == [200, 429]
