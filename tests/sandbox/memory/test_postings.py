from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.sandbox.memory.postings import DamagedIndexError, decode, encode, join, take_apart
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


@given(st.lists(st.dictionaries(st.integers(0, 32000), entries, max_size=5), max_size=4))
def test_lists_at_once(terms: list[dict[int, dict[int, tuple[int, int]]]]) -> None:
    lists = [[(page, take_apart(encode(listed(pages[page])))) for page in sorted(pages)] for pages in terms]
    for pages, (docs, counts, first) in zip(terms, join(lists), strict=True):
        assert list(zip(docs.tolist(), counts.tolist(), first.tolist(), strict=True)) == [
            (page << 16 | slot, *pages[page][slot]) for page in sorted(pages) for slot in sorted(pages[page])
        ]
        assert (docs.dtype, counts.dtype, first.dtype) == (np.int32, np.uint8, np.uint8)


@pytest.mark.parametrize("data", DAMAGED)
def test_damage_is_seen_among_lists(data: bytes) -> None:
    with pytest.raises(DamagedIndexError):
        join([[(3, take_apart(encode(listed({1: (1, 0)}))))], [(2, take_apart(data))]])


def test_a_list_out_of_order_is_seen_between_lists() -> None:
    one, two = (take_apart(encode(listed({slot: (1, 0)}))) for slot in (1, 2))
    assert len(join([[(0, two)], [(0, one)]])) == 2
    for wrong in ([(0, two), (0, one)], [(0, one), (0, one)]):
        with pytest.raises(DamagedIndexError):
            join([[(0, one)], wrong, [(0, two)]])
