from __future__ import annotations

import re

from choir.ids import new_id


def test_shape_and_order() -> None:
    first = [new_id() for _ in range(1000)]
    assert all(re.fullmatch(r"[0-7][0-9a-hjkmnp-tv-z]{25}", value) for value in first)
    assert len(set(first)) == 1000
    assert new_id()[:10] >= first[0][:10]  # the time part
