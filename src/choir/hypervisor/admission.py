"""Whether another sandbox may start now. Pure."""

from __future__ import annotations

from choir.errors import StartError

MAX_STARTING = 16
RETRY_AFTER_SECONDS = 2


def admit(starting: int, limit: int = MAX_STARTING) -> None:
    """
    Raises:
        StartError: ``too_many_starting``; answered as 429 with Retry-After.
    """
    if starting >= limit:
        raise StartError(
            "too_many_starting",
            f"{starting} sandboxes are starting at this moment.",
            f"Try again in {RETRY_AFTER_SECONDS} seconds.",
        )
