"""The bench's figures as a small SVG: latency and size over the number of items, both scales logarithmic for time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

WIDTH, HEIGHT, LEFT, TOP, GAP = 330, 230, 60, 40, 100
LINES = (
    ("memory", "p99", "#1769aa", "5 3"),
    ("memory", "p50", "#1769aa", ""),
    ("tantivy", "p99", "#999999", "5 3"),
    ("tantivy", "p50", "#999999", ""),
)


def svg(results: Mapping[str, Mapping[str, Any]]) -> str:
    """``results`` as ``run.py`` writes them: by number of items, then memory and perhaps tantivy."""
    sizes = sorted(map(int, results))
    low, high = math.log10(sizes[0]), math.log10(max(sizes[-1], sizes[0] + 1))

    def x(items: int) -> float:
        return (math.log10(items) - low) / (high - low) * WIDTH

    latency: list[str] = []
    lowest = -math.inf  # of the names so far, which come from the highest line to the lowest
    ticks = [0.01, 0.1, 1.0, 10.0, 100.0]

    def milliseconds(value: float) -> float:
        return HEIGHT * (2 - math.log10(max(value, 0.01))) / 4

    for who, which, colour, dash in LINES:
        points = [(x(n), milliseconds(results[str(n)][who]["query"][which])) for n in sizes if who in results[str(n)]]
        if points:
            lowest = max(points[-1][1], lowest + 13)
            latency += line(points, colour, dash, f"{who} {which}", lowest)
    size: list[str] = []

    def ratio(value: float) -> float:
        return HEIGHT * (1 - min(value, 1.0))

    for who, colour in (("memory", "#1769aa"), ("tantivy", "#999999")):
        points = [(x(n), ratio(results[str(n)][who]["index_to_text"])) for n in sizes if who in results[str(n)]]
        if points:
            size += line(points, colour, "", who, points[-1][1])
    whole = (2 * WIDTH + 2 * LEFT + GAP + 60, HEIGHT + TOP + 40)
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{whole[0]}" height="{whole[1]}"'
            ' font-family="sans-serif" font-size="12">',
            '<rect width="100%" height="100%" fill="white"/>',
            *panel(LEFT, "query, ms", sizes, x, [(f"{t:g}", milliseconds(t)) for t in ticks], latency),
            *panel(
                LEFT + WIDTH + GAP + 30,
                "index / text",
                sizes,
                x,
                [(f"{t:g}", ratio(t)) for t in (0, 0.2, 0.4, 0.6, 0.8, 1)],
                size,
            ),
            "</svg>\n",
        )
    )


def panel(
    left: float,
    title: str,
    sizes: Sequence[int],
    x: Callable[[int], float],
    ticks: Sequence[tuple[str, float]],
    content: Sequence[str],
) -> list[str]:
    parts = [f'<g transform="translate({left} {TOP})">', f'<text y="-15" font-weight="bold">{title}</text>']
    for name, y in ticks:
        parts.append(f'<line x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>')
        parts.append(f'<text x="-6" y="{y + 4:.1f}" text-anchor="end">{name}</text>')
    for items in sizes:
        parts.append(f'<text x="{x(items):.1f}" y="{HEIGHT + 18}" text-anchor="middle">{items:,}</text>')
    return [*parts, *content, "</g>"]


def line(points: Sequence[tuple[float, float]], colour: str, dash: str, name: str, name_y: float) -> list[str]:
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    end = points[-1]
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>',
        *(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in points),
        f'<text x="{end[0] + 6:.1f}" y="{name_y + 4:.1f}" fill="{colour}">{name}</text>',
    ]
