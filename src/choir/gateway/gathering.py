"""Bodies held until they are whole, because policy has to read them before anything is forwarded (pure)."""

from __future__ import annotations

from choir.gateway.policy import Budget
from choir.gateway.refusals import Refusal, refused

GATHERED = 4
"""Bodies of the greatest length; one sandbox's that are held at once."""


def too_many_bytes(budget: Budget) -> Refusal | None:
    """Whether one sandbox holds more than it may."""
    if budget.gathered > GATHERED * budget.limits.max_body_bytes:
        return refused(429, "bodies_waiting", "too many bytes of bodies are on their way at once.", 1)
    return None


class Gathering:
    """One body. What it holds counts against its sandbox until it is taken."""

    __slots__ = ("_budget", "_pieces", "_size")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, piece: bytes) -> Refusal | None:
        """Why no more can be held, or None."""
        budget, size = self._budget, len(piece)
        self._pieces.append(piece)
        self._size += size
        budget.gathered += size
        return too_many_bytes(budget)

    def take(self) -> bytes:
        """Everything; nothing is held any more."""
        pieces, self._pieces = self._pieces, []
        self._budget.gathered -= self._size
        self._size = 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
