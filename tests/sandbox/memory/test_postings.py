from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.sandbox.memory.postings import DamagedIndexError, decode, decode_pages, encode, gather
from tests.sandbox.memory.arrays import listed, plain

entries = st.dictionaries(st.integers(0, 65535), st.tuples(st.integers(1, 255), st.integers(0, 255)), min_size=1)
DAMAGED = [b"", b"\x00", b"\x01\x00\x00\x02", b"\x01\x00\x00\x01", b"\x02\0\x01\0\0\0\0"]


@given(entries)
def test_encoding(found: dict[int, tuple[int, int]]) -> None:
    assert plain(decode(encode(listed(found)))) == plain(listed(found))


@pytest.mark.parametrize("data", DAMAGED)
def test_damage_is_seen(data: bytes) -> None:
    with pytest.raises(DamagedIndexError):
        decode(data)


@given(st.dictionaries(st.integers(0, 32000), entries, max_size=5))
def test_pages_at_once(pages: dict[int, dict[int, tuple[int, int]]]) -> None:
    lists = [(page, listed(pages[page])) for page in sorted(pages)]
    one, other = gather(lists), decode_pages([(page, encode(each)) for page, each in lists])
    assert [each.tolist() for each in one] == [each.tolist() for each in other]
    assert [each.dtype for each in one] == [each.dtype for each in other]


@pytest.mark.parametrize("data", DAMAGED)
def test_damage_is_seen_among_pages(data: bytes) -> None:
    with pytest.raises(DamagedIndexError):
        decode_pages([(3, encode(listed({1: (1, 0)}))), (4, data)])


def test_gather() -> None:
    docs, counts, first = gather([(0, listed({1: (1, 0)})), (2, listed({0: (2, 3), 5: (1, 1)}))])
    assert docs.tolist() == [1, 131072, 131077]
    assert counts.tolist() == [1, 2, 1]
    assert first.tolist() == [0, 3, 1]
    assert len(gather([])[0]) == 0
