from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.sandbox.memory.frequencies import Frequencies
from choir.sandbox.memory.postings import DamagedIndexError
from choir.sandbox.memory.tail import Tail
from tests.sandbox.memory.arrays import texts_of_keys


@given(texts_of_keys, st.integers(0, 12))
def test_frequencies(texts: list[list[int]], cut: int) -> None:
    one, two = Tail(0), Tail(cut)
    for slot, keys in enumerate(texts):
        (one if slot < cut else two).add(slot, keys)
    found = Frequencies.of([one.segment(), two.segment()])
    known = {key: sum(key in keys for keys in texts) for key in range(13)}
    asked = np.arange(-1, 15)
    assert found.count(asked).tolist() == [known.get(key, 0) for key in asked.tolist()]
    assert Frequencies.unpack(found.pack()).count(asked).tolist() == found.count(asked).tolist()
    whole = Frequencies.sum([Frequencies.sum(()), *(Frequencies.of([each.segment()]) for each in (one, two))])
    assert (whole.keys.tolist(), whole.sizes.tolist()) == (found.keys.tolist(), found.sizes.tolist())
    gone = {key: min(size, key % 3) for key, size in known.items() if size}
    less = found.minus(gone)
    assert less.count(asked).tolist() == [known.get(key, 0) - gone.get(key, 0) for key in asked.tolist()]
    assert (less.sizes > 0).all()


def test_frequencies_that_fill_a_page() -> None:
    full = Frequencies(np.array([5]), np.array([65536]))
    assert Frequencies.unpack(full.pack()).count(np.array([5])).tolist() == [65536]
    for damaged in (full.pack()[:-1], full.pack()[:-1] + b"\0", b""):
        with pytest.raises(DamagedIndexError):
            Frequencies.unpack(damaged)
