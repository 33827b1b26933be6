from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.sandbox.memory.postings import DamagedIndexError, encode, encode_pages, join, put_together, split, take_apart
from tests.sandbox.memory.arrays import listed, plain

entries = st.dictionaries(st.integers(0, 65535), st.tuples(st.integers(1, 255), st.integers(0, 255)), min_size=1)
DAMAGED = [b"", b"\x00", b"\x01\x00\x00\x02", b"\x01\x00\x00\x01", b"\x02\0\x01\0\0\0\0"]


@given(entries)
def test_encoding(found: dict[int, tuple[int, int]]) -> None:
    ((page, there),) = split(7, encode(listed(found)))
    assert (page, plain(there)) == (7, plain(listed(found)))


@pytest.mark.parametrize("data", DAMAGED)
def test_damage_is_seen(data: bytes) -> None:
    with pytest.raises(DamagedIndexError):
        split(0, data)


@given(st.lists(st.dictionaries(st.integers(0, 32000), entries, max_size=5), max_size=4))
def test_lists_at_once(terms: list[dict[int, dict[int, tuple[int, int]]]]) -> None:
    lists = [[take_apart(page, encode(listed(pages[page]))) for page in sorted(pages)] for pages in terms]
    for pages, (docs, counts, first) in zip(terms, join(lists), strict=True):
        assert list(zip(docs.tolist(), counts.tolist(), first.tolist(), strict=True)) == [
            (page << 16 | slot, *pages[page][slot]) for page in sorted(pages) for slot in sorted(pages[page])
        ]
        assert (docs.dtype, counts.dtype, first.dtype) == (np.int32, np.uint8, np.uint8)


@pytest.mark.parametrize("data", DAMAGED)
def test_damage_is_seen_among_lists(data: bytes) -> None:
    with pytest.raises(DamagedIndexError):
        join([[take_apart(3, encode(listed({1: (1, 0)})))], [take_apart(2, data)]])


def test_a_list_out_of_order_is_seen_between_lists() -> None:
    one, two = (take_apart(0, encode(listed({slot: (1, 0)}))) for slot in (1, 2))
    assert len(join([[two], [one]])) == 2
    for wrong in ([two, one], [one, one]):
        with pytest.raises(DamagedIndexError):
            join([[one], wrong, [two]])


several = st.dictionaries(st.integers(0, 65535), entries, min_size=1, max_size=6)


@given(several)
def test_several_pages_in_a_row(pages: dict[int, dict[int, tuple[int, int]]]) -> None:
    lists = [(page, listed(pages[page])) for page in sorted(pages)]
    row = encode_pages(lists)
    assert [(page, plain(each)) for page, each in split(0, row)] == [(page, plain(each)) for page, each in lists]


@given(several, st.data())
def test_rows_put_together_are_the_row_of_all(
    pages: dict[int, dict[int, tuple[int, int]]], data: st.DataObject
) -> None:
    lists = [(page, listed(pages[page])) for page in sorted(pages)]
    at = data.draw(st.integers(0, len(lists)))
    rows = [encode_pages(lists[:at])] if at else []
    parts = [take_apart(0, row) for row in rows] + [take_apart(page, encode(each)) for page, each in lists[at:]]
    assert put_together(parts) == encode_pages(lists)


@given(several, st.data())
def test_damage_of_a_row_is_seen_or_harmless(pages: dict[int, dict[int, tuple[int, int]]], data: st.DataObject) -> None:
    """Cut off, a row is never read beyond its end."""
    row = encode_pages([(page, listed(pages[page])) for page in sorted(pages)])
    cut = row[data.draw(st.integers(1, len(row))) :]
    try:
        found = split(0, cut)
    except DamagedIndexError:
        return
    assert all(len(each.slots) == len(each.counts) == len(each.first) > 0 for _, each in found)
