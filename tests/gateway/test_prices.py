from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir import config
from choir.config import Price, known_providers
from choir.errors import ConfigError
from choir.gateway.prices import USD, PriceTable, known_prices


def test_the_longest_pattern_counts_and_the_operators_before_all() -> None:
    known = {
        "openai/gpt-5*": Price(input=1.25, output=10),
        "openai/gpt-5-mini*": Price(input=0.25, output=2),
        "*/free": Price(),
    }
    table = PriceTable({"openai/gpt-5-mini-x": Price(input=7), "ours/*": Price(input=3)}, known)

    def rate(provider: str, model: str | None) -> int | None:
        found = table.find(provider, model)
        return found and found.input

    assert rate("openai", "gpt-5") == 1_250_000
    assert rate("openai", "gpt-5-mini-2025") == 250_000
    assert rate("openai", "gpt-5-mini-x") == 7_000_000
    assert rate("ours", None) == 3_000_000
    assert rate("anyone", "free") == 0
    for provider, model in (("openai", "xgpt-5"), ("openai", None), ("other", "gpt-5"), ("openai", "GPT-5")):
        assert rate(provider, model) is None


def test_costs_are_exact() -> None:
    rate = PriceTable({"p/m": Price(input=3, cached=0.3, cache_write=3.75, output=15, request=0.001)}, {}).find(
        "p", "m"
    )
    assert rate is not None
    assert rate.cost(1_000_000, 0) == 3 * USD + USD // 1000
    assert rate.cost(1000, 100, cached=600, written=300) == (100 * 3_000_000 + 600 * 300_000 + 300 * 3_750_000) + (
        100 * 15_000_000 + USD // 1000
    )


@given(
    *(st.floats(0, 100) for _ in range(4)),
    *(st.integers(0, 10**7) for _ in range(2)),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_a_bound_is_one(
    read: float, cached: float, write: float, out: float, sent: int, got: int, part: float, other: float
) -> None:
    table = PriceTable({"p/m": Price(input=read, cached=cached, cache_write=write, output=out)}, {})
    rate = table.find("p", "m")
    assert rate is not None
    from_cache = int(sent * part)
    assert 0 <= rate.cost(sent, got, from_cache, int((sent - from_cache) * other)) <= rate.bound(sent, got)


def test_the_table_that_comes_with_choir() -> None:
    providers = known_providers()
    for pattern, price in known_prices().items():
        assert pattern.partition("/")[0] in providers
        assert price.cached is None or price.cached <= price.input
    table = PriceTable({})
    for provider, model in (
        ("openai", "gpt-5-mini"),
        ("anthropic", "claude-sonnet-4-5-20250929"),
        ("google", "gemini-2.5-flash-lite"),
        ("local", "SmolLM2-135M"),
    ):
        assert table.find(provider, model) is not None
    found = table.find("google", "gemini-2.5-flash-lite")
    assert found is not None
    assert found.input == 100_000


def test_prices_in_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "choir.toml"
    path.write_text('[prices]\n"ours/*" = { input = 1, output = 2.5 }\n[limits]\nusd_per_day = 3\n')
    loaded = config.load(path)
    assert loaded.prices == {"ours/*": Price(input=1, output=2.5)}
    assert (loaded.limits.usd_per_day, loaded.limits.usd_per_month, loaded.limits.tokens_per_minute) == (3, None, None)
    for text in (
        '[prices]\n"ours" = { input = 1 }\n',
        '[prices]\n"ours/*" = { input = -1 }\n',
        '[prices]\n"ours/*" = { inputs = 1 }\n',
        "[limits]\nusd_per_day = -1\n",
    ):
        path.write_text(text)
        with pytest.raises(ConfigError):
            config.load(path)
