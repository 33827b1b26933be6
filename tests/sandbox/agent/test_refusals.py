from __future__ import annotations

from typing import Any

import pytest

from choir.sandbox.agent.refusals import explained


class RefusalError(Exception):
    def __init__(self, body: Any = None, status_code: int | None = None) -> None:
        self.body = body
        self.status_code = status_code


class APITimeoutError(Exception): ...


class APIConnectionError(Exception): ...


class UsageLimitExceeded(Exception): ...  # noqa: N818 - pydantic-ai's name


REFUSED = {"reason": "usd_per_day", "message": "Choir's gateway refused this call: 3.00 of 3.00 USD are spent."}


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        (RefusalError(REFUSED, 429), "usd_per_day", "used up for today. Choir's gateway refused this call: 3.00"),
        (RefusalError({"type": "error", "error": REFUSED}, 402), "usd_per_day", "used up for today"),
        (RefusalError('{"error": {"message": "No such model."}}', 404), "refused", "No such model."),
        (RefusalError("not json", 502), "refused", "status 502"),
        (RefusalError({"error": "odd"}, 500), "refused", "status 500"),
        (APITimeoutError(), "timeout", "too long"),
        (APIConnectionError(), "gateway_gone", "does not answer"),
        (UsageLimitExceeded(), "too_many_steps", "more steps"),
        (KeyError("x"), "broke_off", "KeyError"),
    ],
)
def test_explained(error: Exception, reason: str, words: str) -> None:
    found = explained(error)
    assert found[0] == reason
    assert words in found[1]


def test_the_cause_says_more() -> None:
    error = RuntimeError("wrapped")
    error.__cause__ = RefusalError(REFUSED, 429)
    assert explained(error)[0] == "usd_per_day"
