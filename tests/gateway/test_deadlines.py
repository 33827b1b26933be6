from __future__ import annotations

import pytest

from choir.config import Timeouts
from choir.gateway.deadlines import KEEPALIVE_SECONDS, Waiting, overdue

TIMEOUTS = Timeouts(connect=1, first_byte=100, idle=200)


@pytest.mark.parametrize(
    ("waiting", "spoke", "heard", "found"),
    [
        ("nothing", 1000, 1000, None),
        ("body", 200, 1000, None),
        ("body", 201, 0, "refused:body_timeout"),
        ("first_byte", 100, 1000, None),
        ("first_byte", 1000, 100, None),
        ("first_byte", 101, 101, "upstream:first_byte_timeout"),
        ("answer", 1000, 200, None),
        ("answer", 0, 201, "upstream:idle_timeout"),
        ("reader", 200, 1000, None),
        ("reader", 201, 0, "close"),
        ("either", 1000, 200, None),
        ("either", 0, 201, "refused:idle_timeout"),
    ],
)
def test_what_is_overdue(waiting: Waiting, spoke: float, heard: float, found: str | None) -> None:
    """``spoke`` and ``heard`` are so many seconds ago."""
    result = overdue(waiting, 5000.0, 5000.0 - spoke, 5000.0 - heard, TIMEOUTS, "p", False)
    assert (result if isinstance(result, str | None) else result.outcome) == found


@pytest.mark.parametrize(("spoke", "heard"), [(16, 16), (14, 16), (16, 14)])
def test_a_quiet_stream_says_something_between_two_events(spoke: float, heard: float) -> None:
    due = min(spoke, heard) > KEEPALIVE_SECONDS
    for between in (True, False):
        found = overdue("answer", 5000.0, 5000.0 - spoke, 5000.0 - heard, TIMEOUTS, "p", between)
        assert found == ("keep_alive" if due and between else None)
