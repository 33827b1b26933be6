"""Several keys of one provider, through the real process: rotation, rest, recovery, and what callers are told."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import StartGateway
from .harness import ANSWER, Client, Double, Gateway, provider

JSON = b"Content-Type: application/json\r\n"


class Keyed(Double):
    """Answers by the key that came; ``verdicts`` says how, and may change."""

    def __init__(self) -> None:
        self.verdicts: dict[str, tuple[int, bytes, bytes]] = {}
        super().__init__()

    @property
    def keys(self) -> list[str]:
        return [re.search(rb"Bearer (\S+)", head)[1].decode() for head, _ in self.requests]  # type: ignore[index]

    async def do_json(self, reader: Any, writer: Any, body: bytes) -> None:
        status, lines, text = self.verdicts.get(self.keys[-1], (200, JSON, ANSWER))
        writer.write(b"HTTP/1.1 %d S\r\n%bContent-Length: %d\r\n\r\n%b" % (status, lines, len(text), text))

    async def do_sse(self, reader: Any, writer: Any, body: bytes) -> None:
        if self.keys[-1] in self.verdicts:
            await self.do_json(reader, writer, body)
        else:
            await super().do_sse(reader, writer, body)


@pytest.fixture
def keyed() -> Iterator[Keyed]:
    double = Keyed()
    yield double
    double.stop()


def error(code: str = "x") -> bytes:
    return json.dumps({"error": {"code": code, "message": "no"}}).encode()


REFUSED = (401, JSON, error("invalid_api_key"))
LIMITED = (429, JSON + b"Retry-After: 2\r\n", error("rate_limit_exceeded"))


class Setting:
    def __init__(self, start: StartGateway, folder: Path, double: Keyed, count: int = 3, more: str = "") -> None:
        self.folder = folder / "keys"
        self.folder.mkdir()
        self.names = [f"sk-{name}-0123456789abcdef" for name in "abcdef"[:count]]
        for name in self.names:
            self.write(name, name)
        self.references = ", ".join(f'"file:{self.folder}/{name[3]}.key"' for name in self.names)
        self.text = provider("mock", double.port).replace('key = "env:MOCK_KEY"', f"keys = [{self.references}]") + more
        self.gateway: Gateway = start(self.text)
        self.sandbox = self.gateway.sandbox()
        self.double = double

    def write(self, name: str, key: str) -> None:
        path = self.folder / f"{name[3]}.key"
        path.write_text(key)
        path.chmod(0o600)

    def used(self) -> str:
        """The letters of the keys that were used since the last time."""
        found = "".join(key[3] for key in self.double.keys)
        self.double.requests.clear()
        return found

    def log(self) -> str:
        return self.gateway.log.read_text()

    def states(self) -> str:
        keys = self.gateway.ask({"op": "status"})["keys"]["mock"]
        return " ".join(each["state"] for each in keys)


@pytest.fixture
def setting(start_gateway: StartGateway, tmp_path: Path, keyed: Keyed) -> Setting:
    return Setting(start_gateway, tmp_path, keyed)


def test_a_refused_key_is_passed_over_and_the_call_made_again(setting: Setting, keyed: Keyed) -> None:
    sandbox = setting.sandbox
    assert [sandbox.call().status for _ in range(3)] == [200] * 3
    assert setting.used() == "aaa"
    keyed.verdicts[setting.names[0]] = REFUSED
    body = b'{"model":"m1","messages":["' + b"x" * 5000 + b'"]}'
    assert sandbox.call(body=body).status == 200
    assert [sent for _, sent in keyed.requests] == [body, body], "byte for byte the same"
    assert setting.used() == "ab"
    assert [sandbox.call().status for _ in range(3)] == [200] * 3
    assert setting.used() == "bbb"
    assert setting.states() == "refused in use ready"
    assert "key a.key of mock: refused; it rests for 10 s" in setting.log()
    records = sandbox.records(7)
    assert [record.outcome for record in records] == ["ok"] * 7
    assert records[3].input_tokens == 12
    metrics = setting.gateway.metrics_text()
    assert 'choir_keys_resting{provider="mock"} 1' in metrics
    assert 'choir_retries_total{provider="mock"} 1' in metrics


def test_streams_and_bodyless_calls_are_made_again_too(setting: Setting, keyed: Keyed) -> None:
    sandbox = setting.sandbox
    keyed.verdicts[setting.names[0]] = LIMITED
    answer = sandbox.call(body=b'{"model":"m","stream":true}', behave="sse")
    assert (answer.status, answer.whole) == (200, True)
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert b"usage" not in answer.body, "it was not asked for"
    keyed.verdicts[setting.names[1]] = LIMITED
    assert sandbox.call(method="GET", path="/models").status == 200
    assert setting.used() == "abbc"
    assert [record.output_tokens for record in sandbox.records(2)] == [2, 3]


def test_all_keys_rest(setting: Setting, keyed: Keyed) -> None:
    sandbox = setting.sandbox
    for name in setting.names:
        keyed.verdicts[name] = LIMITED
    answer = sandbox.call()
    assert (answer.status, answer.error["message"]) == (429, "no"), "the last provider's answer, as it came"
    assert answer.headers["retry-after"] == "2"
    assert setting.used() == "abc"
    answer = sandbox.call()
    assert (answer.status, answer.error["reason"]) == (429, "keys_limited")
    assert "(a.key: limited, b.key: limited, c.key: limited)" in answer.error["message"]
    assert "The provider mock has turned away every key" in answer.error["message"]
    assert 1 <= int(answer.headers["retry-after"]) <= 2
    assert setting.used() == "", "nothing reaches the provider"
    keyed.verdicts.clear()
    deadline = time.monotonic() + 10
    while sandbox.call().status != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(setting.used()) == 1
    assert "accepted again" in setting.log()
    assert {record.outcome for record in setting.gateway.ledger()} <= {
        "ok",
        "upstream:http_429",
        "upstream:keys_limited",
    }


def test_no_key_is_accepted(setting: Setting, keyed: Keyed) -> None:
    for name in setting.names:
        keyed.verdicts[name] = REFUSED
    answer = setting.sandbox.call()
    assert (answer.status, answer.error["reason"]) == (502, "http_401")
    answer = setting.sandbox.call()
    assert (answer.status, answer.error["reason"]) == (502, "keys_refused")
    assert "(a.key: refused, b.key: refused, c.key: refused)" in answer.error["message"]
    # New keys are put in force by a reload, and begin without a past.
    setting.write(setting.names[0], "sk-x-new")
    assert setting.gateway.ask({"op": "reload"})["change_count"] == 1
    setting.used()
    assert setting.sandbox.call().status == 200
    assert setting.used() == "x"
    for name in (*setting.names, "sk-x-new"):
        assert name not in setting.log()


def test_a_reload_that_changes_nothing_of_a_provider_keeps_what_is_known(setting: Setting, keyed: Keyed) -> None:
    keyed.verdicts[setting.names[0]] = REFUSED
    assert setting.sandbox.call().status == 200
    connections = keyed.connections
    setting.gateway.config.write_text(setting.text + "[limits]\nrequests_per_minute = 7\n")
    assert setting.gateway.ask({"op": "reload"})["change_count"] == 1
    setting.used()
    assert setting.sandbox.call().status == 200
    assert setting.used() == "b"
    assert keyed.connections == connections, "nor is its connection closed"


def test_what_is_not_held_is_not_sent_again(setting: Setting, keyed: Keyed) -> None:
    """A body that streams, or that is longer than what is held: the caller is told, and the key rests."""
    keyed.verdicts[setting.names[0]] = REFUSED
    embeddings = setting.sandbox.call(path="/embeddings", body=b'{"model":"m","input":"x"}')
    assert (embeddings.status, embeddings.error["reason"]) == (502, "http_401")
    assert setting.used() == "a"
    keyed.verdicts[setting.names[1]] = REFUSED
    long = b'{"model":"m","messages":["' + b"x" * 1024 * 1024 + b'"]}'
    assert setting.sandbox.call(body=long).error["reason"] == "http_401"
    assert setting.used() == "b"
    assert setting.sandbox.call().status == 200
    assert setting.used() == "c"


@pytest.mark.parametrize(
    ("verdict", "rests"),
    [
        ((403, JSON, error("invalid_api_key")), True),
        ((403, JSON, error("model_not_found")), False),
        ((400, JSON, json.dumps({"error": {"message": "no model invalid_api_key"}}).encode()), False),
        ((402, JSON, b"{}"), True),
        ((429, JSON, error("insufficient_quota")), True),
        ((404, JSON, error("invalid_api_key")), False),
        ((500, JSON, b"{}"), False),
    ],
)
def test_which_answers_are_about_the_key(
    setting: Setting, keyed: Keyed, verdict: tuple[int, bytes, bytes], rests: bool
) -> None:
    keyed.verdicts[setting.names[0]] = verdict
    answer = setting.sandbox.call()
    assert answer.status == (200 if rests else verdict[0])
    assert setting.used() == ("ab" if rests else "a")
    assert setting.states().startswith("refused" if rests else "in use")


def test_many_calls_at_once_are_one_strike(setting: Setting, keyed: Keyed) -> None:
    keyed.verdicts[setting.names[0]] = REFUSED
    statuses: list[int] = []

    def call() -> None:
        statuses.append(setting.sandbox.call().status)

    threads = [threading.Thread(target=call) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert statuses == [200] * 24
    assert setting.log().count("key a.key of mock: refused; it rests for 10 s") == 1
    assert setting.gateway.ask({"op": "status"})["keys"]["mock"][0]["seconds"] <= 10


def test_one_key_is_the_providers_own_business(start_gateway: StartGateway, tmp_path: Path, keyed: Keyed) -> None:
    setting = Setting(start_gateway, tmp_path, keyed, count=1)
    keyed.verdicts[setting.names[0]] = LIMITED
    for _ in range(3):
        answer = setting.sandbox.call()
        assert (answer.status, answer.error["message"]) == (429, "no")
    assert setting.used() == "aaa"


def test_another_key_that_is_repeated_is_not_shown(setting: Setting, keyed: Keyed) -> None:
    """A provider that mixes up its customers' keys."""
    shown = error(setting.names[2])
    keyed.verdicts[setting.names[0]] = (400, JSON + b"x-request-id: " + setting.names[1].encode() + b"\r\n", shown)
    with contextlib.closing(Client(setting.sandbox.port)) as client:
        client.send(setting.sandbox.request(headers="Connection: close\r\n"))
        told = b"".join(iter(lambda: client.sock.recv(65536), b""))
    assert told.startswith(b"HTTP/1.1 400 ")
    for name in setting.names:
        assert name.encode() not in told


def test_a_money_limit_is_charged_once(start_gateway: StartGateway, tmp_path: Path, keyed: Keyed) -> None:
    more = '[prices]\n"mock/*" = { input = 1000, output = 2000 }\n[limits]\nusd_per_day = 100.0\n'
    setting = Setting(start_gateway, tmp_path, keyed, more=more)
    keyed.verdicts[setting.names[0]] = REFUSED
    assert setting.sandbox.call(body=b'{"model":"m","max_tokens":10}').status == 200
    (record,) = setting.sandbox.records(1)
    assert record.cost_usd == pytest.approx(12 * 0.001 + 3 * 0.002)
