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
from cp_compress.base.numbers import number, percent

SHAPES = (
    ("pass", "pass", "●", "passes"),
    ("waived", "waived", "◆", "waived"),
    ("inconclusive", "waived", "▲", "inconclusive"),
    ("incomplete", "waived", "○", "not compared at every level"),
    ("not asserted", "quiet", "○", "not asserted"),
    ("fail", "fail", "✕", "fails"),
    ("error", "fail", "+", "error"),
    ("reference", "reference", "■", "the reference"),
)
"""Outcomes in a chart: their colour, the shape of their points, and what it says in a legend."""

_WIDTH, _HEIGHT = 420, 260
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
            title = f"class {row['class']}, {name}: {percent(row[key])} of {row['count']}"
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
    places: dict[str, list[str]] = {"point": [], "beyond": []}
    for before, after in zip(distances["before"], distances["after"], strict=True):
        shown = [limit * 1.04 if value is None else min(value, limit) for value in (before, after)]
        kind = "beyond" if before is None or after is None else "point"
        places[kind].append(f"M{plot.x(shown[0]):.0f} {plot.y(shown[1]):.0f}h0")
    for kind, moves in places.items():
        if moves:
            told = "rays on which one model has no boundary within reach" if kind == "beyond" else "rays"
            plot.mark(f'<path class="dots {kind}" d="{"".join(moves)}">', f"{len(moves)} {told}", "path")
    plot.label("distance before", "distance after")
    return plot.svg()


def accuracy_against_cost(points: Sequence[dict[str, Any]], axis: str, cost: str = "size") -> str:
    """Return accuracy (up) against a cost (across, logarithmic), with outcomes by colour and shape (Figure 7).

    Joined are those that passed and that none that passed beats in both. Where others are far less accurate, the axis
    is broken, so that they do not squash the rest.

    Args:
        points: The points, each with name, outcome, accuracy and the cost.
        axis: What the cost is, with its unit.
        cost: The key of the cost, such as "size" or "flops".
    """
    known = [(place, point) for place, point in enumerate(points, start=1) if point.get(cost)]
    costs = [math.log10(point[cost]) for _, point in known]
    low, high = min(costs), max(costs)
    pad = max(0.08, 0.08 * (high - low))
    scale = _Broken([point["accuracy"] for _, point in known], [p["accuracy"] for _, p in known if _held(p)])
    plot = _Plot(_WIDTH, (low - pad, high + pad), (0.0, 1.0), f"Accuracy against {axis}")
    for value in scale.ticks():
        plot.horizontal_lines([scale.place(value)], lambda _, value=value: _share(value))
    if scale.broken:
        plot.breaks(scale.share)
    plot.vertical_ticks(_log_ticks(low - pad, high + pad), lambda value: _plain(10**value))
    front = sorted(front_of([point for _, point in known], cost), key=lambda point: point[cost])
    for first, second in itertools.pairwise(front):
        ends = [(math.log10(point[cost]), scale.place(point["accuracy"])) for point in (first, second)]
        plot.line(*ends[0], *ends[1], kind="joined")
    spots = [(plot.x(math.log10(p[cost])), plot.y(scale.place(p["accuracy"]))) for _, p in known]
    labels = place_labels(spots, [str(place) for place, _ in known], plot.size)
    for (place, point), (x, y), (label_x, label_y) in zip(known, spots, labels, strict=True):
        told = f"{place}: {point['name']}, {point['outcome']}: accuracy {percent(point['accuracy'], digits=2)}"
        drawn = _SHAPES.get(point["outcome"], _SHAPES["fail"])
        path = drawn.format(x=f"{x:.1f}", y=f"{y:.1f}")
        plot.mark(
            f'<path class="mark {escape(point["outcome"].replace(" ", "-"))}" d="{path}">',
            f"{told}, {axis} {_plain(point[cost])}",
            "path",
        )
        plot.text(label_x, label_y + 4, str(place), "middle")
    plot.label(f"{axis} (logarithmic)", "accuracy")
    return plot.svg()


def trend_line(trend: dict[str, Any]) -> str:
    """Return the values of a metric over earlier reports as a small line, its bound dashed, the last value a dot."""
    width, height, edge = 150, 40, 6
    values: list[float | None] = [point["value"] for point in trend["points"]]
    known = [value for value in values if value is not None]
    bound = float(trend["bound"])
    low, high = min([*known, bound]), max([*known, bound])

    def up(value: float) -> float:
        return height - edge - (value - low) / ((high - low) or 1) * (height - 2 * edge)

    step = (width - 2 * edge) / max(1, len(values) - 1)
    spots = [(edge + place * step, up(value)) for place, value in enumerate(values) if value is not None]
    told = "; ".join(f"{point['created']}: {number(point['value'], trend['bound'])}" for point in trend["points"])
    title = escape(printable_line(f"{trend['metric']}, bound {number(trend['bound'])}: {told}"))
    y = f"{up(trend['bound']):.1f}"
    parts = [f'<line class="guide" x1="{edge}" y1="{y}" x2="{width - edge}" y2="{y}"/>']
    if spots:
        parts.append(f'<polyline class="trend" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in spots)}"/>')
        x, y = (f"{value:.1f}" for value in spots[-1])
        parts.append(f'<circle class="last {escape(trend["outcome"])}" cx="{x}" cy="{y}" r="3.5"/>')
    head = f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{title}"><title>{title}</title>'
    return f"{head}{''.join(parts)}</svg>"


