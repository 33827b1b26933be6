"""So that refusals cannot fill the ledger: most are recorded one by one, the rest of a minute by reason (pure)."""

from __future__ import annotations

from dataclasses import dataclass

PER_MINUTE = 600
"""Refusals of one sandbox that get a record each; further ones of the same minute are only counted."""
MINUTE = 60.0


@dataclass(slots=True)
class Summary:
    """Refusals of one kind that have no record of their own."""

    outcome: str
    status: int
    since: float
    """Of the wall clock, in seconds; when the first of them came."""
    count: int = 0
    bytes_out: int = 0


class Floods:
    """One sandbox's refusals of this minute. Outcomes are a fixed set, and so is what is kept."""

    __slots__ = ("_begun", "_recorded", "_summaries")

    def __init__(self) -> None:
        self._begun = float("-inf")
        self._recorded = 0
        self._summaries: dict[str, Summary] = {}

    def count(self, outcome: str, status: int, bytes_out: int, wall: float, now: float, scarce: bool = False) -> bool:
        """Take note of a refusal. True when it is to be recorded by itself.

        Args:
            now: seconds of a clock that never goes back.
            scarce: there is hardly a place for records: only count it.
        """
        if now - self._begun >= MINUTE and not self._summaries:
            self._begun, self._recorded = now, 0
        if self._recorded < PER_MINUTE and not scarce:
            self._recorded += 1
            return True
        summary = self._summaries.get(outcome)
        if summary is None:
            summary = self._summaries[outcome] = Summary(outcome, status, wall)
        summary.count += 1
        summary.bytes_out += bytes_out
        return False

    def due(self, now: float, at_once: bool = False) -> list[Summary]:
        """What was only counted, once its minute is over; each is handed out once."""
        if not self._summaries or not (at_once or now - self._begun >= MINUTE):
            return []
        summaries, self._summaries = list(self._summaries.values()), {}
        if not at_once:
            self._begun, self._recorded = now, 0
        return summaries
