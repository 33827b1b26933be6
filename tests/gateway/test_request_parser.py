"""The shortcut for a head that was judged before must never see a request that the strict parser does not see."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.gateway.refusals import Refusal
from choir.gateway.request_parser import Request, RequestParser

BODY = b'{"model":"m","messages":[]}'
HEAD = b"POST /provider/v1/p/chat/completions HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer t\r\nX-A: b\r\n"
FIRST = HEAD + b"Content-Length: %d\r\nAccept: a/b\r\n\r\n%b" % (len(BODY), BODY)
GET = b"GET /provider/v1/p/models HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer t\r\n\r\n"


class Seen:
    """What a parser told, and whether it took the shortcut."""

    def __init__(self) -> None:
        self.requests: list[list[Any]] = []
        self.unreadable = False
        self.shortcuts = 0

    def request_begun(self, request: Request) -> None:
        head, refusal = request.head, request.refusal
        how = (request.length, request.keep_alive, request.upgrade, refusal and refusal.outcome)
        self.requests.append([request.method, request.target, head.kept, head.token, how, b"", False])

    def request_body(self, request: Request, piece: bytes) -> None:
        self.requests[-1][-2] += piece

    def request_ended(self, request: Request) -> None:
        self.requests[-1][-1] = True

    def request_whole(self, request: Request, body: bytes) -> None:
        self.shortcuts += 1
        self.request_begun(request)
        self.request_body(request, body)
        self.request_ended(request)

    def request_unreadable(self, request: Request | None, refusal: Refusal) -> None:
        self.unreadable = True


def feed(pieces: list[bytes], shortcut: bool) -> Seen:
    seen = Seen()
    parser = RequestParser(seen)
    for piece in pieces:
        if seen.unreadable or parser.raw is not None:
            break
        parser.feed(piece, shortcut and (not seen.requests or seen.requests[-1][-1]))
    return seen


def both(pieces: list[bytes]) -> Seen:
    """Both ways, which must tell the same."""
    quick, strict = feed(pieces, True), feed(pieces, False)
    assert (quick.requests, quick.unreadable) == (strict.requests, strict.unreadable)
    assert strict.shortcuts == 0
    return quick


@pytest.mark.parametrize("first", [FIRST, GET])
def test_a_head_that_comes_again_takes_the_shortcut(first: bytes) -> None:
    assert both([first] * 3).shortcuts == 2
    longer = HEAD + b"Content-Length: %d\r\nAccept: a/b\r\n\r\n%b" % (1000, b"x" * 1000)
    assert both([FIRST, longer, FIRST, FIRST + FIRST, FIRST]).shortcuts == 3


BYTES = sorted({0, 9, 10, 13, 32, 48, 49, 58, 127, 128, 255, *b"aA,;+-xX"})


@pytest.mark.parametrize("first", [FIRST, GET])
def test_one_byte_more_less_or_other(first: bytes) -> None:
    end = first.index(b"\r\n\r\n") + 4
    for at in range(end + 2):
        both([first, first[:at] + first[at + 1 :], first])
        for value in BYTES:
            byte = bytes((value,))
            both([first, first[:at] + byte + first[at:], first])
            if at < len(first):
                both([first, first[:at] + byte + first[at + 1 :], first])


LENGTHS = (
    *(b"", b"+27", b"-27", b"027", b"0000000027", b"00000000000000000027", b"27 ", b" 27", b"2 7", b"27, 27", b"0x1b"),
    *(b"26", b"28", b"27\r\nContent-Length: 27", b"27\r\nTransfer-Encoding: chunked", b"99999999999999999999999"),
    *(b"\xd9\xa2\xd9\xa7", b"27\n", b"27\r", b"27\x00", b"2_7", b"27;", b"4294967323", b"18446744073709551643"),
)


@pytest.mark.parametrize("digits", LENGTHS)
def test_no_other_length_takes_it(digits: bytes) -> None:
    again = HEAD + b"Content-Length: " + digits + b"\r\nAccept: a/b\r\n\r\n" + BODY
    quick = both([FIRST, again, FIRST])
    assert quick.shortcuts <= 2
    if digits.isdigit() and int(digits) == len(BODY) and len(digits) <= 10:
        assert quick.shortcuts == 2


def test_what_is_split_or_pipelined_goes_the_long_way() -> None:
    for at in range(1, len(FIRST)):
        assert both([FIRST, FIRST[:at], FIRST[at:], FIRST]).shortcuts <= 1
        assert both([FIRST, FIRST + FIRST[:at], FIRST[at:]]).shortcuts == 0
    for between in (b"\r\n", b"\r", b"\n", b" ", b"\r\n\r\n"):
        assert both([FIRST, between, FIRST]).shortcuts == 0
        assert both([FIRST + between, FIRST]).shortcuts == 0


@pytest.mark.parametrize(
    "line",
    [
        b"Connection: close",
        b"Expect: 100-continue",
        b"Transfer-Encoding: chunked",
        b"Connection: Upgrade\r\nUpgrade: x",
    ],
)
def test_only_plain_heads_are_remembered(line: bytes) -> None:
    body = b"" if b"chunked" not in line else b"0\r\n\r\n"
    request = b"POST /x HTTP/1.1\r\nHost: h\r\n" + line + b"\r\n\r\n" + body
    assert both([request, request]).shortcuts == 0


PIECES = st.sampled_from(
    [FIRST, FIRST, FIRST, GET, FIRST + GET, FIRST[:50], FIRST[50:], b"\r\n", BODY, FIRST[:-3], FIRST[-3:]]
)


@given(st.lists(PIECES, max_size=8), st.binary(max_size=2), st.integers(0, 500))
def test_any_order_of_pieces(pieces: list[bytes], dirt: bytes, at: int) -> None:
    text = b"".join(pieces)
    both(pieces)
    both([text[:at] + dirt + text[at:]])
    both([*pieces, dirt, FIRST, FIRST])


@pytest.mark.parametrize("first", [FIRST, GET])
def test_long_heads_are_not_remembered(first: bytes) -> None:
    longest = 8 * 1024 - (first.index(b"\r\n\r\n") + 4)
    for more, shortcuts in ((longest, 1), (longest + 1, 0)):
        long = first.replace(b"Host: h", b"Host: " + b"h" * (more + 1))
        assert both([long, long]).shortcuts == shortcuts
    seen = Seen()
    parser = RequestParser(seen)
    parser.feed(first.replace(b"Host: h", b"Host: " + b"h" * 60_000), True)
    kept = sum(len(value) for name in parser.__slots__ if isinstance(value := getattr(parser, name), bytes))
    assert kept == 0
    assert parser._known is None
    assert parser._last_head is None
