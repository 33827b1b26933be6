"""Malformed requests by the thousand against a real gateway: it lives on, and none of their bytes goes upstream."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

import pytest

from ..conftest import StartGateway
from ..harness import Double, Gateway, Sandbox, provider
from .flood import Tap, flood
from .grammar import Requests, verdict

SEED = 20261124
GARBAGE = 24_000_000
"""Bytes of cycles that may wait for Python's collector."""


def resident(gateway: Gateway) -> int:
    """The worker's memory, in bytes; everyone may read that."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{gateway.worker_pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def descriptors(gateway: Gateway) -> int:
    """0 for who may not look: the gateway is not dumpable."""
    return len(os.listdir(f"/proc/{gateway.worker_pid}/fd")) if os.geteuid() == 0 else 0


def settled(gateway: Gateway) -> None:
    """Return once no sandbox has a call or a connection; pytest's timeout ends a wait in vain."""
    while any(sandbox["calls"] or sandbox["connections"] for sandbox in gateway.ask({"op": "status"})["sandboxes"]):
        pass


@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
def test_nothing_malformed_gets_through(start_gateway: StartGateway, double: Double, count: int) -> None:
    limits = "[limits]\nrequests_per_minute = 1000000\nmax_body_bytes = 300000\n"
    with contextlib.closing(Tap()) as tap:
        gateway = start_gateway(provider("mock", tap.port) + provider("sound", double.port) + limits)
        sandbox = gateway.sandbox(lease_s=7200)
        requests = iter(Requests(sandbox.token, SEED))
        assert sandbox.call(provider="sound").status == 200, "what is well formed passes"
        assert flood(sandbox.port, requests, count // 4).faults == []  # fills caches and generations of the collector
        settled(gateway)
        files, memory = descriptors(gateway), resident(gateway)

        outcome = flood(sandbox.port, requests, count)

        assert outcome.faults == []
        assert (outcome.sent, sum(outcome.statuses.values())) == (count, count)
        assert outcome.statuses[400] > count / 2
        assert tap.received == [], "something went upstream"
    assert sandbox.call(provider="sound").status == 200
    settled(gateway)
    assert descriptors(gateway) <= files + 1, "a descriptor leaked"
    assert resident(gateway) < memory + GARBAGE, "memory leaked"
    assert "unexpected" not in gateway.log.read_text(), "a defect was logged"


def test_a_request_line_has_single_spaces(sandbox: Sandbox, double: Double) -> None:
    for line in (b"POST  /", b"POST   /"):
        assert sandbox.call(sandbox.request().replace(b"POST /", line, 1)).status in (400, 505)
    assert double.requests == []


HEAD = b"POST / HTTP/1.1\r\nHost: h\r\n"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (HEAD + b"Content-Length: 2\r\n\r\n{}", "valid"),
        (HEAD + b"Content-Length: 3\r\n\r\n{}", "incomplete"),
        (HEAD + b"Content-Length: 3, 3\r\n\r\nabc", "malformed"),
        (HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "malformed"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\nX: y\r\n\r\n", "valid"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}", "incomplete"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}}\r\n", "malformed"),
        (HEAD + b"Transfer-Encoding: xchunked\r\n\r\n", "malformed"),
        (HEAD + b"X : y\r\n\r\n", "malformed"),
        (HEAD + b"X: y\r\n z\r\n\r\n", "malformed"),
        (HEAD + b"Host: i\r\n\r\n", "malformed"),
        (HEAD.replace(b"/ ", b"http://x/ ") + b"\r\n", "refused"),
        (HEAD.replace(b"1.1", b"1.0") + b"\r\n", "refused"),
        (HEAD, "incomplete"),
    ],
)
def test_the_oracle(data: bytes, expected: str) -> None:
    assert verdict(data) == expected