def front_of(points: Sequence[dict[str, Any]], cost: str = "size") -> list[dict[str, Any]]:
    """Return the points that passed and that none that passed beats in accuracy and cost; the reference counts."""
    passed = [point for point in points if _held(point) and point.get(cost)]
    return [point for point in passed if not any(_beats(other, point, cost) for other in passed)]


def place_labels(
    spots: Sequence[tuple[float, float]], texts: Sequence[str], size: tuple[int, int]
) -> list[tuple[float, float]]:
    """Return the centres of labels, each beside its spot, none on another label or spot where there is room.

    Args:
        spots: The spots (x, y) in pixels.
        texts: Their labels.
        size: Width and height of the figure.
    """
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in spots]
    found = []
    for (x, y), text in zip(spots, texts, strict=True):
        half = 3.5 * len(text) + 2
        choices = []
        for reach in (11, 19, 28, 38, 50, 64):
            for turn in range(8):
                angle = math.pi * (turn / 4 - 0.25)
                centre = x + (reach + half - 6) * math.cos(angle), y - reach * math.sin(angle) * 0.95
                box = (centre[0] - half, centre[1] - 6, centre[0] + half, centre[1] + 6)
                inside = box[0] > _LEFT and box[2] < size[0] and box[1] > 0 and box[3] < size[1] - _BOTTOM
                covered = sum(_overlap(box, other) for other in taken) + (0 if inside else 1000)
                choices.append((covered, reach, turn, centre, box))
        best = min(choices, key=lambda choice: choice[:3])
        found.append(best[3])
        taken.append(best[4])
    return found


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    across: float = min(one[2], other[2]) - max(one[0], other[0])
    up: float = min(one[3], other[3]) - max(one[1], other[1])
    return across * up if across > 0 and up > 0 else 0.0


def _held(point: dict[str, Any]) -> bool:
    return point["outcome"] in ("pass", "reference")


def _beats(other: dict[str, Any], point: dict[str, Any], cost: str) -> bool:
    """Tell whether another is no worse in both, and better in one."""
    no_worse = other[cost] <= point[cost] and other["accuracy"] >= point["accuracy"]
    return bool(no_worse and (other[cost] < point[cost] or other["accuracy"] > point["accuracy"]))


class _Broken:
    """An axis of accuracy: linear over those that count, and a strip below for others that are far less accurate."""

    share = 0.2

    def __init__(self, values: Sequence[float], focus: Sequence[float]) -> None:
        main = focus or values
        span = max(max(main) - min(main), 0.01)
        self._low = max(0.0, min(main) - 0.25 * span)
        self._high = min(1.0, max(main) + 0.25 * span)
        lowest = min(values)
        self.broken = lowest < self._low - 2 * span
        if lowest < self._low and not self.broken:
            self._low = max(0.0, lowest - 0.1 * span)
        self._lowest = max(0.0, math.floor(lowest * 20 - 1e-9) / 20)

    def place(self, value: float) -> float:
        """Return where an accuracy lies on the axis, from 0 to 1."""
        if not self.broken:
            return (value - self._low) / ((self._high - self._low) or 1)
        if value < self._low:
            return (self.share - 0.05) * (value - self._lowest) / ((self._low - self._lowest) or 1)
        return self.share + (1 - self.share) * (value - self._low) / ((self._high - self._low) or 1)

    def ticks(self) -> list[float]:
        """Return the accuracies to write beside the axis."""
        above = _between(self._low, self._high)
        return [self._lowest, *above] if self.broken else above


_SHAPES = {
    "pass": "M{x} {y}m-5.5 0a5.5 5.5 0 1 0 11 0a5.5 5.5 0 1 0 -11 0z",
    "waived": "M{x} {y}m0 -6.5l6.5 6.5l-6.5 6.5l-6.5 -6.5z",
    "inconclusive": "M{x} {y}m0 -6l6 11h-12z",
    "fail": "M{x} {y}m-5 -5l10 10m0 -10l-10 10",
    "error": "M{x} {y}m-6.5 0h13m-6.5 -6.5v13",
    "not asserted": "M{x} {y}m-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z",
    "incomplete": "M{x} {y}m-5.5 0a5.5 5.5 0 1 0 11 0a5.5 5.5 0 1 0 -11 0z",
    "reference": "M{x} {y}m-5 -5h10v10h-10z",
}


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

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    def breaks(self, share: float) -> None:
        """Mark that the axis up is broken at a share of its height."""
        y = self.y(share - 0.025)
        self._parts.append(
            f'<path class="break" d="M{_LEFT - 8} {y + 3:.1f}l16 -6M{_LEFT - 8} {y + 8:.1f}l16 -6">'
            "<title>the axis is broken here</title></path>"
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str = "guide") -> None:
        ends = f'x1="{self.x(x1):.1f}" y1="{self.y(y1):.1f}" x2="{self.x(x2):.1f}" y2="{self.y(y2):.1f}"'
        self._parts.append(f'<line class="{kind}" {ends}/>')

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
    step = next(step for step in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if (high - low) / step <= 6)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(min(high, 1.0) / step + 1e-9) + 1)]


def _share(value: float) -> str:
    return f"{100 * value:.4g}%"


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
