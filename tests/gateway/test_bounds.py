from __future__ import annotations

import json

import pytest

from choir.config import Limits, Price, Provider
from choir.gateway.body import Undecodable, strict_members
from choir.gateway.bounds import Used, output_bound, quote, settlement
from choir.gateway.dialects import Counts
from choir.gateway.policy import Reservation
from choir.gateway.prices import PriceTable
from choir.gateway.refusals import Refusal
from choir.gateway.routing import Billing, Dialect, Match

TABLE = PriceTable(
    {
        "p/m": Price(input=1, output=2),
        "p/capped": Price(input=1, output=2, max_output=50),
        "p/free": Price(),
        "search/": Price(request=0.01),
    },
    {},
)
M = 1_000_000


def match(billing: Billing = "output", dialect: Dialect | None = "chat", name: str = "p") -> Match:
    provider = Provider(name=name, base_url="https://x")
    return Match(provider, "POST /x", b"/x", "openai", None, None, False, dialect, billing)


@pytest.mark.parametrize(
    ("dialect", "body", "bound"),
    [
        ("chat", {"max_tokens": 10}, 10),
        ("chat", {"max_completion_tokens": 20, "max_tokens": None}, 20),
        ("chat", {"max_completion_tokens": 20, "max_tokens": 30}, 30),
        ("chat", {"max_tokens": 10, "n": 3}, 30),
        ("chat", {"max_tokens": 10, "n": 0}, 10),
        ("chat", {"max_tokens": 10, "n": "3"}, None),
        ("chat", {"max_tokens": "10"}, None),
        ("chat", {"max_tokens": -1}, None),
        ("chat", {"max_tokens": 1e30}, None),
        ("chat", {"max_tokens": True}, None),
        ("chat", {"max_tokens": 10, "max_completion_tokens": []}, None),
        ("chat", {"max_output_tokens": 10}, None),
        ("chat", {}, None),
        ("responses", {"max_output_tokens": 10}, 10),
        ("responses", {"max_tokens": 10}, None),
        ("messages", {"max_tokens": 10}, 10),
        ("generate", {"generationConfig": {"maxOutputTokens": 10}}, 10),
        ("generate", {"generation_config": {"max_output_tokens": 10, "candidate_count": 4}}, 40),
        ("generate", {"generationConfig": {"maxOutputTokens": 10}, "generation_config": {}}, None),
        ("generate", {"maxOutputTokens": 10}, None),
        ("generate", {"generationConfig": {}}, None),
    ],
)
def test_what_a_body_says(dialect: Dialect, body: dict[str, object], bound: int | None) -> None:
    text = json.dumps(body).encode()
    assert output_bound(dialect, strict_members(text)) == bound


def test_a_bound_with_two_meanings() -> None:
    text = b'{"generationConfig":{"maxOutputTokens":1,"maxOutputTokens":9}}'
    with pytest.raises(Undecodable):
        output_bound("generate", strict_members(text))


MONEY, TOKENS = Limits(usd_per_day=1.0), Limits(tokens_per_minute=100)


@pytest.mark.parametrize(
    ("match", "model", "told", "limits", "expected"),
    [
        (match(), "m", 5, MONEY, (15, 10 * M + 5 * 2 * M)),
        (match(), "m", None, MONEY, "bound_required"),
        (match(), "m", None, TOKENS, "bound_required"),
        (match(), "capped", None, MONEY, (60, 10 * M + 50 * 2 * M)),
        (match(), "capped", 70, MONEY, (80, 10 * M + 70 * 2 * M)),
        (match(), "free", None, MONEY, (10, 0)),
        (match(), "free", None, TOKENS, "bound_required"),
        (match(), "unknown", 5, MONEY, "price_unknown"),
        (match(), "unknown", 5, TOKENS, (15, 0)),
        (match(), None, 5, MONEY, "price_unknown"),
        (match("input", None), "m", None, MONEY, (10, 10 * M)),
        (match("unbounded", None), "m", None, MONEY, "bound_required"),
        (match("request", None, "search"), None, None, MONEY, (0, 10_000 * M)),
        (match("request", None, "search"), None, None, TOKENS, (0, 10_000 * M)),
        (match("request", None, "other"), None, None, MONEY, "price_unknown"),
    ],
)
def test_quotes(match: Match, model: str | None, told: int | None, limits: Limits, expected: object) -> None:
    found = quote(match, model, 10, told, TABLE, limits)
    if isinstance(found, Refusal):
        assert found.status == 403
        assert found.reason == expected
    else:
        assert found == expected


def test_what_is_dearer_than_the_price_is_no_bound() -> None:
    for limits, reason in ((Limits(usd_per_day=1), "price_unknown"), (Limits(tokens_per_minute=M), None)):
        found = quote(match(), "m", 10, 10, TABLE, limits, dearer="service_tier")
        assert (found.reason if isinstance(found, Refusal) else None) == reason
        if isinstance(found, Refusal):
            assert "`service_tier`" in found.message


def counts(read: int | None, output: int | None) -> Counts:
    made = Counts()
    made.input, made.output = read, output
    return made


HELD = Reservation(100, 1000 * M, 0.0)
RATE = TABLE.find("p", "m")


@pytest.mark.parametrize(
    ("held", "rated", "billing", "found", "whole", "billed", "used"),
    [
        (HELD, True, "output", counts(3, 4), True, True, Used(7, 11 * M)),
        (None, True, "output", counts(3, 4), True, True, Used(7, 11 * M)),
        (None, True, "output", counts(3, 4), False, True, Used(7, 11 * M)),
        # What cannot be known counts as all that was reserved.
        (HELD, True, "output", counts(3, 1), False, True, Used(100, 1000 * M)),
        (HELD, True, "output", counts(3, None), True, True, Used(100, 1000 * M)),
        (HELD, True, "output", None, False, True, Used(100, 1000 * M)),
        (None, True, "output", None, False, True, Used(0, None)),
        (HELD, True, "output", None, False, False, Used(0, None)),
        (HELD, False, "output", counts(3, 4), True, True, Used(7, None)),
        (HELD, False, "output", None, True, True, Used(100, None)),
        (HELD, True, "input", counts(3, None), True, True, Used(3, 3 * M)),
        (None, True, "free", counts(3, None), True, True, Used(0, None)),
        (None, True, "request", None, True, True, Used(0, 0)),
        (None, False, "request", None, True, True, Used(0, None)),
    ],
)
def test_settlements(
    held: Reservation | None, rated: bool, billing: Billing, found: Counts | None, whole: bool, billed: bool, used: Used
) -> None:
    assert settlement(held, RATE if rated else None, billing, found, whole, billed) == used
