"""That the price table is what the package says, name by name."""

from __future__ import annotations

import importlib.util
import re
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from genai_prices import Usage, calc_price

from choir.gateway.prices import USD, PriceTable, known_prices

SCRIPT = Path(__file__).parents[2] / "scripts/prices.py"
spec = importlib.util.spec_from_file_location("prices_script", SCRIPT)
assert spec is not None
assert spec.loader is not None
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)

WRITTEN = date.fromisoformat(re.search(r"for (\d{4}-\d\d-\d\d)", script.TARGET.read_text())[1])  # type: ignore[index]
TABLE = PriceTable({})


def test_the_table_is_what_the_script_writes() -> None:
    """After an upgrade of genai-prices: run scripts/prices.py, and look at what changed."""
    assert script.TARGET.read_text() == script.write(WRITTEN)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        *[("openai", "gpt-6.1-sol"), ("openai", "gpt-5-mini-2025-08-07"), ("openai", "gpt-4o-2024-05-13")],
        *[("anthropic", "claude-sonnet-5"), ("anthropic", "claude-haiku-4-5-20251001")],
        *[("google", "gemini-3.5-flash"), ("mistral", "mistral-small-latest"), ("groq", "openai/gpt-oss-120b")],
        *[("xai", "grok-4.7"), ("kimi", "kimi-k3"), ("zai", "glm-5.3")],
    ],
)
def test_a_call_costs_what_the_package_says(provider: str, model: str) -> None:
    rate = TABLE.find(provider, model)
    assert rate is not None
    usage = Usage(input_tokens=90_000, cache_read_tokens=40_000, output_tokens=3_000)
    moment = datetime.combine(WRITTEN, datetime.min.time(), UTC)
    expected = calc_price(usage, model, provider_id=script.PROVIDERS[provider], genai_request_timestamp=moment)
    assert rate.cost(90_000, 3_000, cached=40_000) == round(expected.total_price * USD)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        *[("openai", "gpt-5-of-tomorrow"), ("openai", "gpt-realtime"), ("openai", "gpt-4o-audio-preview")],
        *[("anthropic", "claude-opus-6"), ("google", "gemini-2.5-flash-image"), ("google", "gemini-9")],
        ("azure", "my-deployment"),
    ],
)
def test_what_is_not_known_is_not_guessed(provider: str, model: str) -> None:
    assert TABLE.find(provider, model) is None


def test_no_entry_is_free_by_mistake() -> None:
    free = [name for name, price in known_prices().items() if not price.input and not price.request]
    assert free == ["local/*", "ollama/*"]


def test_what_a_desktop_asks_for_by_default_has_a_price() -> None:
    from choir.sandbox.agent.providers import DEFAULT_MODELS

    without = [provider for provider, model in DEFAULT_MODELS.items() if TABLE.find(provider, model) is None]
    assert without == ["openrouter"], "which names another model in its answer"
