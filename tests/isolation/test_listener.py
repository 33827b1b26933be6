from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

import pytest

from choir.errors import IsolationError
from choir.isolation.bubblewrap import BubblewrapBackend
from choir.isolation.listener import check_listener, namespace_of

from .conftest import MakeSpec, started


def tcp(address: str = "127.0.0.1", *, listen: bool = True, family: int = socket.AF_INET) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.bind((address, 0))
    if listen:
        sock.listen()
    return sock


def udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


@pytest.mark.parametrize(
    "make", [tcp, lambda: tcp(listen=False), lambda: tcp("0.0.0.0"), udp, lambda: socket.socket(socket.AF_UNIX)]
)
def test_refuses_what_is_not_the_sandboxs_listener(make: Callable[[], socket.socket]) -> None:
    with make() as sock:
        name = sock.getsockname()
        address = ("127.0.0.1", name[1] if isinstance(name, tuple) else 7070)
        with pytest.raises(IsolationError) as caught:  # even the right kind: it is in the host's own network
            check_listener(sock, os.getpid(), address)
        assert caught.value.reason == "listener_refused"


def test_refuses_another_sandboxs_listener(backend: BubblewrapBackend, make_spec: MakeSpec) -> None:
    def inside(launcher: int) -> int:
        with open(f"/proc/{launcher}/task/{launcher}/children") as file:
            return int(file.read().split()[0])

    async def scenario() -> None:
        async with started(backend, make_spec("sleep", "60")) as one, started(backend, make_spec("sleep", "60")) as two:
            check_listener(one.listener, inside(one.pid))
            with pytest.raises(IsolationError) as caught:
                check_listener(one.listener, inside(two.pid))
            assert caught.value.reason == "listener_refused"
            assert namespace_of(one.listener) != namespace_of(two.listener)

    asyncio.run(scenario())
