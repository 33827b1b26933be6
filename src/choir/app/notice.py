"""A word to the person at the terminal; standard output belongs to what they asked for."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from choir.errors import ChoirError


def notice_error(error: ChoirError) -> None:
    """What happened, and below it what can be done."""
    notice(error.message)
    if error.hint:
        print(f"       {error.hint}", file=sys.stderr, flush=True)


def notice(message: str) -> None:
    print(f"choir: {message.rstrip()}", file=sys.stderr, flush=True)
