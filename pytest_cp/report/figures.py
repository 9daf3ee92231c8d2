"""The figures of the HTML report as SVG text: bars by class, distances, and accuracy against size.

They are drawn with the page's own colours, so that they follow dark mode and print, and every mark has a title.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from html import escape
from typing import Any

from cp_compress.base.error_reasons import printable_line

_WIDTH, _HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 14, 14, 46


def class_bars(classes: Sequence[dict[str, Any]]) -> str:
    """Return each class's accuracy before and after as paired bars (the paper's Figure 4)."""
    step, bar = 40, 14
    width = max(260, _LEFT + step * len(classes) + _RIGHT)
    plot = _Plot(width, (0, max(1, len(classes))), (0.0, 1.0), f"Accuracy of {len(classes)} classes before and after")
    plot.horizontal_lines((0, 0.25, 0.5, 0.75, 1), lambda value: f"{value:.0%}")
    for position, row in enumerate(classes):
        left = plot.x(position) + 4
        for offset, (key, name) in enumerate((("reference_accuracy", "before"), ("accuracy", "after"))):
            top = plot.y(row[key])
            title = f"class {row['class']}, {name}: {row[key]:.1%} of {row['count']}"
            plot.mark(
                f'<rect class="{name}" x="{left + offset * (bar + 2):.1f}" y="{top:.1f}" width="{bar}" '
                f'height="{plot.y(0) - top:.1f}">',
                title,
                "rect",
            )
        plot.text(left + bar + 1, plot.y(0) + 16, _short(str(row["class"]), 6), "middle")
    plot.label("true class", "")
    return plot.svg()


def distance_scatter(distances: dict[str, Any]) -> str:
    """Return boundary distances before (across) and after (up); on the line nothing moved (the paper's Figure 6)."""
    limit = float(distances["max_distance"] or 1.0)
    plot = _Plot(340, (0.0, limit * 1.06), (0.0, limit * 1.06), "Boundary distances before and after", height=340)
    ticks = _ticks(limit)
    plot.horizontal_lines(ticks, _plain)
    plot.vertical_ticks(ticks, _plain)
    plot.line(0, 0, limit, limit)
    for before, after in zip(distances["before"], distances["after"], strict=True):
        beyond = before is None or after is None
        shown = [limit * 1.04 if value is None else min(value, limit) for value in (before, after)]
        told = ["beyond " + _plain(limit) if value is None else _plain(value) for value in (before, after)]
        kind, x, y = "beyond" if beyond else "point", plot.x(shown[0]), plot.y(shown[1])
        shape = f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3">'
        plot.mark(shape, f"before {told[0]}, after {told[1]}", "circle")
    plot.label("distance before", "distance after")
    return plot.svg()


def accuracy_against_size(points: Sequence[dict[str, Any]], axis: str) -> str:
    """Return accuracy (up) against size (across, logarithmic); those that none beats in both are joined (Figure 7)."""
    sizes = [point["size"] for point in points]
    accuracies = [point["accuracy"] for point in points]
    low, high = math.log10(min(sizes)), math.log10(max(sizes))
    pad = max(0.08, 0.08 * (high - low))
    floor = max(0.0, min(accuracies) - 0.05)
    span, reach = (low - pad, high + pad), (floor, min(1.02, max(accuracies) + 0.05))
    plot = _Plot(_WIDTH, span, reach, f"Accuracy against {axis}")
    plot.horizontal_lines(_between(*reach), lambda value: f"{value:.0%}")
    plot.vertical_ticks(_log_ticks(*span), lambda value: _plain(10**value))
    front = sorted((point for point in points if point["on_front"]), key=lambda point: point["size"])
    for first, second in itertools.pairwise(front):
        plot.line(math.log10(first["size"]), first["accuracy"], math.log10(second["size"]), second["accuracy"])
    for number, point in enumerate(points, start=1):
        x, y = plot.x(math.log10(point["size"])), plot.y(point["accuracy"])
        kind = "front" if point["on_front"] else "point"
        title = f"{point['name']}: accuracy {point['accuracy']:.2%}, {axis} {_plain(point['size'])}"
        plot.mark(
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{6 if point["on_front"] else 4}">', title, "circle"
        )
        plot.text(x + 8, y - 6, str(number), "start")
    plot.label(f"{axis} (logarithmic)", "accuracy")
    return plot.svg()


class _Plot:
    """One figure with its axes; it collects marks and gives the SVG."""

    def __init__(
        self, width: int, across: tuple[float, float], up: tuple[float, float], title: str, height: int = _HEIGHT
    ) -> None:
        self._size = (width, height)
        self._across, self._up, self._title = across, up, title
        self._parts: list[str] = []

    def x(self, value: float) -> float:
        low, high = self._across
        return _LEFT + (value - low) / ((high - low) or 1) * (self._size[0] - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self._up
        return self._size[1] - _BOTTOM - (value - low) / ((high - low) or 1) * (self._size[1] - _TOP - _BOTTOM)

    def mark(self, opening: str, title: str, tag: str) -> None:
        self._parts.append(f"{opening}<title>{escape(printable_line(title))}</title></{tag}>")

    def text(self, x: float, y: float, text: str, anchor: str) -> None:
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(printable_line(text))}</text>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float) -> None:
        ends = f'x1="{self.x(x1):.1f}" y1="{self.y(y1):.1f}" x2="{self.x(x2):.1f}" y2="{self.y(y2):.1f}"'
        self._parts.append(f'<line class="guide" {ends}/>')

    def horizontal_lines(self, values: Sequence[float], told: Any) -> None:
        for value in values:
            y = self.y(value)
            ends = f'x1="{_LEFT}" y1="{y:.1f}" x2="{self._size[0] - _RIGHT}" y2="{y:.1f}"'
            self._parts.append(f'<line class="grid" {ends}/>')
            self.text(_LEFT - 6, y + 4, told(value), "end")

    def vertical_ticks(self, values: Sequence[float], told: Any) -> None:
        for value in values:
            self.text(self.x(value), self._size[1] - _BOTTOM + 16, told(value), "middle")

    def label(self, across: str, up: str) -> None:
        width, height = self._size
        self.text((width + _LEFT) / 2, height - 8, across, "middle")
        if up:
            middle = height / 2 - 12
            turned = f'transform="rotate(-90 14 {middle:.0f})"'
            self._parts.append(
                f'<text x="14" y="{middle:.0f}" text-anchor="middle" {turned}>{escape(printable_line(up))}</text>'
            )

    def svg(self) -> str:
        width, height = self._size
        title = escape(printable_line(self._title))
        head = f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{title}">'
        return f"{head}{''.join(self._parts)}</svg>"


def _ticks(limit: float) -> list[float]:
    step = 10 ** math.floor(math.log10(limit))
    step = next(part for part in (step / 5, step / 2, step, 2 * step, 5 * step) if limit / part <= 6)
    return [number * step for number in range(int(limit / step) + 1)]


def _between(low: float, high: float) -> list[float]:
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if (high - low) / step <= 6)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(min(high, 1.0) / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    found = [
        math.log10(digit * 10.0**power) for power in range(math.floor(low), math.ceil(high) + 1) for digit in (1, 2, 5)
    ]
    inside = [value for value in found if low <= value <= high]
    return inside or [low, high]


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
