"""What one sandbox may use: reserved when a call starts, given back when it ends (pure; the clock is an argument)."""

from __future__ import annotations

import math
import re
import time
from collections import deque
from dataclasses import dataclass
from functools import lru_cache

from choir.config import Limits, Provider
from choir.gateway.prices import USD
from choir.gateway.refusals import Refusal, refused

WINDOW = 60.0  # seconds
DAY = 86400
_WHO = "the gateway limits, not the provider."


class Budget:
    """One sandbox's counters. Exact: no 60 seconds hold more admissions than ``requests_per_minute``, and never are
    more than ``concurrent_requests`` calls open. A refusal uses up nothing."""

    __slots__ = ("_admitted", "active", "gathered", "limits")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        """May be replaced while calls are open."""
        self.active = 0
        self.gathered = 0
        """Bytes of bodies held to be read by policy."""
        self._admitted: deque[float] = deque()

    def reserve(self, now: float, slots: int = 1) -> Refusal | None:
        """Take one request and one slot, or say why not.

        Args:
            now: seconds of a clock that never goes back.
            slots: 0 for a request within a call that is open.
        """
        limits, admitted = self.limits, self._admitted
        while admitted and now - admitted[0] >= WINDOW:
            admitted.popleft()
        if len(admitted) >= limits.requests_per_minute:
            oldest = len(admitted) - limits.requests_per_minute
            wait = math.ceil(admitted[oldest] + WINDOW - now) if oldest < len(admitted) else int(WINDOW)
            return refused(
                429,
                "requests_per_minute",
                f"this sandbox may make {limits.requests_per_minute} requests a minute; {_WHO}",
                max(1, wait),
            )
        if slots and self.active >= limits.concurrent_requests:
            return refused(
                429,
                "concurrent_requests",
                f"this sandbox may have {limits.concurrent_requests} calls open at once; {_WHO}",
                1,
            )
        admitted.append(now)
        self.active += slots
        return None

    def release(self) -> None:
        """Give the slot back; once for each reservation."""
        if self.active <= 0:
            raise AssertionError("released more than was reserved")
        self.active -= 1


@dataclass(slots=True)
class Reservation:
    """The most a call can use."""

    tokens: int
    cost: int
    """Picodollars."""
    wall: float
    """When the call started, in seconds since the epoch: its day and month."""


class Spending:
    """One user's tokens and money, over all sandboxes.

    When a call is admitted, what is reserved and what was used in the last 60 seconds together do not exceed
    ``tokens_per_minute``, nor what is reserved and what was spent on this day or in this month (UTC) the limit on
    money. So the limits hold as long as no call uses more than it reserved. A refusal uses up nothing.
    """

    __slots__ = ("_day", "_month", "_settled", "_settled_tokens", "_spent_day", "_spent_month", "cost", "tokens")

    def __init__(self) -> None:
        self.tokens = 0
        """Reserved by open calls."""
        self.cost = 0
        """Picodollars reserved by open calls."""
        self._settled: deque[tuple[float, int]] = deque()
        self._settled_tokens = 0
        self._day = self._month = ""
        self._spent_day = self._spent_month = 0

    def reserve(self, limits: Limits, tokens: int, cost: int, now: float, wall: float) -> Reservation | Refusal:
        """Take the most a call can use, or say why not.

        Args:
            cost: picodollars.
            now: seconds of a clock that never goes back.
            wall: seconds since the epoch.
        """
        refusal = self._tokens_refusal(limits, tokens, now) or self._money_refusal(limits, cost, wall)
        if refusal is not None:
            return refusal
        self.tokens += tokens
        self.cost += cost
        return Reservation(tokens, cost, wall)

    def settle(self, reservation: Reservation, tokens: int, cost: int, now: float, wall: float) -> None:
        """Give a reservation back and take what was used; once for each reservation, however the call ended."""
        self.tokens -= reservation.tokens
        self.cost -= reservation.cost
        if self.tokens < 0 or self.cost < 0:
            raise AssertionError("settled more than was reserved")
        if tokens:
            self._settled.append((now, tokens))
            self._settled_tokens += tokens
            self._forget(now)
        self.spend(cost, reservation.wall, wall)

    def spend(self, cost: int, started: float, wall: float) -> None:
        """Take money that a call used, which started at ``started``."""
        self._turn(wall)
        day = _day(started)
        if day == self._day:
            self._spent_day += cost
        if day[:7] == self._month:
            self._spent_month += cost

    def load(self, day: int, month: int, wall: float) -> None:
        """Begin with what was spent before, in picodollars."""
        self._turn(wall)
        self._spent_day, self._spent_month = day, month

    def _forget(self, now: float) -> None:
        settled = self._settled
        while settled and now - settled[0][0] >= WINDOW:
            self._settled_tokens -= settled.popleft()[1]

    def _turn(self, wall: float) -> None:
        day = _day(wall)
        if day != self._day:
            self._day, self._spent_day = day, 0
            if day[:7] != self._month:
                self._month, self._spent_month = day[:7], 0

    def _tokens_refusal(self, limits: Limits, tokens: int, now: float) -> Refusal | None:
        limit = limits.tokens_per_minute
        self._forget(now)
        if limit is None:
            return None
        if tokens > limit:
            return refused(
                403,
                "bound_over_limit",
                f"it may use up to {tokens} tokens, more than the {limit} a minute of this user; {_WHO} "
                "Its input counts a token for each byte, its output what it asks for at most.",
            )
        excess = self._settled_tokens + self.tokens + tokens - limit
        if excess <= 0:
            return None
        wait = 1.0
        for at, used in self._settled:
            excess -= used
            wait = at + WINDOW - now
            if excess <= 0:
                break
        return refused(
            429, "tokens_per_minute", f"this user may use {limit} tokens a minute; {_WHO}", max(1, math.ceil(wait))
        )

    def _money_refusal(self, limits: Limits, cost: int, wall: float) -> Refusal | None:
        if limits.usd_per_day is None and limits.usd_per_month is None:
            return None
        self._turn(wall)
        for reason, per, limit, spent in (
            ("usd_per_month", "month", limits.usd_per_month, self._spent_month),
            ("usd_per_day", "day", limits.usd_per_day, self._spent_day),
        ):
            if limit is not None and spent + self.cost + cost > round(limit * USD):
                return refused(
                    429,
                    reason,
                    f"it may cost up to {cost / USD:.4f} USD, and this user may spend {limit:g} USD a {per} (UTC), "
                    f"of which {spent / USD:.4f} are spent and {self.cost / USD:.4f} reserved by open calls; {_WHO}",
                    _until_next(per, wall) if not self.cost else 1,
                )
        return None


