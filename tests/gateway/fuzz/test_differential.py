"""A sample of what ``atheris_target.py`` looks for without end: see ``differential.py``."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from .differential import ANSWERS, CUT, REQUESTS, Pair
from .grammar import mutated

COUNT = 1000


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with contextlib.closing(Pair(tmp_path)) as pair:
        yield pair


def test_both_read_the_same_requests(pair: Pair) -> None:
    assert [pair.request(data) for data in REQUESTS] == [1, 1, 1, 1]
    assert pair.request(b"".join(REQUESTS)) == pair.request(CUT.join(REQUESTS)) == 4
    assert pair.request(CUT.join([REQUESTS[0]] * 3)) == 3
    assert pair.request(REQUESTS[0].replace(b"1.1", b"1.0")) == 0
    chance = random.Random(20261124)
    passed = 0
    for _ in range(COUNT):
        first = chance.choice(REQUESTS)
        # A head that came before on the same connection may be read in another way than a new one.
        again = first + CUT + mutated(chance, first) + CUT + first
        passed += pair.request(chance.choice((mutated(chance, first), again, mutated(chance, again))))
    assert passed > COUNT / 20, "too few pass for this to mean anything"


def test_both_read_the_same_answers(pair: Pair) -> None:
    assert all(pair.response(data) for data in ANSWERS)
    assert not pair.response(b"SSH-2.0-x\r\n\r\n")
    assert not pair.response(b"HTTP/2.0 200 OK\r\n\r\nx")
    for trailer in (b"Transfer-Encoding: x", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"):
        # h11 refuses it; the gateway forwards no trailer
        assert pair.response(ANSWERS[1].removesuffix(b"\r\n") + trailer + b"\r\n\r\n")
    for framing in (b"Transfer-Encoding: chunked", b"Content-Length: 0", b"content-length: 2"):
        assert not pair.response(b"HTTP/1.1 103 E\r\n" + framing + b"\r\n\r\n" + ANSWERS[0])
    chance = random.Random(20261124)
    passed = sum(pair.response(mutated(chance, chance.choice(ANSWERS))) for _ in range(COUNT))
    assert passed > COUNT / 20, "too few pass for this to mean anything"
