"""The shortcut for an answer's head that was read before must never see an answer that the strict parser does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.gateway.response_head import ResponseHead
from choir.gateway.upstream_connection import UpstreamConnection

BODY = b'{"id":"x"}'
HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: s\r\nContent-Type: application/json\r\nContent-Length: 10\r\nx-request-id: 1\r\n\r\n"
)
ANSWER = HEAD + BODY


class Transport:
    closed = False

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True


class Upstream:
    secrets = (b"sk-secret",)

    def __init__(self, shortcut: bool) -> None:
        self._shortcut = shortcut
        self._known: tuple[bytes, int, ResponseHead | None] = (b"", 0, None)
        self.released = 0

    @property
    def known_head(self) -> tuple[bytes, int, ResponseHead | None]:
        return self._known if self._shortcut else (b"", 0, None)

    @known_head.setter
    def known_head(self, known: tuple[bytes, int, ResponseHead | None]) -> None:
        self._known = known

    def release(self, connection: UpstreamConnection) -> None:
        self.released += 1

    def forget(self, connection: UpstreamConnection) -> None:
        pass


class Call:
    request_done = True

    def __init__(self) -> None:
        self.seen: list[Any] = [None, b"", []]

    def response_head(self, head: ResponseHead) -> None:
        self.seen[0] = head.status, head.kept, head.length

    def response_body(self, piece: bytes) -> None:
        self.seen[1] += piece

    def response_complete(self) -> None:
        self.seen[2].append("complete")

    def response_whole(self, head: ResponseHead, body: bytes) -> None:
        self.response_head(head)
        self.response_body(body)
        self.response_complete()

    def response_flush(self) -> None:
        pass

    def upstream_lost(self, reason: str) -> None:
        self.seen[2].append(reason)

    def switched(self, rest: bytes) -> None:
        self.seen[2].append(rest)


def answers(turns: list[list[bytes]], shortcut: bool) -> list[Any]:
    """What one call after another sees on one connection."""
    upstream = Upstream(shortcut)
    connection = UpstreamConnection(upstream)  # type: ignore[arg-type]
    connection.connection_made(Transport())  # type: ignore[arg-type]
    told: list[Any] = []
    for pieces in turns:
        if connection.transport.is_closing() or connection.call is not None:
            break
        call = Call()
        connection.call = call  # type: ignore[assignment]
        for piece in pieces:
            if not connection.transport.is_closing():
                connection.data_received(piece)
        told.append((call.seen, connection.transport.is_closing(), upstream.released))
    return told


def both(turns: list[list[bytes]]) -> list[Any]:
    quick = answers(turns, True)
    assert quick == answers(turns, False)
    return quick


def test_an_answer_that_comes_again() -> None:
    assert both([[ANSWER]] * 3)[-1] == ([(200, ANSWER_KEPT, 10), BODY, ["complete"]], False, 3)


ANSWER_KEPT = b"Content-Type: application/json\r\nx-request-id: 1\r\n"


def test_one_byte_more_less_or_other() -> None:
    for at in range(len(HEAD) + 2):
        both([[ANSWER], [ANSWER[:at] + ANSWER[at + 1 :]], [ANSWER]])
        for value in (0, 9, 10, 13, 32, 49, 58, 128, *b"aA,"):
            byte = bytes((value,))
            both([[ANSWER], [ANSWER[:at] + byte + ANSWER[at:]], [ANSWER]])
            both([[ANSWER], [ANSWER[:at] + byte + ANSWER[at + 1 :]], [ANSWER]])


def test_split_anywhere_and_with_too_much() -> None:
    for at in range(1, len(ANSWER)):
        both([[ANSWER], [ANSWER[:at], ANSWER[at:]], [ANSWER]])
        both([[ANSWER], [ANSWER + ANSWER[:at]], [ANSWER]])


OTHERS = (
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 204 No\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ANSWER.replace(b"x-r", b"Connection: close\r\nx-r"),
)


@pytest.mark.parametrize("other", OTHERS)
def test_others_between(other: bytes) -> None:
    both([[other], [ANSWER], [other + ANSWER], [ANSWER]])
    both([[other, ANSWER], [other, ANSWER], [other], [other]])


@given(st.lists(st.lists(st.sampled_from([ANSWER, HEAD, BODY, ANSWER[:9], ANSWER[9:], b"\r\n", b"x"]), max_size=4)))
def test_any_order_of_pieces(turns: list[list[bytes]]) -> None:
    both(turns)
