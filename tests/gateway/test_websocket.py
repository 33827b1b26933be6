"""Frames as the library websockets makes and reads them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from choir.frames import BINARY, TEXT
from choir.gateway.websocket import (
    BadFrames,
    Message,
    Reader,
    close_frame,
    text_frame,
    without_extensions,
)


def frame(opcode: Opcode, data: bytes, fin: bool = True, mask: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=mask)


def fragments(kind: Opcode, parts: list[bytes], mask: bool) -> list[bytes]:
    last = len(parts) - 1
    return [frame(kind if at == 0 else Opcode.CONT, part, at == last, mask) for at, part in enumerate(parts)]


messages = st.lists(
    st.tuples(st.sampled_from((Opcode.TEXT, Opcode.BINARY)), st.lists(st.binary(max_size=300), min_size=1, max_size=3)),
    max_size=4,
)


@given(messages, st.booleans(), st.lists(st.integers(0, 5000)), st.booleans())
def test_every_message_is_found_however_it_is_cut(
    said: list[tuple[Opcode, list[bytes]]], mask: bool, cuts: list[int], pings: bool
) -> None:
    data = b""
    for kind, parts in said:
        for each in fragments(kind, parts, mask):
            data += each + (frame(Opcode.PING, b"p", mask=mask) if pings else b"")
    reader = Reader(masked=mask, max_bytes=10_000)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    found: list[Message] = []
    for start, end in itertools.pairwise(places):
        found += reader.feed(data[start:end])
    whole = [message for message in found if message.opcode < 8]
    assert [(message.opcode, message.text) for message in whole] == [(int(kind), b"".join(p)) for kind, p in said]
    raw = b"".join(message.raw for message in found)
    assert len(raw) == len(data)
    if not pings:
        assert raw == data


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536, 300_000])
def test_every_length(size: int) -> None:
    (message,) = Reader(True, 400_000).feed(frame(Opcode.TEXT, b"x" * size))
    assert (message.opcode, len(message.text)) == (TEXT, size)
    client = Protocol(Side.CLIENT, max_size=None)
    client.receive_data(text_frame(b"y" * size))
    (read,) = client.events_received()
    assert (read.opcode, len(read.data)) == (Opcode.TEXT, size)  # type: ignore[union-attr]


def test_a_close_is_read_by_a_client() -> None:
    client = Protocol(Side.CLIENT)
    client.receive_data(close_frame(1008, "reason " * 40))
    assert client.close_rcvd is not None
    assert client.close_rcvd.code == 1008
    assert client.close_rcvd.reason.startswith("reason reason")


@pytest.mark.parametrize(
    "data",
    [
        frame(Opcode.TEXT, b"x", mask=False),  # a client masks
        b"\xc1" + frame(Opcode.TEXT, b"x")[1:],  # a reserved bit: compressed
        b"\x83" + frame(Opcode.TEXT, b"x")[1:],  # a reserved opcode
        frame(Opcode.CONT, b"x"),  # of nothing
        frame(Opcode.TEXT, b"x", fin=False) + frame(Opcode.TEXT, b"y"),  # within another
        b"\x09" + frame(Opcode.PING, b"x")[1:],  # a control frame in parts
        b"\x89\xfe\x00\x80" + bytes(132),  # a long one
        frame(Opcode.TEXT, b"x" * 101),
        frame(Opcode.TEXT, b"x" * 60, fin=False) + frame(Opcode.CONT, b"x" * 60, fin=False),
        b"\x81\xff" + b"\x7f" * 8,  # 9 exabytes, said at once
    ],
)
def test_what_may_not_be(data: bytes) -> None:
    with pytest.raises(BadFrames):
        Reader(masked=True, max_bytes=100).feed(data)


def test_a_server_does_not_mask() -> None:
    with pytest.raises(BadFrames):
        Reader(masked=False, max_bytes=100).feed(frame(Opcode.BINARY, b"x"))
    (message,) = Reader(masked=False, max_bytes=100).feed(frame(Opcode.BINARY, b"x", mask=False))
    assert message == Message(b"\x82\x01x", BINARY, b"x")


@given(st.binary(max_size=200), st.booleans())
def test_anything_can_be_fed(data: bytes, mask: bool) -> None:
    reader = Reader(mask, 1000)
    try:
        for at in range(len(data)):
            reader.feed(data[at : at + 1])
    except BadFrames:
        pass


def test_no_extension_is_asked_for() -> None:
    head = b"A: b\r\nSec-WebSocket-EXTENSIONS: permessage-deflate\r\nSec-WebSocket-Key: k\r\n"
    assert without_extensions(head) == b"A: b\r\nSec-WebSocket-Key: k\r\n"


def test_frames_without_content_do_not_pile_up() -> None:
    reader = Reader(masked=False, max_bytes=1000)
    reader.feed(frame(Opcode.TEXT, b"a", fin=False, mask=False))
    empty = frame(Opcode.CONT, b"", fin=False, mask=False)
    with pytest.raises(BadFrames):
        reader.feed(empty * 10_000)

    reader = Reader(masked=True, max_bytes=1000)
    parts = [b"", *[b"a"] * 998, b""]
    (message,) = reader.feed(b"".join(fragments(Opcode.TEXT, parts, mask=True)))
    assert message.text == b"a" * 998, "small frames are no fault"
