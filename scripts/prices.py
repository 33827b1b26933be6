"""Write src/choir/data/prices.toml from the package genai-prices, which keeps the vendors' public price lists.

    .venv/bin/python scripts/prices.py [YYYY-MM-DD]

Prices are those in force on that day (default: today). Of prices by the hour the highest is taken, of prices by the
length of the context the first; a model whose answers are not text is left out, and so is one that is withdrawn.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

from genai_prices import data

TARGET = Path(__file__).parents[1] / "src/choir/data/prices.toml"
PROVIDERS = {
    "openai": "openai",
    "anthropic": "anthropic",
    "google": "google",
    "mistral": "mistral",
    "deepseek": "deepseek",
    "groq": "groq",
    "xai": "x-ai",
    "kimi": "moonshotai",
    "zai": "zai",
}
"""Choir's name, and the package's."""
TAKEN = {
    "openai": r"(gpt-4\.1|gpt-4o|gpt-[5-9](\.\d)?|o[34]|text-embedding-3)(?!-\d(-|$)|.*(cyber|rosalind))(-[a-z0-9-]+)?",
    "anthropic": r"claude-([a-z]+-[4-9](-\d)?|3-5-haiku)(-latest|-\d{8})?",
    "google": r"gemini-[a-z0-9.-]+",
    "mistral": r"(mi|code|dev|magi|mini|pix)stral-[a-z0-9.-]+|mistral-[a-z0-9.-]+",
    "deepseek": r"deepseek-[a-z0-9.-]+",
    "groq": r"[a-z0-9./-]+",
    "xai": r"grok-(3|4|code|latest)[a-z0-9.-]*",
    "kimi": r"kimi-[a-z0-9.-]+",
    "zai": r"glm-[a-z0-9.-]+",
}
"""The vendors' own names; the package knows those of others' catalogues too."""
LEFT_OUT = re.compile(
    r".*(realtime|audio|tts|image|live|transcribe|omni|search-|gemini-(1|2\.0|pro|flash-1)|llama-?[23](-|\.[12])|gemma|mixtral|robotics|-high$)"
)
"""Old, or not plain text."""
NOT_TEXT = ("output_audio_mtok", "output_image_mtok", "output_video_mtok", "audio_hours", "input_text_messages_kcount")
HEADER = """\
# USD per million tokens, by "provider/model" pattern (* stands for anything; the longest pattern that matches counts).
# Written by scripts/prices.py from the package genai-prices {version} for {day}, standard tier, shortest context.
# Models whose price grows with the context are marked +. Prices change: an operator who limits money should check them,
# and put what differs under [prices] in choir.toml. A model that is not here has no known price, and none is guessed.
#
# input        what the model reads
# cached       the part of it that comes from a cache; default: input
# cache_write  the part of it that is written to a cache; default: input
# output       what it writes, reasoning included
# request      USD per call
# max_output   tokens of one answer at most, for calls that do not say it themselves

"local/*" = {{}}
"ollama/*" = {{}}
"""


def names(clause: Any) -> Iterator[str]:
    """The models a clause stands for: names, and beginnings of dated names."""
    for attribute in ("equals", "starts_with", "contains"):
        found = getattr(clause, attribute, None)
        if found:
            yield found
    dated = re.match(r"\^([a-z0-9.\\-]+?)(-|\[-@\])?\\d", getattr(clause, "regex", "") or "")
    if dated:
        yield dated[1].replace("\\", "")
    for each in (*(getattr(clause, "or_", None) or ()), *(getattr(clause, "and_", None) or ())):
        yield from names(each)


def in_force(prices: Any, day: date) -> Any:
    """The ``ModelPrice`` of ``day``; of several hours' the dearest."""
    if not isinstance(prices, list):
        return prices
    begun = [each for each in prices if getattr(each.constraint, "start_date", date.min) <= day]
    dates = [getattr(each.constraint, "start_date", date.min) for each in begun]
    hours = [each.prices for each in begun if hasattr(each.constraint, "start_time")]
    latest = begun[max(range(len(begun)), key=lambda index: dates[index])].prices
    return max((latest, *hours), key=lambda price: base(price.input_mtok) or 0)


def base(price: Any) -> Decimal | None:
    return getattr(price, "base", price)


def entry(price: Any) -> str:
    keys = ("input", "input_mtok"), ("cached", "cache_read_mtok"), ("cache_write", "cache_write_mtok")
    values = [(key, base(getattr(price, field))) for key, field in (*keys, ("output", "output_mtok"))]
    inner = ", ".join(f"{key} = {value.normalize():f}" for key, value in values if value is not None)
    tiered = any(hasattr(getattr(price, field), "tiers") for _, field in keys)
    return f"{{ {inner} }}{' # +' if tiered else ''}"


def lines(ours: str, provider: Any, day: date) -> Iterator[str]:
    seen: dict[str, str] = {}
    for model in provider.models:
        price = in_force(model.prices, day)
        if model.deprecated or base(price.input_mtok) is None:
            continue
        if any(getattr(price, field, None) is not None for field in NOT_TEXT):
            continue
        for name in dict.fromkeys((model.id, *names(model.match))):
            if re.fullmatch(TAKEN[ours], name) and not LEFT_OUT.match(name) and not name.endswith("-"):
                seen.setdefault(name, entry(price))
    dated = re.compile(r"(.+)-20\d\d(-?\d\d-?\d\d)?")
    for name in sorted(seen):
        stem = dated.fullmatch(name)
        if stem and seen.get(stem[1]) == seen[name]:
            continue  # the pattern of dated names below has it
        yield f'"{ours}/{name}" = {seen[name]}'
        if (
            not stem
            and ours in ("openai", "anthropic")
            and not name.startswith("text")
            and not name.endswith("-latest")
        ):
            yield f'"{ours}/{name}-20*" = {seen[name]}'


def write(day: date) -> str:
    """The whole file."""
    text = HEADER.format(version=version("genai-prices"), day=day.isoformat())
    for ours, theirs in PROVIDERS.items():
        provider = next(each for each in data.providers if each.id == theirs)
        text += "\n" + "".join(f"# {url}\n" for url in provider.pricing_urls[:1])
        text += "".join(line + "\n" for line in lines(ours, provider, day))
    return text


if __name__ == "__main__":
    TARGET.write_text(write(date.fromisoformat(sys.argv[1]) if sys.argv[1:] else datetime.now(UTC).date()))
