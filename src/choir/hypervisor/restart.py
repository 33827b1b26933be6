"""Whether a sandbox that ended by itself is started again, and after how long. Pure."""

from __future__ import annotations

BACK_OFF = (1.0, 4.0, 15.0)
"""Seconds before the first, second and third restart within ``WINDOW``; there is no fourth."""
WINDOW = 600.0
"""Seconds after which a crash is forgotten."""


def after_crash(crashes: tuple[float, ...], now: float) -> tuple[tuple[float, ...], float | None]:
    """The recent crashes with the one of ``now``, and the seconds to wait; None: it is a crash loop.

    Args:
        crashes: Unix times of those before, oldest first.
    """
    recent = (*(at for at in crashes if now - at < WINDOW), now)
    return recent, BACK_OFF[len(recent) - 1] if len(recent) <= len(BACK_OFF) else None


def loop_hint(crashes: int) -> str:
    """What a person is told about a crash loop."""
    return f"It ended {crashes} times within {WINDOW / 60:.0f} minutes, so it is not started again by itself."
