"""Where in a TOML file a key stands, so that an error can say so (pure)."""

from __future__ import annotations

import re
from collections.abc import Sequence

_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_DOTTED = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = re.compile(rf"\s*\[+\s*({_DOTTED})\s*\]")
_ASSIGNMENT = re.compile(rf"\s*({_DOTTED})\s*=")


def place(text: str, keys: Sequence[str]) -> str:
    """``:LINE:COLUMN`` of the innermost of ``keys`` that can be found, else ""."""
    section: list[str] = []
    best, depth = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            here = section = _parts(header[1])
        elif assignment := _ASSIGNMENT.match(line):
            here = section + _parts(assignment[1])
        else:
            continue
        if depth < len(here) <= len(keys) and list(keys[: len(here)]) == here:
            best, depth = f":{number}:{len(line) - len(line.lstrip()) + 1}", len(here)
    return best


def _parts(dotted: str) -> list[str]:
    return [part.strip("\"'") for part in re.findall(_PART, dotted)]
