"""Small plots as SVG text, without scripts; their colours come from classes of the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

__all__ = ("Plot",)

_WIDTH, _HEIGHT = 680, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 46


class Plot:
    """One plot, drawn in the order of the calls; `str` returns the finished element."""

    def __init__(self, title: str, said: str, x: tuple[float, float], y: tuple[float, float]) -> None:
        self._head = (title, said)
        self._x, self._y = x, y
        self._parts: list[str] = []

    def __str__(self) -> str:
        title, said = map(escape, self._head)
        return (
            f'<svg role="img" viewBox="0 0 {_WIDTH} {_HEIGHT}" aria-label="{title}. {said}">'
            f"<title>{title}</title>{''.join(self._parts)}</svg>"
        )

    def grid(self, x_label: str, y_label: str, *, names: Sequence[str] = ()) -> None:
        """Draw the axes: with numbers, or with one name for each bar."""
        for value in _ticks(*self._y):
            y = self._at_y(value)
            self._parts.append(f'<path class="grid" d="M{_LEFT} {y}H{_WIDTH - _RIGHT}"/>')
            self._text(_LEFT - 8, y + 4, _number(value), "end")
        marks = enumerate(names) if names else ((value, _number(value)) for value in _ticks(*self._x))
        for value, name in marks:
            self._text(self._at_x(value), _HEIGHT - _BOTTOM + 18, name, "middle")
        bottom = _HEIGHT - _BOTTOM
        self._parts.append(f'<path class="axis" d="M{_LEFT} {bottom}H{_WIDTH - _RIGHT}"/>')
        self._text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, x_label, "middle", "label")
        upright = f"translate(14 {(_TOP + bottom) / 2}) rotate(-90)"
        self._parts.append(f'<text class="label" text-anchor="middle" transform="{upright}">{escape(y_label)}</text>')

    def line(self, kind: str, points: Iterable[tuple[float, float]]) -> None:
        """Draw a line through points."""
        self._parts.append(f'<path class="line {kind}" d="M{self._path(points)}"/>')

    def band(self, kind: str, low: Sequence[tuple[float, float]], high: Sequence[tuple[float, float]]) -> None:
        """Fill the area between two lines."""
        self._parts.append(f'<path class="{kind}" d="M{self._path([*low, *reversed(high)])}Z"/>')

    def bars(self, kind: str, bars: Iterable[tuple[float, float]], width: float) -> None:
        """Draw a bar around each x, `width` of the axis wide."""
        bottom = _HEIGHT - _BOTTOM
        wide = max(1.0, (self._at_x(width) - self._at_x(0)) * 0.86)
        for x, y in bars:
            top = self._at_y(y)
            if y > 0:
                left = round(self._at_x(x) - wide / 2, 1)
                height = round(max(1.0, bottom - top), 1)
                self._parts.append(
                    f'<rect class="{kind}" x="{left}" y="{bottom - height:.1f}" width="{wide:.1f}" height="{height}"/>'
                )

    def rule(self, value: float, name: str) -> None:
        """Draw a level with its name."""
        y = self._at_y(value)
        self._parts.append(f'<path class="rule" d="M{_LEFT} {y}H{_WIDTH - _RIGHT}"/>')
        self._text(_WIDTH - _RIGHT - 4, y - 5, name, "end")

    def _text(self, x: float, y: float, text: str, anchor: str, kind: str = "tick") -> None:
        self._parts.append(f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>')

    def _path(self, points: Iterable[tuple[float, float]]) -> str:
        return "L".join(f"{self._at_x(x)} {self._at_y(y)}" for x, y in points)

    def _at_x(self, value: float) -> float:
        first, last = self._x
        return round(_LEFT + (value - first) / ((last - first) or 1) * (_WIDTH - _LEFT - _RIGHT), 1)

    def _at_y(self, value: float) -> float:
        first, last = self._y
        return round(_HEIGHT - _BOTTOM - (value - first) / ((last - first) or 1) * (_HEIGHT - _BOTTOM - _TOP), 1)


def _ticks(first: float, last: float) -> list[float]:
    """Return some round values between two."""
    rough = (last - first) / 6 or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    if last - first >= 3:
        step = max(1.0, step)
    begin = math.ceil(first / step - 1e-9)
    return [number * step for number in range(begin, math.floor(last / step + 1e-9) + 1)]


def _number(value: float) -> str:
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.6g}{sign}"
    return f"{value:.6g}"
