"""Line plots with logarithmic axes, written as SVG by hand; readable on a light and on a dark page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10

import msgspec

__all__ = ("Line", "Plot")

WIDTH, HEIGHT = 860, 480
LEFT, RIGHT, TOP, BOTTOM = 78, 200, 46, 56
#: Middle tones, which stand out from white and from black; ours are drawn thicker.
COLOURS = ("#d9480f", "#e8890c", "#c2255c", "#ae3ec9", "#1c7ed6", "#2f9e44", "#0c8599", "#7a6a4f", "#868e96")
STYLE = """text{font:12px system-ui,sans-serif;fill:#222}.title{font-size:15px;font-weight:600}
.grid{stroke:#8884;stroke-width:1}.frame{fill:none;stroke:#8888}.page{fill:#fff}
@media (prefers-color-scheme:dark){text{fill:#ddd}.page{fill:#15181c}}"""


class Line(msgspec.Struct, frozen=True):
    """One server's points, in the order of the first axis."""

    name: str
    points: list[tuple[float, float]]


class Plot(msgspec.Struct, frozen=True):
    """A title, two named axes and the lines."""

    title: str
    x: str
    y: str
    lines: list[Line]

    def svg(self) -> str:
        """Return the plot as one SVG document."""
        points = [point for line in self.lines for point in line.points if point[1] > 0]
        across = _Axis([x for x, _ in points], LEFT, WIDTH - RIGHT)
        up = _Axis([y for _, y in points], HEIGHT - BOTTOM, TOP)
        middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
        title = escape(self.title)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">',
            f'<style>{STYLE}</style><rect class="page" width="{WIDTH}" height="{HEIGHT}"/>',
            f'<text class="title" x="{LEFT}" y="26">{title}</text>',
            *_grid(across, up),
            f'<text x="{middle_x}" y="{HEIGHT - 14}" text-anchor="middle">{escape(self.x)}</text>',
            f'<text transform="translate(18 {middle_y}) rotate(-90)" text-anchor="middle">{escape(self.y)}</text>',
        ]
        ends = _spread([(up.at(line.points[-1][1]), number) for number, line in enumerate(self.lines) if line.points])
        for number, line in enumerate(self.lines):
            if line.points:
                parts += _draw(line, COLOURS[number % len(COLOURS)], across, up, ends[number])
        return "\n".join([*parts, "</svg>", ""])


class _Axis:
    """A logarithmic axis over whole decades."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self.low = floor(log10(min(values, default=1)))
        self.high = max(ceil(log10(max(values, default=10))), self.low + 1)
        self._start, self._end = start, end

    def at(self, value: float) -> float:
        share = (log10(max(value, 10**self.low)) - self.low) / (self.high - self.low)
        return round(self._start + share * (self._end - self._start), 1)

    @property
    def ticks(self) -> list[float]:
        return [10.0**power for power in range(self.low, self.high + 1)]


def _grid(across: _Axis, up: _Axis) -> list[str]:
    parts = [
        f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{WIDTH - RIGHT - LEFT}" height="{HEIGHT - BOTTOM - TOP}"/>'
    ]
    for tick in across.ticks:
        x = across.at(tick)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{_label(tick)}</text>')
    for tick in up.ticks:
        y = up.at(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{_label(tick)}</text>')
    return parts


def _label(value: float) -> str:
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _spread(ends: list[tuple[float, int]], gap: float = 15) -> dict[int, float]:
    """Move the labels at the ends of the lines apart."""
    placed: dict[int, float] = {}
    lowest = float(TOP)
    for y, number in sorted(ends):
        placed[number] = lowest = max(y, lowest)
        lowest += gap
    return placed


def _draw(line: Line, colour: str, across: _Axis, up: _Axis, label_y: float) -> list[str]:
    places = [(across.at(x), up.at(y)) for x, y in line.points]
    width = 2.6 if line.name.startswith("ours") else 1.6
    path = " ".join(f"{x},{y}" for x, y in places)
    dots = "".join(f'<circle cx="{x}" cy="{y}" r="3"/>' for x, y in places)
    x, y = places[-1]
    edge = WIDTH - RIGHT + 12
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>',
        f'<g fill="{colour}">{dots}</g>',
        f'<path d="M{x + 4} {y}L{edge} {label_y}" stroke="{colour}" stroke-width="0.7" stroke-dasharray="2 3"/>',
        f'<text x="{edge + 4}" y="{label_y + 4}" style="fill:{colour}">{escape(line.name)}</text>',
    ]
