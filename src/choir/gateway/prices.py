"""What a call costs, from the operator's prices and the table that comes with Choir (pure).

Money is counted in whole picodollars (1e-12 USD): a price of USD per million tokens with up to six decimals is a whole
number of them per token, so that sums are exact.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping

import msgspec

from choir.config import Price
from choir.places import data_file

USD = 10**12
"""Picodollars."""
_MILLION = 10**6
_CACHE_SIZE = 1024


class Rate(msgspec.Struct, frozen=True):
    """A price in picodollars: per token, and ``request`` per call."""

    input: int
    cached: int
    cache_write: int
    output: int
    request: int
    max_output: int | None

    def cost(self, read: int, output: int, cached: int = 0, written: int = 0) -> int:
        """Of one call. ``cached`` and ``written`` are the parts of ``read`` that came from and went to a cache."""
        plain = max(0, read - cached - written)
        return (
            plain * self.input + cached * self.cached + written * self.cache_write + output * self.output + self.request
        )

    def bound(self, read: int, output: int) -> int:
        """The most a call with so many tokens can cost."""
        return read * max(self.input, self.cached, self.cache_write) + output * self.output + self.request


class PriceTable:
    """Rates by ``provider/model``; ``*`` in a pattern stands for anything. The operator's entries go before Choir's,
    and in one table the very name before patterns, and of these the longest."""

    def __init__(self, prices: Mapping[str, Price], known: Mapping[str, Price] | None = None) -> None:
        """
        Args:
            known: the table that comes with Choir; None reads it.
        """
        tables = prices, known_prices() if known is None else known
        self._names = [{name: _rate(price) for name, price in table.items() if "*" not in name} for table in tables]
        self._patterns = [
            [
                (_pattern(name), _rate(price))
                for name, price in sorted(table.items(), key=lambda item: -len(item[0]))
                if "*" in name
            ]
            for table in tables
        ]
        self._cache: dict[tuple[str, str | None], Rate | None] = {}

    def find(self, provider: str, model: str | None) -> Rate | None:
        """None when the price is not known."""
        key = provider, model
        if key not in self._cache:
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.clear()
            self._cache[key] = self._find(f"{provider}/{model or ''}")
        return self._cache[key]

    def _find(self, name: str) -> Rate | None:
        for names, patterns in zip(self._names, self._patterns, strict=True):
            found = names.get(name) or next((rate for pattern, rate in patterns if pattern.fullmatch(name)), None)
            if found is not None:
                return found
        return None


@functools.cache
def known_prices() -> Mapping[str, Price]:
    """The table that comes with Choir."""
    with open(data_file("prices.toml"), "rb") as file:
        return msgspec.convert(tomllib.load(file), dict[str, Price])


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, text.split("*"))), re.DOTALL)


def _rate(price: Price) -> Rate:
    def per_token(usd: float) -> int:
        return round(usd * USD / _MILLION)

    return Rate(
        input=per_token(price.input),
        cached=per_token(price.input if price.cached is None else price.cached),
        cache_write=per_token(price.input if price.cache_write is None else price.cache_write),
        output=per_token(price.output),
        request=round(price.request * USD),
        max_output=price.max_output,
    )
