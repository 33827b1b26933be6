"""What a call does not wait for any longer (pure)."""

from __future__ import annotations

from typing import Literal

from choir.config import Timeouts
from choir.gateway.refusals import Refusal, refused, upstream_failed

KEEPALIVE_SECONDS = 15.0

Waiting = Literal["nothing", "body", "first_byte", "answer", "reader", "either"]
"""For the rest of the request; for the provider to begin; for more of its answer; for the caller to read on; for a byte
of a tunnel. Making a connection has a timeout of its own."""


def overdue(
    waiting: Waiting, now: float, spoke: float, heard: float, timeouts: Timeouts, name: str, between_events: bool
) -> Refusal | Literal["close", "keep_alive"] | None:
    """What is to be done now.

    Args:
        spoke: when the caller, or the gateway for the provider, was heard of last.
        heard: when the provider was.
        name: the provider's.
        between_events: a comment could be said to the caller.
    """
    if waiting == "either":
        return refused(503, "idle_timeout", "Nothing passed for too long.") if now - heard > timeouts.idle else None
    if waiting == "reader":
        return "close" if now - spoke > timeouts.idle else None
    if waiting == "answer":
        if now - heard > timeouts.idle:
            return upstream_failed(504, "idle_timeout", f"The provider {name} fell silent.")
        return "keep_alive" if between_events and now - max(heard, spoke) > KEEPALIVE_SECONDS else None
    if waiting == "body":
        return refused(408, "body_timeout", "its body did not come.") if now - spoke > timeouts.idle else None
    if waiting == "first_byte" and now - max(spoke, heard) > timeouts.first_byte:
        return upstream_failed(504, "first_byte_timeout", f"The provider {name} did not begin to answer in time.")
    return None
