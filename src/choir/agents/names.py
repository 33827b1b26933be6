"""By which programs the agent CLIs that Choir knows are started. Imports next to nothing: every ``choir run`` asks."""

from __future__ import annotations

import os

NAMES = ("claude", "codex", "pi", "opencode", "gemini", "qwen", "aider", "goose")
"""Each is its program's name, too; what else is known of them is in ``choir.agents.clis``."""


def detect(command: str) -> str | None:
    """The agent that ``command`` (a name or path) starts, or None."""
    name = os.path.basename(command)
    return name if name in NAMES else None
