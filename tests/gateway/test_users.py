"""What the operator allows single users, through the real process."""

from __future__ import annotations

import pytest

from .conftest import StartGateway
from .harness import Double, Gateway, provider

USERS = """
[users.ann]
models = ["mock/m1*", "gemini/g*", "search/*"]
deny_models = ["mock/m1-large"]
[users.bob]
providers = ["mock"]
limits = { requests_per_minute = 2, max_body_bytes = 100 }
[users.eve]
deny_providers = ["mock"]
"""


@pytest.fixture
def gateway(double: Double, start_gateway: StartGateway) -> Gateway:
    return start_gateway(
        provider("mock", double.port)
        + provider("gemini", double.port, like="google", prefix="")
        + provider("search", double.port, like="tavily", prefix="")
        + USERS
    )


def body(model: str) -> bytes:
    return b'{"model":"%b"}' % model.encode()


def test_models(gateway: Gateway, double: Double) -> None:
    ann = gateway.sandbox(user_id="ann")
    calls = [
        ({"body": body("m1-mini")}, 200),
        ({"body": body("m2")}, "model_not_allowed"),
        ({"body": body("m1-large")}, "model_not_allowed"),
        ({"body": body("M1-LARGE")}, "model_not_allowed"),
        ({"body": b"{}"}, "model_unreadable"),
        ({"body": b'{"model":"m1","models":["m2"]}'}, "fallback_models_denied"),
        ({"path": "/embeddings", "body": body("m1")}, 200),
        ({"path": "/embeddings", "body": body("m2")}, "model_not_allowed"),
        ({"path": "/embeddings", "body": b'{"model":"m1","model":"m2"}'}, "body_undecodable"),
        ({"path": "/models", "method": "GET"}, 200),
        ({"provider": "gemini", "path": "/v1beta/models/g1:generateContent", "body": b"{}"}, 200),
        ({"provider": "gemini", "path": "/v1beta/models/x:generateContent", "body": b"{}"}, "model_not_allowed"),
        ({"provider": "search", "path": "/search", "body": b'{"query":"q"}'}, 200),
    ]
    asked = 0
    for how, expected in calls:
        answer = ann.call(**how)  # type: ignore[arg-type]
        asked += answer.status == 200
        assert (answer.status if answer.status == 200 else answer.error["reason"]) == expected, how
    assert len(double.requests) == asked, "nothing else reached a provider"
    free = gateway.sandbox(user_id="zoe")
    assert free.call(body=body("m1-large")).status == 200
    outcomes = [record.outcome for record in ann.records(len(calls))]
    assert outcomes.count("refused:model_not_allowed") == 5


def test_websockets_name_their_model_in_the_query(gateway: Gateway) -> None:
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n"
    ann = gateway.sandbox(user_id="ann")
    for query, reason in (("?model=m2", "model_not_allowed"), ("", "model_unreadable")):
        answer = ann.call(method="GET", path=f"/realtime{query}", headers=upgrade)
        assert (answer.status, answer.error["reason"]) == (403 if query else 400, reason)


def test_providers_and_limits(gateway: Gateway, double: Double) -> None:
    bob, eve = gateway.sandbox(user_id="bob"), gateway.sandbox(user_id="eve")
    search = {"provider": "search", "path": "/search", "body": b"{}"}
    answer = bob.call(**search)  # type: ignore[arg-type]
    assert (answer.status, answer.error["reason"]) == (403, "provider_not_allowed")
    assert eve.call(**search).status == 200  # type: ignore[arg-type]
    assert eve.call().error["reason"] == "provider_not_allowed"
    assert bob.call(body=b'{"model":"' + b"m" * 100 + b'"}').status == 413
    assert [bob.call().status for _ in range(3)] == [200, 200, 429]
    assert "may make 2 requests a minute" in bob.call().error["message"]


def test_a_reload_changes_what_users_may(gateway: Gateway) -> None:
    bob, eve = gateway.sandbox(user_id="bob"), gateway.sandbox(user_id="eve")
    assert eve.call().status == 403
    text = gateway.config.read_text()
    gateway.config.write_text(text.replace("[users.eve]\ndeny_providers", "[users.bob2]\ndeny_providers"))
    answer = gateway.ask({"op": "reload"})
    assert [change["section"] for change in answer["changes"]] == ["users.bob2", "users.eve"]
    assert eve.call().status == 200
    gateway.config.write_text(
        text.replace('providers = ["mock"]\nlimits = { requests', "providers = []\nlimits = { requests")
    )
    assert gateway.ask({"op": "reload"})["ok"]
    assert bob.call().error["reason"] == "provider_not_allowed"
