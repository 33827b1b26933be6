from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.gateway.framing import Chunks, split_length


@pytest.mark.parametrize(
    ("head", "parts"),
    [
        (b"POST / HTTP/1.1\r\nA: b\r\n", (b"POST / HTTP/1.1\r\nA: b\r\n", 0, b"")),
        (
            b"POST / HTTP/1.1\r\ncontent-LENGTH: \t12 \r\nA: b\r\n",
            (b"POST / HTTP/1.1\r\ncontent-LENGTH: \t", 12, b" \r\nA: b\r\n"),
        ),
        (b"POST /?Content-Length:5 HTTP/1.1\r\nX-Content-Length: 6\r\n", None),
    ],
)
def test_split_length(head: bytes, parts: tuple[bytes, int, bytes] | None) -> None:
    assert split_length(head) == (parts or (head, 0, b""))


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=20), st.sampled_from([b"", b";a=b", b';q="x"'])), max_size=5),
    st.sampled_from([b"", b"X: y\r\n"]),
    st.binary(max_size=10),
    st.lists(st.integers(1, 9), min_size=1),
)
def test_finds_the_end_of_chunks(
    chunks: list[tuple[bytes, bytes]], trailers: bytes, rest: bytes, sizes: list[int]
) -> None:
    body = b"".join(b"%x%b\r\n%b\r\n" % (len(data), extension, data) for data, extension in chunks)
    body += b"0\r\n" + trailers + b"\r\n"
    assert Chunks().end(body + rest) == len(body)
    walk, at, turn = Chunks(), 0, 0
    while True:
        size = sizes[turn % len(sizes)]
        end = walk.end((body + rest)[at : at + size])
        if end >= 0:
            assert at + end == len(body)
            break
        at, turn = at + size, turn + 1
        assert at < len(body) + len(rest)
