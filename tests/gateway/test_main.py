"""The process: start, stop, death and rebirth, records that survive, keys that stay inside."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from choir import tokens
from choir.channel import ChannelClosed
from choir.errors import StartError
from choir.gateway.floods import PER_MINUTE
from choir.gateway.journal import Journal
from choir.gateway.main import Start
from choir.service import Service
from choir.storage.ledger import Ledger

from .conftest import StartGateway
from .harness import EVENTS, Client, Double, Gateway, provider


def reconnect(gateway: Gateway, old_pid: int) -> None:
    """As a hypervisor does when its control connection closes: until another worker answers."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(ChannelClosed, OSError):
            gateway.connect()
            pid = gateway.ask({"op": "status"})["pid"]
            if pid != old_pid:
                gateway.worker_pid = pid
                return
    pytest.fail("no new worker")


def test_a_worker_that_dies_is_forked_again(double: Double, start_gateway: StartGateway) -> None:
    gateway = start_gateway(provider("mock", double.port))
    sandbox = gateway.sandbox()
    assert sandbox.call().status == 200
    old = gateway.worker_pid
    os.kill(old, signal.SIGKILL)
    gateway.lost()
    reconnect(gateway, old)
    assert gateway.ask({"op": "renew", "sandbox_ids": [sandbox.sandbox_id], "lease_s": 9.0})["unknown"] == [
        sandbox.sandbox_id
    ]
    sandbox.attach()
    assert sandbox.call().status == 200
    assert b"was killed by SIGKILL; a new one starts" in gateway.log.read_bytes()
    assert [record.status for record in gateway.ledger() if record.sandbox_id == sandbox.sandbox_id][:1] == [200]


def test_a_flood_of_refusals_does_not_fill_the_ledger(double: Double, start_gateway: StartGateway) -> None:
    gateway = start_gateway(provider("mock", double.port))
    sandbox, other = gateway.sandbox(), gateway.sandbox()
    with contextlib.closing(Client(sandbox.port)) as client:
        for turn in range(25):
            client.send(b"".join(sandbox.request(path="/nowhere" if turn % 5 else "/chat/../x") for _ in range(40)))
            for _ in range(40):
                assert client.answer().status in (400, 403)
    with contextlib.closing(Client(other.port)) as client:
        for _ in range(PER_MINUTE + 3):
            client.send(other.request(path="/nowhere"))
            assert client.answer().status == 403
    assert gateway.ask({"op": "detach", "sandbox_id": sandbox.sandbox_id}) == {"ok": True}
    assert gateway.stop() == 0
    every = gateway.ledger()
    records = [record for record in every if record.sandbox_id == sandbox.sandbox_id]
    assert sum(record.count for record in records) == 1000
    assert len(records) == PER_MINUTE + 2
    assert {(record.outcome, record.count) for record in records if record.count > 1} == {
        ("refused:path_not_canonical", 80),
        ("refused:route_not_allowed", 320),
    }
    assert sorted(record.count for record in every if record.sandbox_id == other.sandbox_id)[-2:] == [1, 3]


def test_an_answer_whose_last_event_was_read_is_in_the_ledger_after_kill_9(
    double: Double, start_gateway: StartGateway
) -> None:
    gateway = start_gateway(provider("mock", double.port))
    sandbox = gateway.sandbox()
    with contextlib.closing(Client(sandbox.port)) as client:
        client.send(sandbox.request(body=b'{"stream":true}', behave="linger"))
        client.until(EVENTS[3])
        os.killpg(gateway.service.pid, signal.SIGKILL)
    gateway.service.process.wait(10)
    ledger = Ledger(gateway.state.ledger)
    ledger.append(Journal(gateway.state.journal).replay())
    (record,) = ledger.query()
    ledger.close()
    assert (record.outcome, record.output_tokens) == ("ok", 2)


def test_every_finished_answer_is_in_the_ledger_after_kill_9(double: Double, start_gateway: StartGateway) -> None:
    gateway = start_gateway(provider("mock", double.port))
    sandbox = gateway.sandbox()
    finished: list[str] = []

    def load() -> None:
        with contextlib.closing(Client(sandbox.port)) as client, contextlib.suppress(EOFError, OSError):
            while True:
                client.send(sandbox.request())
                finished.append(client.answer().headers["x-choir-request-id"])

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    while len(finished) < 300:
        time.sleep(0.001)
    os.killpg(gateway.service.pid, signal.SIGKILL)
    for thread in threads:
        thread.join(10)
    gateway.service.process.wait(10)
    assert len(finished) >= 300
    again = start_gateway(provider("mock", double.port))
    recorded = {record.request_id for record in again.ledger()}
    assert set(finished) <= recorded
    again.stop()
    assert not again.state.ledger.with_name("usage.journal").exists()


