"""Tokens and money, through the real process. The double's answers tell 12 tokens read and 3 written."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter

import pytest

from choir.errors import ChoirError

from .conftest import StartGateway
from .harness import EVENTS, Client, Double, Sandbox, provider

PRICES = '[prices]\n"mock/*" = { input = 1000, output = 2000 }\n'
"""USD per million: a token read costs 0.001 USD, and one written 0.002."""
BODY = b'{"model":"m1","max_tokens":100}'
BOUND = len(BODY) * 0.001 + 100 * 0.002
COST = 12 * 0.001 + 3 * 0.002


def config(double: Double, limits: str, prices: str = PRICES) -> str:
    return provider("mock", double.port) + prices + f"[limits]\nrequests_per_minute = 100000\n{limits}\n"


def test_what_a_call_cost_is_in_its_record(double: Double, start_gateway: StartGateway) -> None:
    sandbox = start_gateway(config(double, "") + provider("unpriced", double.port)).sandbox()
    sandbox.call()
    sandbox.call(provider="unpriced")
    sandbox.call(behave="limited")
    sandbox.call(method="GET", path="/models")
    assert [record.cost_usd for record in sandbox.records(4)] == [pytest.approx(COST), None, None, None]


def test_money_is_shared_by_a_users_sandboxes_and_outlives_the_process(
    double: Double, start_gateway: StartGateway
) -> None:
    text = config(double, f"usd_per_day = {BOUND + 2 * COST + 0.0001}")
    gateway = start_gateway(text)
    one, two, other = gateway.sandbox(), gateway.sandbox(), gateway.sandbox(user_id="u2")
    for sandbox in (one, two, one):
        assert sandbox.call(body=BODY).status == 200
    answer = two.call(body=BODY)
    assert (answer.status, answer.error["reason"]) == (429, "usd_per_day")
    assert 0 < int(answer.headers["retry-after"]) <= 86400
    assert "the gateway limits" in answer.error["message"]
    assert other.call(body=BODY).status == 200
    os.kill(gateway.worker_pid, 9)
    gateway.lost()
    gateway.stop()
    again = start_gateway(text)
    assert again.sandbox().call(body=BODY).error["reason"] == "usd_per_day"
    assert again.sandbox(user_id="u2").call(body=BODY).status == 200


def test_n_admitted_means_n(double: Double, start_gateway: StartGateway) -> None:
    gateway = start_gateway(config(double, f"usd_per_month = {5 * BOUND + 0.0001}"))
    sandboxes = [gateway.sandbox(), gateway.sandbox()]
    statuses: Counter[int] = Counter()
    go = threading.Barrier(16)

    def call(number: int) -> None:
        sandbox = sandboxes[number % 2]
        with contextlib.closing(Client(sandbox.port)) as client:
            go.wait(10)
            client.send(sandbox.request(body=BODY, behave="hold"))
            statuses[client.head()[0]] += 1
            if sum(statuses.values()) == 16:
                double.release.set()
            double.release.wait(10)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert statuses == {200: 5, 429: 11}


@pytest.mark.parametrize("behave", ["limited", "500", "close_early", "refused"])
def test_what_was_not_used_is_given_back(double: Double, start_gateway: StartGateway, behave: str) -> None:
    sandbox = start_gateway(config(double, f"usd_per_day = {BOUND + 0.0001}\ntokens_per_minute = 140")).sandbox()
    for _ in range(3):
        if behave == "close_early":
            with contextlib.closing(Client(sandbox.port)) as client:
                client.send(sandbox.request(body=BODY)[:-3])
        elif behave == "refused":
            assert sandbox.call(body=BODY[:-1] + b',"tools":[{"type":"mcp"}]}').status == 403
        else:
            assert sandbox.call(body=BODY, behave=behave).status >= 400
    assert sandbox.call(body=BODY).status == 200


@pytest.mark.parametrize("behave", ["cut", "reset", "client_gone", "echo"])
def test_what_cannot_be_known_counts_as_what_was_reserved(
    double: Double, start_gateway: StartGateway, behave: str
) -> None:
    sandbox = start_gateway(config(double, f"usd_per_day = {BOUND + COST}")).sandbox()
    if behave == "client_gone":
        with contextlib.closing(Client(sandbox.port)) as client:
            client.send(sandbox.request(body=BODY, behave="hold"))
            client.until(EVENTS[0])
        assert double.lost.wait(5)
    else:
        sandbox.call(body=BODY, behave=behave)
    assert sandbox.records(1)[0].cost_usd == pytest.approx(BOUND)
    answer = sandbox.call(body=BODY)
    assert (answer.status, answer.error["reason"]) == (429, "usd_per_day")


def test_tokens_a_minute(double: Double, start_gateway: StartGateway) -> None:
    sandbox = start_gateway(config(double, f"tokens_per_minute = {len(BODY) + 100 + 15}", prices="")).sandbox()
    assert [sandbox.call(body=BODY).status for _ in range(3)] == [200, 200, 429]
    answer = sandbox.call(body=BODY)
    assert answer.error["reason"] == "tokens_per_minute"
    assert 50 <= int(answer.headers["retry-after"]) <= 60
    answer = sandbox.call(body=b'{"max_tokens":5000}')
    assert (answer.status, answer.error["reason"]) == (403, "bound_over_limit")
    assert sandbox.call(method="GET", path="/models").status == 200


@pytest.fixture
def limited(double: Double, start_gateway: StartGateway) -> Sandbox:
    text = config(double, "usd_per_day = 100\ntokens_per_minute = 100000")
    text += provider("unpriced", double.port) + provider("search", double.port, like="tavily", prefix="")
    return start_gateway(text.replace("[prices]\n", '[prices]\n"search/*" = { request = 0.5 }\n')).sandbox()


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ({"body": b'{"model":"m1"}'}, "bound_required"),
        ({"body": b'{"model":"m1","max_tokens":null}'}, "bound_required"),
        ({"path": "/responses", "body": b'{"model":"m1","max_tokens":5}'}, "bound_required"),
        ({"path": "/audio/speech", "body": b'{"model":"m1"}'}, "bound_required"),
        ({"path": "/completions", "body": b'{"model":"m1","max_tokens":5}'}, "bound_required"),
        ({"provider": "unpriced", "body": BODY}, "price_unknown"),
        (
            {"path": "/realtime", "method": "GET", "headers": "Connection: Upgrade\r\nUpgrade: websocket\r\n"},
            "bound_required",
        ),
    ],
)
def test_a_call_without_a_bound_is_refused(limited: Sandbox, double: Double, call: dict[str, str], reason: str) -> None:
    answer = limited.call(**call)
    assert (answer.status, answer.error["reason"]) == (403, reason)
    assert double.requests == []
    assert limited.call(body=BODY).status == 200


def test_embeddings_and_searches_are_bounded_by_themselves(limited: Sandbox) -> None:
    assert limited.call(path="/embeddings", body=b'{"model":"m1","input":"x"}').status == 200
    assert limited.call(provider="search", path="/search", body=b"{}").status == 200
    assert [record.cost_usd for record in limited.records(2)] == [pytest.approx(COST), 0.5]


def test_limited_money_needs_the_ledger(double: Double, start_gateway: StartGateway) -> None:
    text = config(double, "usd_per_day = 1")
    gateway = start_gateway(text)
    gateway.stop()
    gateway.state.ledger.write_bytes(os.urandom(4096))
    with pytest.raises(ChoirError) as caught:
        start_gateway(text)
    assert caught.value.reason == "spending_unknown"
    assert start_gateway(config(double, "tokens_per_minute = 100000")).sandbox().call(body=BODY).status == 200


def test_limits_are_put_in_force_while_it_runs(double: Double, start_gateway: StartGateway) -> None:
    gateway = start_gateway(config(double, ""))
    sandbox = gateway.sandbox()
    assert sandbox.call(body=BODY).status == 200
    gateway.config.write_text(config(double, f"usd_per_day = {BOUND}"))
    assert gateway.ask({"op": "reload"})["ok"]
    assert sandbox.call(body=BODY).error["reason"] == "usd_per_day", "what was spent before counts"
    gateway.config.write_text(config(double, f"usd_per_day = {BOUND + COST}"))
    assert gateway.ask({"op": "reload"})["ok"]
    assert sandbox.call(body=BODY).status == 200
