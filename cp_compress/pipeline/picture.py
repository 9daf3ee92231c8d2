"""The profiles of pipelines as a picture: one bar each, of what every stage adds to the time of an example, as SVG."""

from __future__ import annotations

from html import escape

from cp_compress.base.error_reasons import printable_line
from cp_compress.base.showing.tables import number
from cp_compress.pipeline.results import OTHER, PipelineComparison, PipelineProfile

# of Okabe and Ito, which the colour-blind can tell apart
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")
_LEFT, _WIDTH, _BAR, _STEP, _HEAD, _FOOT = 230, 560, 20, 34, 40, 46
_LONGEST = 34


def draw(comparison: PipelineComparison) -> str:
    """Return an SVG document with one bar for each pipeline, of microseconds an example, and a legend.

    A stage that workers do counts with its share of them. Where loading and computing overlap they have a bar each, one
    above the other: the longer one decides.
    """
    names = comparison.stages
    colours = {name: _COLOURS[place % len(_COLOURS)] for place, name in enumerate([*names, OTHER])}
    rows = [(one, lines) for one in comparison.profiles for lines in [_lines(one)]]
    longest = max(sum(value for _, value in line) for _, lines in rows for line in lines) or 1.0
    height = _HEAD + _STEP * len(rows) + _FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 110}" height="{height}" role="img" '
        f'font-family="sans-serif" font-size="12"><title>Microseconds an example, by stage</title>'
        f'<rect width="100%" height="100%" fill="#ffffff"/>'
    ]
    across = 8
    for name in [*names, OTHER]:
        parts.append(f'<rect x="{across}" y="12" width="12" height="12" fill="{colours[name]}"/>')
        parts.append(f'<text x="{across + 16}" y="22">{_text(name)}</text>')
        across += 30 + 7 * len(name)
    for place, (one, lines) in enumerate(rows):
        top = _HEAD + place * _STEP
        thick = _BAR / len(lines)
        parts.append(f'<text x="{_LEFT - 8}" y="{top + 14}" text-anchor="end">{_text(one.name)}</text>')
        for row, line in enumerate(lines):
            start = float(_LEFT)
            for name, value in line:
                width = _WIDTH * value / longest
                parts.append(
                    f'<rect x="{start:.1f}" y="{top + row * thick:.1f}" width="{width:.1f}" height="{thick:.1f}" '
                    f'fill="{colours[name]}"><title>{_text(f"{one.name}, {name}: {number(value)} µs an example")}'
                    "</title></rect>"
                )
                start += width
        told = f"{number(round(one.examples_per_second))} examples/s"
        ends = _LEFT + _WIDTH * max(sum(value for _, value in line) for line in lines) / longest
        parts.append(f'<text x="{min(ends + 6, _LEFT + _WIDTH + 4):.1f}" y="{top + 14}">{told}</text>')
    bottom = _HEAD + _STEP * len(rows) + 14
    parts.append(f'<text x="{_LEFT}" y="{bottom}">0</text>')
    parts.append(f'<text x="{_LEFT + _WIDTH}" y="{bottom}" text-anchor="end">{number(longest)} µs an example</text>')
    return "".join([*parts, "</svg>\n"])


def _lines(one: PipelineProfile) -> list[list[tuple[str, float]]]:
    """Return the microseconds an example of each stage: of loading and computing apart where they overlap."""

    def part(names: list[str]) -> list[tuple[str, float]]:
        return [(name, 1e6 * one.shares[name] * one.seconds / one.examples) for name in names]

    loading = part(list(one.loading))
    computing = part([name for name in one.stages if name not in one.loading])
    computing.append((OTHER, 1e6 * one.other / one.examples))
    return [loading, computing] if one.overlapping else [loading + computing]


def _text(text: str) -> str:
    shown = printable_line(text)
    return escape(shown if len(shown) <= _LONGEST or "µs" in shown else f"{shown[: _LONGEST - 1]}…")
