"""What people and scripts type into fields and queries. Pure."""

from __future__ import annotations

_MAX_DIGITS = 9
_MAX_LABEL = 60


def whole_number(text: str, otherwise: int) -> int:
    """A number of plain digits, few enough to count with, else ``otherwise``. Other scripts' digits are none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS else otherwise


def label(text: str, otherwise: str) -> str:
    """A thing's name on one line, without what a terminal obeys or what turns a line's direction around."""
    printable = "".join(ch if ch.isprintable() else " " for ch in text)
    return " ".join(printable.split())[:_MAX_LABEL].strip() or otherwise
