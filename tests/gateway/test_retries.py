from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from choir.gateway.retries import ATTEMPTS, Failure, Phase, may_retry


@pytest.mark.parametrize(
    ("method", "phase", "failure", "again"),
    [
        ("POST", "connecting", "unreachable", True),
        ("POST", "connecting", "reset", True),
        ("POST", "connecting", "timeout", False),
        ("POST", "connecting", "untrusted", False),
        ("POST", "sent", "reset", False),
        ("POST", "sent", "stale", False),
        ("POST", "sent", "timeout", False),
        ("GET", "sent", "stale", True),
        ("GET", "sent", "reset", False),
        ("DELETE", "sent", "stale", False),
        ("POST", "answered", "key", True),
        ("POST", "answered", "other", False),
        ("GET", "answered", "stale", False),
    ],
)
def test_where_it_is_safe(method: str, phase: Phase, failure: Failure, again: bool) -> None:
    assert may_retry(method, 1, phase, failure, True) is again


def test_never_what_is_not_whole_and_never_for_ever() -> None:
    for method, phase, failure in product(("GET", "POST"), get_args(Phase), get_args(Failure)):
        assert not may_retry(method, 1, phase, failure, False)
        assert not may_retry(method, ATTEMPTS, phase, failure, True)
        if phase == "sent" and method == "POST":
            assert not may_retry(method, 1, phase, failure, True), "a provider may have begun to work on it"
