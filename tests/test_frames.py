"""Frames as the library websockets makes and reads them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Protocol, Side

from choir.frames import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    PROTOCOL_ERROR,
    TEXT,
    TOO_BIG,
    BadFrames,
    Control,
    Frames,
    control_frame,
    masked,
    message_frame,
)

LIMIT = 70_000


def frame(opcode: int, data: bytes, fin: bool = True, mask: bool = True) -> bytes:
    return Frame(Opcode(opcode), data, fin).serialize(mask=mask)


controls = st.tuples(st.sampled_from((PING, PONG)), st.binary(max_size=125))
sizes = st.sampled_from((0, 1, 2, 125, 126, 300, 66_000))
messages = st.lists(
    st.tuples(st.sampled_from((TEXT, BINARY)), st.lists(sizes, min_size=1, max_size=2), st.lists(controls, max_size=2)),
    max_size=4,
)


@given(messages, st.booleans(), st.lists(st.integers(0, 140_000)))
def test_messages_pass_as_they_come_and_control_frames_are_taken_out(
    said: list[tuple[int, list[int], list[tuple[int, bytes]]]], mask: bool, cuts: list[int]
) -> None:
    data, passing, between = b"", b"", []
    for kind, parts, asides in said:
        if sum(parts) > LIMIT:
            continue
        for at, size in enumerate(parts):
            for opcode, content in asides:
                data += frame(opcode, content, mask=mask)
                between.append(Control(opcode, content))
            piece = frame(kind if at == 0 else 0, b"\x55" * size, at == len(parts) - 1, mask)
            data += piece
            passing += piece
    frames = Frames(mask, LIMIT)
    found: list[bytes | Control] = []
    for start, end in itertools.pairwise(sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})):
        found += frames.feed(data[start:end])
    assert b"".join(each for each in found if isinstance(each, bytes)) == passing
    assert [each for each in found if isinstance(each, Control)] == between
    assert frames.between


@given(st.integers(0, 200), st.integers(0, 300))
def test_it_knows_where_a_frame_ends(size: int, cut: int) -> None:
    data = frame(BINARY, b"x" * size)
    frames = Frames(True, LIMIT)
    passed = b"".join(each for each in frames.feed(data[:cut]) if isinstance(each, bytes))
    assert frames.between == (passed in (b"", data))
    assert not frames.is_small_message(frame(BINARY, b"y")) or passed in (b"", data)


def test_what_a_frame_holds_is_not_taken_for_another() -> None:
    inner = frame(BINARY, b"k")
    outer = frame(BINARY, inner, mask=False)
    frames = Frames(False, LIMIT)
    assert frames.feed(outer[:2]) == [outer[:2]]
    assert not frames.between
    assert not frames.is_small_message(outer[2:])
    assert frames.feed(outer[2:]) == [outer[2:]]
    assert frames.between


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(BINARY, b"x", mask=False), PROTOCOL_ERROR),
        (b"\xc2\x80abcd", PROTOCOL_ERROR),  # an extension's bit
        (b"\x83\x80abcd", PROTOCOL_ERROR),  # no such opcode
        (b"\x8b\x80abcd", PROTOCOL_ERROR),
        (b"\x80\x80abcd", PROTOCOL_ERROR),  # goes on with nothing
        (frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), PROTOCOL_ERROR),
        (b"\x09\x80abcd", PROTOCOL_ERROR),  # a ping in pieces
        (b"\x89\xfe\x00\x7eabcd", PROTOCOL_ERROR),  # a long ping
        (b"\x82\xff\x80" + bytes(7) + b"abcd", TOO_BIG),
        (frame(BINARY, bytes(LIMIT + 1)), TOO_BIG),
        (frame(BINARY, bytes(LIMIT), fin=False) + frame(0, b"x"), TOO_BIG),
    ],
)
def test_what_may_not_be(data: bytes, code: int) -> None:
    first = frame(BINARY, b"x" * 10)
    for before in (b"", first[-5:]):  # the rest of a frame
        frames = Frames(True, LIMIT)
        frames.feed(first[: len(first) - len(before)])
        with pytest.raises(BadFrames) as caught:
            frames.feed(before + data)
        assert caught.value.code == code
        passed = b"".join(each for each in caught.value.before if isinstance(each, bytes))
        assert (before + data).startswith(passed)
        assert len(passed) >= len(before)
        assert frames.between


@given(st.sampled_from((0, 1, 125, 126, 65_535, 65_536)), st.sampled_from((TEXT, BINARY)))
def test_messages_of_ours_are_read_as_they_were_meant(size: int, opcode: int) -> None:
    reader = Protocol(Side.CLIENT, state=OPEN)
    reader.receive_data(message_frame(opcode, b"x" * size))
    (event,) = reader.events_received()
    assert isinstance(event, Frame)
    assert (event.opcode, event.data, event.fin) == (opcode, b"x" * size, True)


@given(st.sampled_from((CLOSE, PING, PONG)), st.binary(max_size=123), st.booleans())
def test_control_frames_of_ours_are_read_as_they_were_meant(opcode: int, content: bytes, to_server: bool) -> None:
    content = b"\x03\xe8" + content.hex().encode()[:100] if opcode == CLOSE else content
    reader = Protocol(Side.SERVER if to_server else Side.CLIENT, state=OPEN)
    reader.receive_data(control_frame(opcode, content, to_server))
    (event,) = reader.events_received()
    assert isinstance(event, Frame)
    assert (event.opcode, event.data) == (opcode, content)


@given(st.binary(max_size=20), st.binary(min_size=4, max_size=4))
def test_the_mask(content: bytes, key: bytes) -> None:
    assert masked(content, key) == bytes(byte ^ key[at % 4] for at, byte in enumerate(content))
