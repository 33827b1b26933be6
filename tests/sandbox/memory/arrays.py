"""Small documents and postings."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from choir.sandbox.memory.documents import Documents
from choir.sandbox.memory.postings import Listed, Part
from choir.sandbox.memory.ranking import Floats
from choir.sandbox.memory.segment import Segment
from choir.sandbox.memory.tail import Tail
from choir.sandbox.memory.term_postings import Postings, TermPostings

texts_of_keys = st.lists(st.lists(st.integers(0, 12), max_size=300), max_size=12)
"""Documents as the keys of their terms."""


def documents(lengths: list[int], previous: list[int | None] | None = None) -> Documents:
    """All in collection 0; ties in time are likely."""
    found = Documents()
    found.add_page(0, 0)
    for doc, length in enumerate(lengths):
        found.add(doc, length, False, 1000 + doc % 3, previous[doc] if previous else None)
    return found


def postings(counts: dict[int, int]) -> TermPostings:
    """In two parts, as merged and fresh ones are."""
    docs = sorted(counts)
    halves = [each for each in (docs[::2], docs[1::2]) if each]
    return TermPostings.of((0, part(each, [counts[doc] for doc in each])) for each in halves)


def part(docs: list[int], counts: list[int], first: list[int] | None = None) -> Postings:
    return Postings(np.array(docs, np.int32), np.array(counts, np.uint8), np.array(first or [0] * len(docs), np.uint8))


def board(documents: Documents) -> Floats:
    return np.zeros(len(documents.length), np.float32)


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


def expected(texts: list[list[int]], key: int) -> list[tuple[int, int, int]]:
    return [
        (slot, min(keys.count(key), 255), min(keys.index(key), 255)) for slot, keys in enumerate(texts) if key in keys
    ]


def found(source: Segment | Tail, key: int) -> list[tuple[int, int, int]]:
    """What it says of one key, asked between two that nothing has."""
    answers: list[tuple[int, Part]] = list(source.find(np.array([-1, key, 99], np.int64), 5))
    assert all(part[:2] == ((5,), (len(part[2]),)) for _, part in answers)
    return [each for index, (_, _, *columns) in answers if index == 1 for each in plain(Listed(*columns))]
