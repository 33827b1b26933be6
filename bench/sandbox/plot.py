"""Small plots as SVG: one panel above the other, each from zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WIDTH, PANEL, LEFT, RIGHT, TOP, GAP = 640, 150, 64, 24, 44, 34


@dataclass(frozen=True)
class Series:
    name: str
    x: Sequence[float]
    y: Sequence[float]


def draw(path: str, title: str, x_name: str, panels: Sequence[Series]) -> None:
    """Write ``path``."""
    height = TOP + len(panels) * (PANEL + GAP) + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="{LEFT}" y="22" font-size="15">{title}</text>'
    ]
    right = max(max(series.x) for series in panels)
    for number, series in enumerate(panels):
        top = TOP + number * (PANEL + GAP)
        parts += _panel(series, top, right)
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{height - 8}" text-anchor="middle">{x_name}</text></svg>')
    Path(path).write_text("\n".join(parts) + "\n")


def _panel(series: Series, top: float, right: float) -> list[str]:
    most = max(series.y) * 1.15 or 1.0
    inner = WIDTH - LEFT - RIGHT

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + x / right * inner, top + PANEL - y / most * PANEL

    parts = [f'<text x="{LEFT}" y="{top - 6}">{series.name}</text>']
    for share in (0.0, 0.5, 1.0):
        y = top + PANEL * (1 - share)
        parts.append(f'<line x1="{LEFT}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end" fill="#555">{most * share:.3g}</text>')
    points = [place(x, y) for x, y in zip(series.x, series.y, strict=True)]
    parts.append(
        '<polyline fill="none" stroke="#06c" stroke-width="2" points="'
        + " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        + '"/>'
    )
    for (x, y), value in zip(points, series.x, strict=True):
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#06c"/>')
        parts.append(f'<text x="{x:.1f}" y="{top + PANEL + 14}" text-anchor="middle" fill="#555">{value:g}</text>')
    return parts
