"""A desktop in a sandbox: reached through the passed socket, and on the sandbox's own loopback."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from choir import inside
from choir.isolation.bubblewrap import BubblewrapBackend
from choir.isolation.contract import PhaseReached, SandboxSpec
from choir.tokens import new_key, sign

from .conftest import MakeSpec, started


@pytest.fixture
def spec(make_spec: MakeSpec, tmp_path: Path) -> SandboxSpec:
    identity = inside.identity_environment("01desk", "ada", "live", sign(new_key(), "01desk"))
    environment = identity | {"DATABASE_URL": "sqlite:////home/choir/choir.db"}
    return make_spec(sandbox_id="01desk", role="live", environment=environment, log=tmp_path / "log")


def get(address: str, path: str = "/") -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(address)
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        with sock.makefile("rb") as file:
            return file.read()


def test_a_desktop_answers(backend: BubblewrapBackend, spec: SandboxSpec) -> None:
    async def scenario() -> None:
        async with started(backend, spec) as running:
            assert running.desktop is not None
            assert (await asyncio.to_thread(get, running.desktop)).startswith(b"HTTP/1.1 200")
            exited = await running.stop(20)
            assert (exited.code, exited.reason) == (0, "stopped")
            assert running.desktop is None
            phases = [event.phase async for event in running.events() if isinstance(event, PhaseReached)]
            assert phases == ["keeper", "namespace", "keyless", "listener", "desktop", "ready"]

    asyncio.run(scenario())


def test_a_desktop_that_fails_says_why_at_once(backend: BubblewrapBackend, spec: SandboxSpec) -> None:
    environment = {name: value for name, value in spec.environment.items() if name != "DATABASE_URL"}
    broken = spec._replace(environment=environment)

    async def scenario() -> None:
        async with started(backend, broken) as running:  # the page is there; what is behind it is not
            exited = await running.wait()
            assert exited.reason == "desktop_exited"
            assert "DATABASE_URL" in exited.log_tail

    asyncio.run(scenario())


def test_a_desktop_is_adopted(spec: SandboxSpec, tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "run").mkdir()
        backend = BubblewrapBackend(tmp_path / "run")
        async with started(backend, spec) as running:
            keeper = running.keeper_socket
        assert keeper is not None
        adopted = await backend.adopt(keeper)
        try:
            await adopted.wait_ready()
            assert adopted.desktop is not None
            assert (await asyncio.to_thread(get, adopted.desktop)).startswith(b"HTTP/1.1 200")
            assert adopted.listener.getsockname() == ("127.0.0.1", inside.GATEWAY_PORT)
            await adopted.stop(0)
        finally:
            adopted.close()

    asyncio.run(scenario())
