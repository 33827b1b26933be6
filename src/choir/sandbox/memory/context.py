"""What fits into a model's context. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from choir.sandbox.memory.model import Item, Pack


def tokens_of(text: str) -> int:
    """An upper estimate without the model's tokenizer: a third of the UTF-8 bytes. (English has about 4.3 a token,
    code 3, Chinese about 3.)"""
    return -(-len(text.encode()) // 3)


def rendered(item: Item) -> str:
    """An item as a model gets to see it."""
    at = datetime.fromtimestamp(item.created_at, UTC).strftime("%Y-%m-%d %H:%M")
    source = f" {item.source_ref}" if item.source_ref else ""
    return f"[{at} {item.collection}{source}]\n{item.content}\n\n"


def pack(items: Iterable[Item], budget: int) -> Pack:
    """Best first; what does not fit is skipped, what comes after it may still fit."""
    chosen: list[Item] = []
    texts: list[str] = []
    size = 0
    for item in items:
        text = rendered(item)
        if -(-(size + len(text.encode())) // 3) <= budget:
            chosen.append(item)
            texts.append(text)
            size += len(text.encode())
    text = "".join(texts)
    return Pack(text, tokens_of(text), tuple(chosen))
