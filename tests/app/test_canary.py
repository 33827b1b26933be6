from __future__ import annotations

import asyncio

from choir.app import canary


def test_the_canary_is_nowhere() -> None:
    outcomes = asyncio.run(canary.run())
    assert [outcome.failure for outcome in outcomes] == [*canary.FAILURES, "anything"]
    assert all(outcome.ok for outcome in outcomes), outcomes
