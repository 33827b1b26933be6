"""A word to the person at the terminal; standard output belongs to what they asked for."""

from __future__ import annotations

import sys


def notice(message: str) -> None:
    print(f"choir: {message.rstrip()}", file=sys.stderr, flush=True)
