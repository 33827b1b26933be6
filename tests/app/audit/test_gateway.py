from __future__ import annotations

import asyncio

import pytest

from choir import tokens
from choir.app.audit import gateway as attacks
from choir.app.audit.finding import Finding
from choir.app.audit.ground import Ground
from choir.config import Config, load

from .conftest import Open


def run(open_ground: Open) -> dict[str, Finding]:
    async def main() -> list[Finding]:
        async with open_ground() as ground:
            return await attacks.findings(ground)

    return {finding.name: finding for finding in asyncio.run(main())}


def test_only_the_one_way_works(open_ground: Open) -> None:
    found = run(open_ground)
    assert {name: finding.came_back for name, finding in found.items() if not finding.ok} == {}
    assert len(found) == 6
    assert found["no token"].came_back == "status 401"


def test_tokens_that_work_and_records_that_lie_are_red(open_ground: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every attack is made with the sandbox's own token, and the record is looked for under another name."""
    refused = attacks.refused

    async def own(ground: Ground, name: str, tried: str, token: str | None) -> Finding:
        return await refused(ground, name, tried, "")

    monkeypatch.setattr(attacks, "refused", own)
    monkeypatch.setattr(attacks, "USER", "somebody-else")
    found = run(open_ground)
    assert {name for name, finding in found.items() if not finding.ok} == {
        "a stolen token",
        "a made-up token",
        "a token of another sandbox",
        "no token",
        "usage log",
    }


def test_a_call_that_costs_nothing() -> None:
    config: Config = load(None)
    assert attacks.cheap_call([]) is None
    openai, local = config.providers["openai"], config.providers["local"]
    assert attacks.cheap_call([openai]) == ("openai", "GET", "/provider/v1/openai/models", None)
    assert (attacks.cheap_call([openai, local]) or ("",))[0] == "local"


def test_a_made_up_token_has_the_right_shape() -> None:
    assert tokens.looks_like_token(attacks.forged())