def test_a_stop_lets_open_calls_end(double: Double, start_gateway: StartGateway) -> None:
    gateway = start_gateway(provider("mock", double.port))
    sandbox = gateway.sandbox()
    with contextlib.closing(Client(sandbox.port)) as client:
        client.send(sandbox.request(behave="hold"))
        client.until(EVENTS[0])
        gateway.service.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(ConnectionError):
            while True:  # the listener goes first
                socket.create_connection(("127.0.0.1", sandbox.port), 5).close()
        double.release.set()
        client.until(EVENTS[3])
        client.until(b"0\r\n\r\n")
    assert gateway.service.process.wait(8) == 0
    assert [record.outcome for record in gateway.ledger()] == ["ok"]


def test_a_stop_cuts_what_does_not_end(double: Double, start_gateway: StartGateway) -> None:
    gateway = start_gateway(provider("mock", double.port))
    sandbox = gateway.sandbox()
    with contextlib.closing(Client(sandbox.port)) as client:
        client.send(sandbox.request(behave="hold"))
        client.until(EVENTS[0])
        assert gateway.stop() == 0
        assert b"being stopped" in client.until(b"}\n\n")
        with pytest.raises(EOFError):
            client.until(b"0\r\n\r\n")
    assert [record.outcome for record in gateway.ledger()] == ["cut"]


def test_the_worker_dies_with_its_master(double: Double, start_gateway: StartGateway) -> None:
    gateway = start_gateway(provider("mock", double.port))
    gateway.service.process.kill()
    gateway.service.process.wait(10)
    gateway.lost()
    with pytest.raises(ChannelClosed):
        gateway.connect()


def test_two_gateways_do_not_share_a_state_folder(gateway: Gateway) -> None:
    service = Service.spawn("gateway", "choir.gateway.main", log=gateway.log)
    message = {"state": str(gateway.state.root), "config": None, "token_key": "", "secrets": {}, "services": {}}
    with pytest.raises(StartError, match="Another gateway works on"):
        asyncio.run(service.start(message))
    service.stop()


@pytest.mark.parametrize(
    ("config", "env", "reason"),
    [
        ("[provider]\n", None, "config_invalid"),
        (
            '[providers.x]\nlike = "openai"\nbase_url = "http://h"\nkey = "env:K"\n',
            ("K=a b c\n", 0o600),
            "key_malformed",
        ),
        ("", ("K=secret\n", 0o644), "env_file_exposed"),
        ("", ("not a line\n", 0o600), "env_file_malformed"),
    ],
)
def test_says_why_it_does_not_start(tmp_path: Path, config: str, env: tuple[str, int] | None, reason: str) -> None:
    (tmp_path / "choir.toml").write_text(config)
    if env:
        (tmp_path / ".env").write_text(env[0])
        (tmp_path / ".env").chmod(env[1])
    service = Service.spawn("gateway", "choir.gateway.main", log=tmp_path / "log")
    message = {
        "state": str(tmp_path / "state"),
        "config": str(tmp_path / "choir.toml"),
        "token_key": base64.b64encode(tokens.new_key()).decode(),
        "secrets": {},
        "services": {},
    }
    with pytest.raises(StartError) as raised:
        asyncio.run(service.start(message))
    service.stop()
    assert raised.value.reason == reason
    assert "a b c" not in raised.value.message


def test_reload_changes_what_is_in_force_and_keeps_streams(double: Double, start_gateway: StartGateway) -> None:
    gateway = start_gateway(provider("mock", double.port))
    sandbox = gateway.sandbox()
    with contextlib.closing(Client(sandbox.port)) as client:
        client.send(sandbox.request(behave="hold"))
        client.until(EVENTS[0])
        gateway.config.write_text(provider("mock", double.port) + provider("more", double.port))
        assert sandbox.call(provider="more").status == 404
        answer = gateway.ask({"op": "reload"})
        assert answer["ok"]
        assert {"name": "more", "enabled": True, "reason": ""} in answer["providers"]
        assert sandbox.call(provider="more").status == 200
        double.release.set()
        client.until(b"0\r\n\r\n")
    gateway.config.write_text("[limits]\nrequests_per_minute = 1\n" + provider("mock", double.port))
    gateway.service.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 10
    while sandbox.call().status != 429:
        assert time.monotonic() < deadline
    assert "may make 1 requests a minute" in sandbox.call().error["message"]
    gateway.config.write_text("[wrong]\n")
    answer = gateway.ask({"op": "reload"})
    assert (answer["ok"], answer["reason"]) == (False, "config_invalid")
    assert sandbox.call().error["reason"] == "requests_per_minute"


