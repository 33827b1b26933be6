"""Whether a sandbox is idle. Pure.

Judged by work that the host sees: model calls, what a person sends, processor time. An open page or socket is no work;
a busy agent that nobody watches is at work.
"""

from __future__ import annotations

from dataclasses import dataclass

BUSY = 0.01
"""Processors' worth of time, on average since the last look, from which on a sandbox is at work. An idle desktop
takes a thousandth."""
LOOKS = 4
"""Looks at a sandbox in the time after which it counts as idle: it is stopped at most a quarter late."""
SHORTEST_LOOK = 1.0


@dataclass(frozen=True)
class Signs:
    """What is known of one sandbox; times in Unix seconds, 0 for never."""

    last_work: float
    """As judged at the last look; at first, when it became ready."""
    looked: float
    """When that was."""
    last_call: float
    """When its latest model call ended."""
    last_input: float
    """When a person last sent something to it."""
    calls: int
    """Model calls under way."""
    processor: float
    """Seconds of processor time since the last look."""


def last_work(signs: Signs, now: float) -> float:
    """When it last did something."""
    if signs.calls or signs.processor > BUSY * max(now - signs.looked, SHORTEST_LOOK):
        return now
    return max(signs.last_work, signs.last_call, signs.last_input)


def is_idle(last_work: float, now: float, idle_stop: float) -> bool:
    """Whether it is to be stopped.

    Args:
        idle_stop: seconds; 0 for never.
    """
    return idle_stop > 0 and now - last_work >= idle_stop


def pause(idle_stop: float) -> float:
    """Seconds until the next look."""
    return max(SHORTEST_LOOK, idle_stop / LOOKS)


def idle_note(idle_stop: float) -> str:
    """What a person is told."""
    time = f"{idle_stop / 60:.0f} minutes" if idle_stop >= 120 else f"{idle_stop:g} seconds"
    return f"It was stopped after {time} without work."
