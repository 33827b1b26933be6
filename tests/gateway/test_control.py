"""The control socket and the sandboxes it attaches."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from choir import channel

from .conftest import StartGateway
from .harness import EVENTS, Client, Double, Gateway, Sandbox, provider


def attach(gateway: Gateway, descriptors: list[int], **fields: Any) -> dict[str, Any]:
    message = {"op": "attach", "sandbox_id": "x", "user_id": "u", "role": "run", "lease_s": 5.0, **fields}
    return gateway.ask(message, descriptors)


def test_a_listener_must_be_what_it_should(gateway: Gateway) -> None:
    with contextlib.ExitStack() as stack:
        unbound = stack.enter_context(socket.socket())
        bound = stack.enter_context(socket.socket())
        bound.bind(("127.0.0.1", 0))
        anywhere = stack.enter_context(socket.create_server(("0.0.0.0", 0)))
        six = (
            stack.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6))
            if socket.has_ipv6
            else unbound
        )
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        file = stack.enter_context(Path(os.devnull).open())
        good = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        for wrong in (unbound, bound, anywhere, six, unix, udp, file):
            answer = attach(gateway, [wrong.fileno()])
            assert (answer["ok"], answer["reason"]) == (False, "listener_invalid"), wrong
        assert attach(gateway, [])["reason"] == "listener_invalid"
        assert attach(gateway, [good.fileno(), good.fileno()])["reason"] == "listener_invalid"
        assert attach(gateway, [good.fileno()], lease_s="long")["reason"] == "message_invalid"
        assert attach(gateway, [good.fileno()], sandbox_id="a.b")["reason"] == "message_invalid"
        assert attach(gateway, [good.fileno()])["ok"]
    assert gateway.ask({"op": "detach", "sandbox_id": "x"}) == {"ok": True}
    assert gateway.ask({"op": "make coffee"})["reason"] == "op_unknown"


def test_attaching_again_replaces_the_listener(sandbox: Sandbox) -> None:
    old = sandbox.port
    assert sandbox.call().status == 200
    sandbox.attach()
    assert sandbox.port != old
    assert sandbox.call().status == 200
    with pytest.raises(ConnectionRefusedError):
        Client(old)


def test_attaching_again_does_not_renew_the_budget(double: Double, start_gateway: StartGateway) -> None:
    gateway = start_gateway(provider("mock", double.port) + "[limits]\nrequests_per_minute = 3\n")
    sandbox = gateway.sandbox()
    statuses = [sandbox.call().status for _ in range(4)]
    sandbox.attach()
    assert [*statuses, sandbox.call().status] == [200, 200, 200, 429, 429]
    assert gateway.sandbox().call().status == 200, "another sandbox has its own"


def test_detach_ends_everything_at_once(sandbox: Sandbox, gateway: Gateway, double: Double) -> None:
    with contextlib.closing(Client(sandbox.port)) as client, contextlib.closing(Client(sandbox.port)) as idle:
        client.send(sandbox.request(behave="hold"))
        client.until(EVENTS[0] + b"\r\n")
        idle.send(sandbox.request())
        assert idle.answer().status == 200
        gateway.ask({"op": "detach", "sandbox_id": sandbox.sandbox_id})
        assert client.closed()
        assert idle.closed()
    assert double.lost.wait(5)
    with pytest.raises(ConnectionRefusedError):
        Client(sandbox.port)
    assert [record.outcome for record in sandbox.records(2)] == ["ok", "client_gone"]


def test_a_lease_that_ends_ends_the_sandbox(gateway: Gateway) -> None:
    sandbox = gateway.sandbox(lease_s=0.6)
    with contextlib.closing(Client(sandbox.port)) as client:
        client.send(sandbox.request())
        assert client.answer().status == 200
        assert gateway.ask({"op": "renew", "sandbox_ids": [sandbox.sandbox_id, "zz"], "lease_s": 0.3}) == {
            "ok": True,
            "unknown": ["zz"],
        }
        time.sleep(0.35)  # the thing under test is that time passes
        with contextlib.suppress(ConnectionError):
            client.send(sandbox.request())
        with contextlib.suppress(EOFError, ConnectionError):
            assert client.answer().error["reason"] == "lease_ended"
    assert gateway.ask({"op": "renew", "sandbox_ids": [sandbox.sandbox_id], "lease_s": 5.0})["unknown"] in (
        [],
        [sandbox.sandbox_id],
    )


def test_a_listener_that_was_shut_down_is_dropped_and_never_spins(gateway: Gateway) -> None:
    sandbox = Sandbox(gateway, "shut-down", "u")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert attach(gateway, [listener.fileno()], sandbox_id="shut-down", lease_s=60.0)["ok"]
        sandbox.port = listener.getsockname()[1]
        assert sandbox.call().status == 200
        listener.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + 10
        while b"sandbox shut-down can accept no more (EINVAL); dropped" not in gateway.log.read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert gateway.log.read_bytes().count(b"shut-down can accept") == 1
    assert gateway.ask({"op": "renew", "sandbox_ids": ["shut-down"], "lease_s": 5.0})["unknown"] == ["shut-down"]
    gateway.ask({"op": "detach", "sandbox_id": "shut-down"})


def test_status(sandbox: Sandbox, gateway: Gateway) -> None:
    answer = gateway.ask({"op": "status"})
    assert answer["pid"] == gateway.worker_pid
    assert {"name": "mock", "enabled": True, "reason": ""} in answer["providers"]
    assert {"name": "keyless", "enabled": False, "reason": "no key in NOT_THERE"} in answer["providers"]
    found = {s["sandbox_id"]: s for s in answer["sandboxes"]}[sandbox.sandbox_id]
    assert found["listening"]
    assert 0 < found["lease_s"] <= 100
    assert gateway.canary not in str(answer)


def test_a_subscriber_that_does_not_read_harms_nobody(gateway: Gateway, sandbox: Sandbox) -> None:
    with contextlib.closing(channel.connect(str(gateway.state.gateway_socket))) as deaf:
        deaf.send({"op": "subscribe"})
        with contextlib.closing(Client(sandbox.port)) as client:
            for _ in range(20):
                client.send(sandbox.request(path="/files", body=b"{}") * 50)
                assert {client.answer().status for _ in range(50)} == {403}
    assert len(sandbox.records(600)) == 600


def test_garbage_on_the_control_socket_closes_it(gateway: Gateway) -> None:
    with contextlib.closing(channel.connect(str(gateway.state.gateway_socket))) as other:
        other.sock.send(b"{")
        with pytest.raises(channel.ChannelClosed):
            other.receive()
    assert gateway.ask({"op": "status"})["ok"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_may_not_speak(gateway: Gateway) -> None:
    def other() -> int:
        try:
            os.seteuid(65534)
            client = channel.connect(str(path))
            client.send({"op": "status"})
            client.receive()
        except (channel.ChannelClosed, PermissionError):
            return 7
        return 8

    # Through the file mode the kernel already refuses; open it to see the check behind it.
    path = gateway.state.gateway_socket
    modes = [(p, p.stat().st_mode & 0o7777) for p in (path, *path.parents)]
    for p, mode in modes:
        p.chmod(mode | 0o777 if p == path else mode | 0o011)
    try:
        pid = os.fork()
        if pid == 0:
            os._exit(other())
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    finally:
        for p, mode in modes:
            p.chmod(mode)