def test_a_rotated_key_is_used_after_a_reload(double: Double, tmp_path: Path, start_gateway: StartGateway) -> None:
    (tmp_path / "own").mkdir()
    key = tmp_path / "own" / "key"
    key.write_text("first\n")
    key.chmod(0o600)
    gateway = start_gateway(provider("mock", double.port).replace("env:MOCK_KEY", f"file:{key}"))
    sandbox = gateway.sandbox()
    sandbox.call()
    key.write_text("second\n")
    assert gateway.ask({"op": "reload"})["ok"]
    sandbox.call()
    assert [b"Bearer first\r" in head for head, _ in double.requests] == [True, False]
    assert b"Bearer second\r" in double.requests[1][0]
    key.chmod(0o644)
    assert gateway.ask({"op": "reload"})["reason"] == "key_file_exposed"


def test_the_key_is_in_no_sink(double: Double, start_gateway: StartGateway) -> None:
    """Failures of every kind with a canary as the key, and the tokens, searched everywhere."""
    gateway = start_gateway(provider("mock", double.port) + "[timeouts]\nfirst_byte = 0.2\nidle = 0.2\n")
    sandbox = gateway.sandbox()
    kinds = [
        "json",
        "400",
        "401",
        "500",
        "close",
        "reset",
        "garbage",
        "redirect",
        "stall",
        "silent",
        "cut",
        "short",
        "limited",
    ]
    told = b""
    for behave in kinds:
        with contextlib.closing(Client(sandbox.port)) as client:
            client.send(sandbox.request(behave=behave, headers="Connection: close\r\n"))
            client.sock.settimeout(10)
            with contextlib.suppress(ConnectionError):
                while data := client.sock.recv(65536):
                    told += data
    sandbox.call(auth="Authorization: Bearer sk-someones-real-key\r\n")
    assert told.count(b"HTTP/1.1 ") == len(kinds)
    assert any(gateway.canary.encode() in head for head, _ in double.requests), "the canary was in use"
    assert [record.status for record in sandbox.records(len(kinds) + 1)][:4] == [200, 400, 502, 500]
    assert gateway.stop() == 0
    sinks = {"answers": told, **gateway.sinks()}
    assert any(name.endswith("usage.db") for name in sinks)
    for name, content in sinks.items():
        for secret in (gateway.canary, sandbox.token, "sk-someones-real-key"):
            # Not even a prefix that could be told from another key of the kind.
            assert secret.encode() not in content, name
            assert secret[:20].encode() not in content, name


def test_neither_core_dumps_nor_ptrace() -> None:
    code = (
        "import ctypes, resource; from choir.gateway.hardening import harden; harden();"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE))"  # PR_GET_DUMPABLE
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert out.split() == ["0", "0", "0"]


def test_nothing_of_it_can_be_read_by_others(gateway: Gateway) -> None:
    for pid in (gateway.service.pid, gateway.worker_pid):
        assert Path(f"/proc/{pid}/mem").stat().st_uid == 0, "not dumpable: owned by root (proc(5))"
    assert gateway.state.gateway_socket.stat().st_mode & 0o777 == 0o600
    assert gateway.state.ledger.stat().st_mode & 0o777 == 0o600


def test_a_locked_ledger_loses_no_record(double: Double, start_gateway: StartGateway) -> None:
    gateway = start_gateway(provider("mock", double.port))
    sandbox = gateway.sandbox()
    with contextlib.closing(sqlite3.connect(gateway.state.ledger, isolation_level=None)) as blocker:
        blocker.execute("BEGIN EXCLUSIVE")
        for _ in range(20):
            assert sandbox.call().status == 200
        deadline = time.monotonic() + 10
        while b"records wait in the journal" not in gateway.log.read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        blocker.execute("COMMIT")
    gateway.stop()
    assert len(Ledger(gateway.state.ledger).query()) == 20
    assert gateway.log.read_bytes().count(b"records wait in the journal") == 1


@pytest.mark.parametrize(
    "change",
    [
        {"state": 1},
        {"token_key": None},
        {"token_key": "not base64"},
        {"config": []},
        {"secrets": ["KEY"]},
        {"drain_seconds": "3"},
        {"another": "field"},
    ],
)
def test_a_start_message_of_another_shape_is_refused(change: dict[str, object]) -> None:
    message = {"state": "/s", "token_key": base64.b64encode(tokens.new_key()).decode(), "config": None}
    assert Start.take(message).run == "run"
    with pytest.raises(StartError) as caught:
        Start.take({**message, **change})
    assert caught.value.reason == "start_message_invalid"
    assert "KEY" not in caught.value.message
