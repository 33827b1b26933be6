from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.config import Config, Provider, UserEntry
from choir.gateway.user_rules import ProviderRule, user_rules

PROVIDERS = {name: Provider(name=name, base_url="http://x") for name in ("openai", "anthropic", "ours", "tavily")}


def rules(**entry: object) -> dict[str, ProviderRule]:
    config = Config(path=None, providers=PROVIDERS, users={"ann": UserEntry(**entry)})  # type: ignore[arg-type]
    return dict(user_rules(config, "ann") or {})


def outcome(entry: dict[str, object], provider: str, model: str | None) -> str:
    rule = rules(**entry).get(provider)
    if rule is None:
        return "ok"
    refusal = rule.refusal() or rule.model_refusal(model)
    return refusal.reason if refusal else "ok"


@pytest.mark.parametrize(
    ("entry", "provider", "model", "expected"),
    [
        ({}, "openai", "m", "ok"),
        ({"providers": ("openai",)}, "openai", None, "ok"),
        ({"providers": ("openai",)}, "ours", "m", "provider_not_allowed"),
        ({"providers": ()}, "ours", "m", "provider_not_allowed"),
        ({"deny_providers": ("openai",)}, "openai", "m", "provider_not_allowed"),
        ({"deny_providers": ("openai",)}, "ours", "m", "ok"),
        ({"providers": ("openai",), "deny_providers": ("openai",)}, "openai", "m", "provider_not_allowed"),
        ({"models": ("openai/gpt-5*",)}, "openai", "gpt-5-mini", "ok"),
        ({"models": ("openai/gpt-5*",)}, "openai", "xgpt-5", "model_not_allowed"),
        ({"models": ("openai/gpt-5",)}, "openai", "gpt-5\n", "model_not_allowed"),
        ({"models": ("openai/gpt-5",)}, "openai", "GPT-5", "model_not_allowed"),
        ({"models": ("openai/gpt-5*",)}, "openai", None, "model_unreadable"),
        ({"models": ("openai/gpt-5*",)}, "anthropic", "m", "provider_not_allowed"),
        ({"models": ("openai/gpt-5*", "tavily/*")}, "tavily", None, "ok"),
        ({"models": ("*/claude-*",)}, "anthropic", "claude-x", "ok"),
        ({"models": ("*/claude-*",)}, "ours", "other", "model_not_allowed"),
        ({"models": ("openai/a.c",)}, "openai", "abc", "model_not_allowed"),
        ({"models": ("openai/o/*",)}, "openai", "o/1", "ok"),
        ({"models": ()}, "openai", "m", "provider_not_allowed"),
        ({"deny_models": ("openai/*pro*",)}, "openai", "gpt-5-PRO", "model_not_allowed"),
        ({"deny_models": ("openai/*pro*",)}, "openai", "gpt-5", "ok"),
        ({"deny_models": ("openai/*pro*",)}, "openai", None, "model_unreadable"),
        ({"deny_models": ("openai/*pro*",)}, "ours", None, "ok"),
        ({"deny_models": ("openai/*",)}, "openai", "m", "provider_not_allowed"),
        ({"models": ("openai/*",), "deny_models": ("*/gpt-5",)}, "openai", "gpt-5", "model_not_allowed"),
        ({"models": ("openai/*",), "deny_models": ("*/gpt-5",)}, "openai", "gpt-4", "ok"),
    ],
)
def test_what_a_user_may_call(entry: dict[str, object], provider: str, model: str | None, expected: str) -> None:
    assert outcome(entry, provider, model) == expected


def test_who_is_not_named_is_free() -> None:
    config = Config(path=None, providers=PROVIDERS, users={"ann": UserEntry(models=("*/*",))})
    assert user_rules(config, "bob") is None
    assert user_rules(config, "ann") is None, "nothing is denied"


def test_a_body_is_read_only_where_the_model_matters() -> None:
    found = rules(models=("openai/gpt-5*", "ours/*", "anthropic/*"), deny_models=("anthropic/x",))
    assert {name: rule.reads_model for name, rule in found.items()} == {
        "openai": True,
        "anthropic": True,
        "tavily": False,
    }


NAMES = st.text("ab*", max_size=4)


@given(st.lists(NAMES, max_size=3), st.lists(NAMES, max_size=3), st.text("ab", max_size=5))
def test_denied_wins_and_nothing_else_is_denied(models: list[str], denied: list[str], model: str) -> None:
    def matches(patterns: list[str]) -> bool:
        return any(_matches(pattern, model) for pattern in patterns)

    entry = {"models": tuple(f"ours/{m}" for m in models), "deny_models": tuple(f"ours/{m}" for m in denied)}
    assert (outcome(entry, "ours", model) == "ok") == (matches(models) and not matches(denied))


def _matches(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return _matches(pattern[1:], text) or (bool(text) and _matches(pattern, text[1:]))
    return text[:1] == pattern[0] and _matches(pattern[1:], text[1:])
