from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from choir.sandbox.doorman import Doorman, wants_the_page

PAGE = b"<html>" + b"x" * 300_000  # more than a socket holds
ASKED = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "wanted"),
    [
        (ASKED, True),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n", True),
        (ASKED[:-2], False),
        (ASKED + b"GET", False),
        (b"GET /static/a.js HTTP/1.1\r\nHost: localhost\r\n\r\n", False),
        (b"GET /?x HTTP/1.1\r\nHost: localhost\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n", False),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\ncontent-length: 0\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\r\n", False),
        (b"", False),
    ],
)
def test_what_is_a_request_for_the_page(head: bytes, wanted: bool) -> None:
    assert wants_the_page(head) == (len(head) if wanted else 0)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        yield path, listener


def caller(path: str, said: bytes) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(path)
    sock.sendall(said)
    return sock


def test_answers_for_the_page_and_holds_everything_else(place: tuple[str, socket.socket]) -> None:
    path, listener = place
    doorman = Doorman([listener], PAGE)
    doorman.start()
    silent, other = caller(path, b""), caller(path, b"GET /api HTTP/1.1\r\n\r\n")
    for _ in range(2):
        with caller(path, ASKED) as sock, sock.makefile("rb") as answer:
            head, _, body = answer.read().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"connection: close" in head
        assert body == PAGE
    held = [socket.socket(fileno=descriptor) for descriptor in doorman.leave()]
    silent.sendall(b"late")
    assert {sock.recv(100) for sock in held} == {b"late", b"GET /api HTTP/1.1\r\n\r\n"}  # unread until now
    later = caller(path, ASKED)
    accepted, _ = listener.accept()
    assert accepted.recv(5) == b"GET /"  # nobody is at the door any more
    for sock in (silent, other, later, accepted, *held):
        sock.close()


def test_whoever_is_gone_again_does_no_harm(place: tuple[str, socket.socket]) -> None:
    path, listener = place
    doorman = Doorman([listener], PAGE)
    doorman.start()
    for _ in range(20):
        caller(path, ASKED).close()
    with caller(path, ASKED) as sock, sock.makefile("rb") as answer:
        assert answer.read().endswith(PAGE)
    for descriptor in doorman.leave():
        socket.close(descriptor)