def _day(wall: float) -> str:
    return _date(int(wall // DAY))


@lru_cache(16)
def _date(day: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(day * DAY))


def _until_next(per: str, wall: float) -> int:
    """Seconds until the next day or month begins, UTC."""
    day = int(wall // DAY) + 1
    while per == "month" and not _date(day).endswith("-01"):
        day += 1
    return max(1, math.ceil(day * DAY - wall))


def body_too_large(limits: Limits) -> Refusal:
    return refused(
        413, "body_too_large", f"the body is longer than the {limits.max_body_bytes} bytes the operator allows."
    )


def limited(limits: Limits) -> bool:
    """Whether tokens or money are."""
    return limits.tokens_per_minute is not None or has_money_limit(limits)


def has_money_limit(limits: Limits) -> bool:
    return limits.usd_per_day is not None or limits.usd_per_month is not None


def case_refusal(name: str) -> Refusal:
    """For a member that some server would take for ``name``, which policy reads."""
    return refused(
        400, "member_in_another_case", f"a member's name is `{name}` in other letters; policy reads `{name}` alone."
    )


def fallbacks_refusal() -> Refusal:
    """For a call that leaves it to the provider which of several models it takes, where the model matters."""
    return refused(
        403,
        "fallback_models_denied",
        "`models` lets the provider choose among several, and this user's models, tokens or money are limited. "
        "Ask for one, with `model`.",
    )


def search_refusal(provider: Provider, *models: str | None) -> Refusal | None:
    """Whether one of ``models`` searches the internet by itself, which is what the tool ``web_search`` does."""
    if not provider.search_models or "web_search" in provider.allow_tools or "*" in provider.allow_tools:
        return None
    searching = _patterns(provider.search_models)
    if not any(model is not None and searching.fullmatch(model.strip()) for model in models):
        return None
    return refused(
        403,
        "provider_tool_denied",
        f"the model searches the internet by itself, at {provider.name}. "
        f"The operator can allow it: providers.{provider.name}.allow_tools, `web_search`.",
    )


@lru_cache
def _patterns(texts: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(".*".join(map(re.escape, text.split("*"))) for text in texts), re.IGNORECASE | re.DOTALL)


def model_refusal(allowed: tuple[str, ...], model: str | None) -> Refusal | None:
    """Whether ``model`` is on a provider's list; an empty list allows all."""
    if not allowed or model in allowed:
        return None
    if model is None:
        return refused(
            400, "model_unreadable", "the provider's models are limited and the call does not say which one it wants."
        )
    return refused(403, "model_not_allowed", f"the model is not on the operator's list: {', '.join(allowed)}.")
