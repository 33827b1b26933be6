"""What one sandbox may use: reserved when a call starts, given back when it ends (pure; the clock is an argument)."""

from __future__ import annotations

import math
from collections import deque

from choir.config import Limits
from choir.gateway.refusals import Refusal, refused

WINDOW = 60.0  # seconds
_WHO = "the gateway limits, not the provider."


class Budget:
    """One sandbox's counters. Exact: no 60 seconds hold more admissions than ``requests_per_minute``, and never are
    more than ``concurrent_requests`` calls open. A refusal uses up nothing."""

    __slots__ = ("_admitted", "active", "limits")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        """May be replaced while calls are open."""
        self.active = 0
        self._admitted: deque[float] = deque()

    def reserve(self, now: float) -> Refusal | None:
        """Take one request and one slot, or say why not.

        Args:
            now: seconds of a clock that never goes back.
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
        if self.active >= limits.concurrent_requests:
            return refused(
                429,
                "concurrent_requests",
                f"this sandbox may have {limits.concurrent_requests} calls open at once; {_WHO}",
                1,
            )
        admitted.append(now)
        self.active += 1
        return None

    def release(self) -> None:
        """Give the slot back; once for each reservation."""
        if self.active <= 0:
            raise AssertionError("released more than was reserved")
        self.active -= 1


def body_too_large(limits: Limits) -> Refusal:
    return refused(
        413, "body_too_large", f"the body is longer than the {limits.max_body_bytes} bytes the operator allows."
    )


def model_refusal(allowed: tuple[str, ...], model: str | None) -> Refusal | None:
    """Whether ``model`` is on a provider's list; an empty list allows all."""
    if not allowed or model in allowed:
        return None
    if model is None:
        return refused(
            400, "model_unreadable", "the provider's models are limited and the call does not say which one it wants."
        )
    return refused(403, "model_not_allowed", f"the model is not on the operator's list: {', '.join(allowed)}.")
