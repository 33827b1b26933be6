from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator

import pytest

from choir.app.audit import host


@pytest.fixture
def idle() -> Iterator[subprocess.Popen[bytes]]:
    """An ordinary process: dumpable, with a key in its environment and arguments."""
    key = f"sk-{secrets.token_hex(24)}"
    code = "import sys; print(flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, key], env={"A": key}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.communicate()


def test_a_process_with_a_key_is_red(idle: subprocess.Popen[bytes]) -> None:
    finding = host.started_with("gateway", [idle.pid])
    assert not finding.ok
    assert "The variable A" in finding.came_back or "argument" in finding.came_back
    assert host.started_with("gateway", [os.getpid(), 2**22 - 1]).tried


def test_memory_that_can_be_read_is_red() -> None:
    """Of an ordinary process of an ordinary uid, which is dumpable."""
    who = {"user": 54321, "group": 54321, "extra_groups": ()} if os.geteuid() == 0 else {}
    process = subprocess.Popen(["sleep", "600"], **who)  # type: ignore[call-overload]
    try:
        finding = host.memory_of([process.pid])
    finally:
        process.kill()
        process.wait()
    assert not finding.ok
    assert f"environ of {process.pid}" in finding.came_back
    assert not host.memory_of([]).ok, "nobody was tried"


def test_core_dumps_that_are_allowed_are_red() -> None:
    code = "import resource, sys; print(flush=True); sys.stdin.read()"
    for limit, ok in (("0", True), ("1", False)):
        process = subprocess.Popen(
            ["sh", "-c", f'ulimit -c {limit} && exec "$@"', "sh", sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.readline()
        assert host.core_dumps([process.pid]).ok is ok
        process.communicate()


def test_who_is_who() -> None:
    process = subprocess.Popen(["sleep", "600"], env={})
    try:
        assert host._kind(process.pid) == ""
        assert host._parent(process.pid) == os.getpid()
        assert host._uid(process.pid) == os.geteuid()
    finally:
        process.kill()
        process.wait()
