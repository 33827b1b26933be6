from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.sandbox.memory.postings import DamagedIndexError, Listed, Segment, Tail, decode, encode, gather, join

entries = st.dictionaries(st.integers(0, 65535), st.tuples(st.integers(1, 255), st.integers(0, 255)), min_size=1)


def listed(found: dict[int, tuple[int, int]]) -> Listed:
    slots = sorted(found)
    return Listed(
        np.array(slots, np.uint16),
        np.array([found[each][0] for each in slots], np.uint8),
        np.array([found[each][1] for each in slots], np.uint8),
    )


def plain(found: Listed | None) -> list[tuple[int, int, int]]:
    if found is None:
        return []
    return list(zip(found.slots.tolist(), found.counts.tolist(), found.first.tolist(), strict=True))


@given(entries)
def test_encoding(found: dict[int, tuple[int, int]]) -> None:
    assert plain(decode(encode(listed(found)))) == plain(listed(found))


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x01\x00\x00\x02", b"\x01\x00\x00\x01", b"\x02\0\x01\0\0\0\0"])
def test_damage_is_seen(data: bytes) -> None:
    with pytest.raises(DamagedIndexError):
        decode(data)


documents = st.lists(st.lists(st.integers(0, 12), max_size=300), max_size=12)


def expected(texts: list[list[int]], key: int) -> list[tuple[int, int, int]]:
    return [
        (slot, min(keys.count(key), 255), min(keys.index(key), 255)) for slot, keys in enumerate(texts) if key in keys
    ]


@given(documents, st.integers(0, 12))
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
        assert plain(tail.find(key)) == plain(segment.find(key)) == plain(unpacked.find(key)) == wanted
        assert plain(joined.find(key)) == plain(ranges[key >= cut].find(key)) == wanted
    assert {key: plain(found) for key, found in segment.lists()} == {
        key: expected(texts, key) for key in range(13) if expected(texts, key)
    }


@given(documents, st.sets(st.integers(0, 11)))
def test_removing(texts: list[list[int]], gone: set[int]) -> None:
    tail = Tail(0)
    for slot, keys in enumerate(texts):
        tail.add(slot, keys)
    segment = tail.segment().without(np.array(sorted(gone), np.uint16))
    for slot in gone:
        tail.remove(slot)
    for key in range(13):
        wanted = [each for each in expected(texts, key) if each[0] not in gone]
        assert plain(segment.find(key)) == plain(tail.find(key)) == wanted


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


def test_gather() -> None:
    found = gather([(0, listed({1: (1, 0)})), (2, listed({0: (2, 3), 5: (1, 1)}))])
    assert found.docs.tolist() == [1, 131072, 131077]
    assert len(gather([])) == 0
