"""Usage added up for people: by person, model or day, as rows and as CSV. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from choir.storage.ledger import Share

By = Literal["user", "model", "day"]
COLUMNS = ("calls", "failed", "input_tokens", "output_tokens", "cached_tokens", "cost_usd")


@dataclass
class Sum:
    """Added up under one name. What no call told counts as nothing; ``unpriced`` calls have no cost."""

    name: str
    calls: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: float = 0.0
    unpriced: int = 0

    def add(self, share: Share) -> None:
        self.calls += share.calls
        self.failed += share.failed
        self.input_tokens += share.input_tokens or 0
        self.output_tokens += share.output_tokens or 0
        self.cached_tokens += share.cached_tokens or 0
        self.cost_usd += share.cost_usd or 0.0
        self.unpriced += share.unpriced


def model_name(share: Share) -> str:
    """In parentheses, which no provider's name has, where a call was refused before it was known which it is for."""
    if not share.provider:
        return "(refused)"
    return f"{share.provider}/{share.model or '-'}"


def add_up(shares: Iterable[Share], by: By) -> list[Sum]:
    """Days newest first; people and models with most calls first."""
    sums: dict[str, Sum] = {}
    for share in shares:
        name = share.user_id if by == "user" else share.day if by == "day" else model_name(share)
        sums.setdefault(name, Sum(name)).add(share)
    if by == "day":
        return sorted(sums.values(), key=lambda one: one.name, reverse=True)
    return sorted(sums.values(), key=lambda one: (-one.calls, one.name))


def sums_csv(sums: Sequence[Sum], by: By) -> str:
    """One line for each sum (RFC 4180)."""
    return _csv([by, *COLUMNS], [[one.name, *(getattr(one, name) for name in COLUMNS)] for one in sums])


def shares_csv(shares: Sequence[Share]) -> str:
    """One line for each day, person and model."""
    heading = ["day", "user", "provider", "model", *COLUMNS]
    rows = [[s.day, s.user_id, s.provider, s.model or "", *(getattr(s, name) for name in COLUMNS)] for s in shares]
    return _csv(heading, rows)


def _csv(heading: list[str], rows: Sequence[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(heading)
    for row in rows:
        writer.writerow([_cell(value) for value in row])
    return out.getvalue()


def _cell(value: object) -> object:
    """A model's name is the caller's words: one that a spreadsheet would run as a formula is made text."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
