"""Small bar charts as SVG. Pure; no style attribute, since the pages' policy forbids those.

The picture is stretched to the page's width, so words stand beside it, not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 640, 96
FEWEST = 7
"""A bar is at most as wide as if there were so many."""
_GAP = 0.2
"""Of a bar's room, what stays empty."""


def bars(values: Sequence[tuple[str, int]], title: str, what: str) -> str:
    """One bar for each value, with what it stands for.

    Args:
        values: (day as YYYY-MM-DD, how many), from left to right.
        what: of what there are so many.
    """
    if not values:
        return ""
    most = max(number for _, number in values)
    step = WIDTH / max(len(values), FEWEST)
    left = (WIDTH - step * len(values)) / 2
    drawn = []
    for at, (day, number) in enumerate(values):
        if not number:
            continue
        height = max(1.0, round(number / most * HEIGHT, 1))
        drawn.append(
            f'<rect x="{left + (at + _GAP / 2) * step:.1f}" y="{HEIGHT - height:.1f}" width="{step * (1 - _GAP):.1f}" '
            f'height="{height}"><title>{escape(day)}: {number:,} {escape(what)}</title></rect>'
        )
    said = f"{title}: {', '.join(f'{day} {number:,}' for day, number in values if number) or 'none'}"
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<div class="scale" aria-hidden="true"><span>{most:,}</span><span>0</span></div>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{escape(said)}">'
        f"{''.join(drawn)}</svg>"
        f"{_axis(values)}</figure>"
    )


def _axis(values: Sequence[tuple[str, int]]) -> str:
    """Each day with its number where there is room, else the first, the middle and the last day."""
    kind = "axis"
    if len(values) <= FEWEST:
        kind = "axis each"
        words = [f"{escape(day[5:])}<b>{number:,}</b>" for day, number in values]
    else:
        words = [escape(day) for day, _ in (values[0], values[len(values) // 2], values[-1])]
    return f'<div class="{kind}" aria-hidden="true">{"".join(f"<span>{each}</span>" for each in words)}</div>'
