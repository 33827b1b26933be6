"""Which of an upstream's keys a call uses (pure; the clock is an argument). Holds references, never keys.

One key is used until the provider turns it away, so that what providers cache by key stays of use; then the next one
of the operator's list. A key that was turned away rests: for as long as the provider says, else twice as long each
time. When its rest is over it may be used again, and one answer that is no such refusal clears it. An only key never
rests: there is no other, and the provider's own answer says more than ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from choir.gateway.refusals import Refusal

Verdict = Literal["refused", "limited"]
"""What a provider says of a key: it is not valid (or has no credit), or it was used too much just now."""

FIRST_REST: dict[Verdict, float] = {"refused": 10.0, "limited": 5.0}  # seconds, where the provider does not say
LONGEST_REST: dict[Verdict, float] = {"refused": 600.0, "limited": 300.0}
LONGEST_TOLD = 3600.0
"""Seconds of a Retry-After that are believed."""


@dataclass(slots=True)
class _Key:
    reference: str
    verdict: Verdict | None = None
    strikes: int = 0
    rests_until: float = float("-inf")


@dataclass(frozen=True, slots=True)
class KeyState:
    """Of one key, for operators."""

    reference: str
    state: Literal["in use", "ready", "refused", "limited"]
    seconds: int = 0
    """Until it is tried again."""


class Keyring:
    """The keys of one upstream."""

    __slots__ = ("_keys", "current", "troubled")

    def __init__(self, references: Sequence[str]) -> None:
        self._keys = [_Key(reference) for reference in references]
        self.current = 0
        """The key in use."""
        self.troubled = False
        """Whether some key was turned away lately. While it is not, ``current`` is the choice."""

    @property
    def references(self) -> list[str]:
        return [key.reference for key in self._keys]

    def choose(self, now: float) -> int | None:
        """The key for a call, None when all rest.

        Args:
            now: seconds of a clock that never goes back.
        """
        if not self.troubled:
            return self.current
        count = len(self._keys)
        for index in range(self.current, self.current + count):
            if now >= self._keys[index % count].rests_until:
                self.current = index % count
                return self.current
        return None

    def turned_away(self, index: int, verdict: Verdict, told: float | None, now: float) -> bool:
        """The provider turned a call with this key away.

        Args:
            told: seconds of its Retry-After, None where it has none.

        Returns:
            whether the key begins to rest, which it does once, however many calls were under way with it.
        """
        if len(self._keys) < 2:
            return False
        key = self._keys[index]
        told = None if told is None else min(max(told, 1.0), LONGEST_TOLD)
        if now < key.rests_until:
            if told is not None:
                key.rests_until = max(key.rests_until, now + told)
            return False
        key.verdict = verdict
        rest = min(FIRST_REST[verdict] * 2.0 ** min(key.strikes, 32), LONGEST_REST[verdict]) if told is None else told
        key.rests_until = now + rest
        key.strikes += 1
        self.troubled = True
        return True

    def accepted(self, index: int) -> bool:
        """The provider took this key. Whether that is news; needed only while ``troubled``."""
        key = self._keys[index]
        if key.verdict is None:
            return False
        self._keys[index] = _Key(key.reference)
        self.troubled = any(key.verdict is not None for key in self._keys)
        return True

    def refusal(self, provider: str, now: float) -> Refusal:
        """What a call is told while all keys rest: which ones, by the names of their references."""
        wait = max(1, math.ceil(min(key.rests_until for key in self._keys) - now))
        limited = any(key.verdict == "limited" for key in self._keys)
        names = ", ".join(f"{label(key.reference)}: {key.verdict}" for key in self._keys)
        return Refusal(
            429 if limited else 502,
            "upstream:keys_limited" if limited else "upstream:keys_refused",
            f"The provider {provider} has turned away every key the operator gave ({names}). "
            f"The next try is in {wait} s.",
            wait,
        )

    def resting(self, now: float) -> int:
        """How many keys are not used for now."""
        return sum(now < key.rests_until for key in self._keys)

    def states(self, now: float) -> list[KeyState]:
        """In the operator's order."""
        return [
            KeyState(key.reference, key.verdict, math.ceil(key.rests_until - now))
            if key.verdict is not None and now < key.rests_until
            else KeyState(key.reference, "in use" if index == self.current else "ready")
            for index, key in enumerate(self._keys)
        ]


def label(reference: str) -> str:
    """A reference without what a caller need not know: the variable's name, or the file's without its folder."""
    return reference.partition(":")[2].rpartition("/")[2]
