from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.sandbox.memory.postings import DamagedIndexError
from choir.sandbox.memory.segment import Segment, join
from choir.sandbox.memory.tail import Tail
from tests.sandbox.memory.arrays import expected, found, plain, texts_of_keys


@given(texts_of_keys, st.integers(0, 12))
def test_a_tail_a_segment_and_parts_of_it_say_the_same(texts: list[list[int]], cut: int) -> None:
    tail = Tail(0)
    one, two = Tail(0), Tail(cut)
    for slot, keys in enumerate(texts):
        tail.add(slot, keys)
        (one if slot < cut else two).add(slot, keys)
    segment = tail.segment()
    unpacked = Segment.unpack(segment.pack())
    joined = join([one.segment(), two.segment()])
    ranges = [segment.between(0, cut), segment.between(cut, 13)]
    for key in range(13):
        wanted = expected(texts, key)
        assert found(tail, key) == found(segment, key) == found(unpacked, key) == wanted
        assert found(joined, key) == found(ranges[key >= cut], key) == wanted
    assert {key: plain(each) for key, each in segment.lists()} == {
        key: expected(texts, key) for key in range(13) if expected(texts, key)
    }


@given(texts_of_keys, st.sets(st.integers(0, 11)))
def test_removing(texts: list[list[int]], gone: set[int]) -> None:
    tail = Tail(0)
    for slot, keys in enumerate(texts):
        tail.add(slot, keys)
    segment = tail.segment().without(np.array(sorted(gone), np.uint16))
    for slot in gone:
        tail.remove(slot)
    for key in range(13):
        wanted = [each for each in expected(texts, key) if each[0] not in gone]
        assert found(segment, key) == found(tail, key) == wanted


@given(st.integers(0, 30), st.integers(0, 255))
def test_a_flipped_byte_in_a_segment_is_seen(at: int, value: int) -> None:
    tail = Tail(0)
    tail.add(0, [1, 2, 3])
    data = bytearray(tail.segment().pack())
    at = at if at < 16 else at + 8  # four reserved bytes say nothing
    if data[at] == value:
        return
    data[at] = value
    with pytest.raises(DamagedIndexError):
        Segment.unpack(bytes(data))
