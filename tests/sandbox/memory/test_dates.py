from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.sandbox.memory.dates import spans


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


NOW = at("2024-03-15 12:00")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("on 8 May, 2023", [("2023-05-08", "2023-05-09")]),
        ("the 8th of May 2023?", [("2023-05-08", "2023-05-09")]),
        ("May 8, 2023", [("2023-05-08", "2023-05-09")]),
        ("2023-05-08", [("2023-05-08", "2023-05-09")]),
        ("in December 2022", [("2022-12-01", "2023-01-01")]),
        ("in June", [("2022-06-01", "2022-07-01"), ("2023-06-01", "2023-07-01")]),
        ("during 2022", [("2022-01-01", "2023-01-01")]),
        ("29 February", []),
        ("yesterday", [("2024-03-14", "2024-03-15")]),
        ("a week ago", [("2024-03-05 12:00", "2024-03-12")]),
        ("it may march on", []),
        ("2022 items", []),
        ("99999999999999999999 days ago", []),
        ("31 June 2023", []),
        ("", []),
    ],
)
def test_spans(text: str, expected: list[tuple[str, str]]) -> None:
    found = spans(text, at("2022-03-01"), at("2023-11-01"), NOW)
    if text == "a week ago":
        assert len(found) == 1
        assert found[0][0] <= at("2024-03-08") <= found[0][1]
    else:
        assert found == [(at(start), at(end)) for start, end in expected]


@given(st.text(), st.integers(-(2**60), 2**60), st.integers(-(2**60), 2**60))
def test_any_text_and_time(text: str, one: int, other: int) -> None:
    for start, end in spans(text, min(one, other), max(one, other), max(one, other)):
        assert start < end


@pytest.mark.parametrize("text", ["last month", "today", "a year ago", "yesterday"])
@pytest.mark.parametrize("now", [-62_135_596_800_000, 253_402_300_799_000, 2**70])
def test_beyond_the_calendar(text: str, now: int) -> None:
    assert all(start < end for start, end in spans(text, 0, 0, now))
