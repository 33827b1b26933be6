"""Small bar charts as SVG. Pure; no style attribute, since the pages' policy forbids those."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT, GAP = 640, 96, 2


def bars(values: Sequence[tuple[str, float, str]], title: str) -> str:
    """One bar for each value.

    Args:
        values: (name, how much, how much in words), from left to right.
        title: read out in place of the picture.
    """
    if not values:
        return ""
    most = max(value for _, value, _ in values) or 1.0
    step = WIDTH / len(values)
    width = max(1.0, step - GAP)
    drawn = []
    for number, (name, value, words) in enumerate(values):
        height = round(value / most * (HEIGHT - 4), 1)
        drawn.append(
            f'<rect x="{number * step:.1f}" y="{HEIGHT - height:.1f}" width="{width:.1f}" height="{height}" rx="1.5">'
            f"<title>{escape(name)}: {escape(words)}</title></rect>"
        )
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(title)}">{"".join(drawn)}</svg>'
    )
