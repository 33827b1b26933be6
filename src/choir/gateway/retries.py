"""Whether a call may be made again (pure): only while nothing of an answer went to the caller, only from memory, and
only where it cannot be carried out twice."""

from __future__ import annotations

from typing import Literal

Phase = Literal["connecting", "sent", "answered"]
"""How far the attempt came: no byte of the request went out; some did; the provider's status is known."""
Failure = Literal["unreachable", "reset", "timeout", "untrusted", "stale", "key", "other"]
"""``unreachable``: refused, no route, no name. ``stale``: a kept connection ended as the request went out. ``key``: the
provider turned the key away, so that it did nothing."""

ATTEMPTS = 3
"""Of one call, the first included."""
_SAFE = ("GET", "HEAD", "OPTIONS")
"""RFC 9110, 9.2.1."""


def may_retry(method: str, attempt: int, phase: Phase, failure: Failure, replayable: bool) -> bool:
    """
    Args:
        attempt: how many were made.
        replayable: the request is still in memory from its first byte.
    """
    if not replayable or attempt >= ATTEMPTS:
        return False
    if phase == "connecting":
        return failure in ("unreachable", "reset")  # a timeout has used up what the operator allows
    if phase == "sent":
        return failure == "stale" and method in _SAFE
    return failure == "key"
