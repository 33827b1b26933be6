"""The most that a call can use, told before it is made (pure).

A token stands for at least one byte, so a body's length in bytes bounds what the model reads of it. What it writes is
bounded by what the call says; a call that does not say is bounded by ``max_output`` of its price, if the operator gave
one, and refused otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from choir.config import Limits
from choir.gateway.body import strict_members, string
from choir.gateway.dialects import Counts
from choir.gateway.policy import Reservation, has_money_limit
from choir.gateway.prices import PriceTable, Rate
from choir.gateway.refusals import Refusal, refused
from choir.gateway.routing import Billing, Dialect, Match

_MOST = 2**40
_OUTPUT: dict[Dialect, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "chat": (("max_completion_tokens", "max_tokens"), ("n",)),
    "completions": ((), ()),
    "responses": (("max_output_tokens",), ()),
    "messages": (("max_tokens",), ()),
    "generate": (("maxOutputTokens", "max_output_tokens"), ("candidateCount", "candidate_count")),
}
"""Members that bound one answer, and the one (in any of its spellings) that asks for several."""
_GENERATION = ("generationConfig", "generation_config")


def output_bound(dialect: Dialect, members: dict[str, msgspec.Raw]) -> int | None:
    """Tokens the model may write at most, as the body says it; None when it does not.

    Args:
        members: of ``strict_members``.

    Raises:
        Undecodable: what says it has a key twice.
    """
    if dialect == "generate":
        found = generation_configs(members)
        if len(found) != 1:
            return None
        members = found[0]
    names, several = _OUTPUT[dialect]
    bounds = [_whole(value) for value in _told(members, names)]
    times = [_whole(value) for value in _told(members, several)] or [1]
    if not bounds or None in bounds or None in times:
        return None
    return max(b for b in bounds if b is not None) * max(1, *(t for t in times if t is not None))


_PLAIN_TIERS = frozenset(("auto", "default", "standard", "standard_only", "on_demand", "flex", "batch"))
_PLAIN: dict[str, frozenset[str]] = {
    "service_tier": _PLAIN_TIERS,
    "serviceTier": _PLAIN_TIERS,
    "speed": frozenset(("standard",)),
    "inference_geo": frozenset(("global",)),
}
"""Members that can ask for more than the plain price (OpenAI's and Google's priority, Groq's performance; Anthropic's
fast mode and its place), and what of them does not."""


def dearer(dialect: Dialect | None, members: dict[str, msgspec.Raw]) -> str | None:
    """The member that asks for what may cost more than the price table says.

    Raises:
        Undecodable
    """
    for name, plain in _PLAIN.items():
        if name in members and bytes(members[name]) != b"null" and string(members[name]) not in plain:
            return name
    if dialect == "generate":
        for name in _GENERATION:
            if name in members and any(dearer(None, config) for config in generation_configs(members)):
                return name
    return None


def generation_configs(members: dict[str, msgspec.Raw]) -> list[dict[str, msgspec.Raw]]:
    """Members of Google's ``generationConfig``, in whichever spellings it is there.

    Raises:
        Undecodable: it has a key twice, so that policy could read another body than the provider.
    """
    found = []
    for name in _GENERATION:
        raw = members.get(name)
        if raw is not None and (value := bytes(raw)) != b"null":
            found.append(strict_members(value))
    return found


def _told(members: dict[str, msgspec.Raw], names: tuple[str, ...]) -> list[bytes]:
    values = [bytes(members[name]) for name in names if name in members]
    return [value for value in values if value != b"null"]


def _whole(value: bytes) -> int | None:
    try:
        number = msgspec.json.decode(value, type=int)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return number if 0 <= number < _MOST else None


def quote(
    match: Match,
    model: str | None,
    sent: int,
    told: int | None,
    prices: PriceTable,
    limits: Limits,
    dearer: str | None = None,
) -> tuple[int, int] | Refusal:
    """The most a call can use: tokens, and picodollars.

    Args:
        sent: tokens it sends at most.
        told: tokens it gets at most, None when it does not say.
        dearer: the member that asks for more than the plain price.
    """
    money = has_money_limit(limits)
    if money and dearer is not None:
        return refused(
            403,
            "price_unknown",
            f"what this user spends is limited, and no price is known for what `{dearer}` asks for. "
            "Leave it out, or ask for the standard.",
        )
    rate = prices.find(match.provider.name, model)
    if money and rate is None:
        return refused(
            403,
            "price_unknown",
            f"what this user spends is limited, and no price is known for this model of {match.provider.name}. "
            f'The operator can give it: [prices] "{match.provider.name}/*" = {{ input = …, output = … }}.',
        )
    if match.billing == "request":
        return 0, rate.request if rate is not None else 0
    output = told
    if match.billing == "input":
        output = 0
    elif match.billing == "unbounded":
        return unbounded(match)
    if output is None:
        output = rate.max_output if rate is not None else None
        if output is None and limits.tokens_per_minute is None and _output_is_free(rate):
            output = 0
    if output is None:
        name = _OUTPUT[match.dialect][0][0] if match.dialect is not None else "max_tokens"
        return refused(
            403, "bound_required", f"tokens or money are limited for this user, so it must say `{name}` as a number."
        )
    return sent + output, rate.bound(sent, output) if rate is not None else 0


def unbounded(match: Match) -> Refusal:
    """For routes whose use nothing bounds."""
    return refused(
        403,
        "bound_required",
        f"tokens or money are limited for this user, and nothing bounds what `{match.pattern}` uses.",
    )


def _output_is_free(rate: Rate | None) -> bool:
    return rate is not None and rate.output == 0


@dataclass(frozen=True, slots=True)
class Used:
    """What a call used. ``cost`` is in picodollars, None when it is not known."""

    tokens: int
    cost: int | None


def settlement(
    reservation: Reservation | None,
    rate: Rate | None,
    billing: Billing,
    counts: Counts | None,
    whole: bool,
    billed: bool,
) -> Used:
    """What a call that has ended used.

    Where something was reserved, what cannot be known counts as all of it.

    Args:
        whole: the answer came to its end, so that ``counts`` are the last ones.
        billed: a provider may ask money for it.
    """
    if not billed or billing == "free":
        return Used(0, None)
    if billing == "request":
        return Used(0, rate.request if rate is not None else None)
    known = counts is not None and counts.input is not None and (counts.output is not None or billing == "input")
    if counts is None or counts.input is None or not known or (reservation is not None and not whole):
        if reservation is None:
            return Used(0, None)
        return Used(reservation.tokens, reservation.cost if rate is not None else None)
    output = counts.output or 0
    cost = rate.cost(counts.input, output, counts.cached or 0, counts.written or 0) if rate is not None else None
    return Used(counts.input + output, cost)
