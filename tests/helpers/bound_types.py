"""The types of the bounds that assertions take, written from the declarations of the metrics."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator

from cp_compress.fidelity.comparisons import COMPARISONS
from cp_compress.fidelity.judging.metric import Metric, bound_arguments

_WIDTH = 110
_HEADER = '''\
"""The bounds that each assertion takes, as types for checkers and editors.

`make schemas` writes this file from the metrics that `cp_compress.fidelity.judging.metrics` declares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from typing_extensions import TypedDict
'''
_DEPLOYED = [
    "",
    "    deployed_batch_size: int | None",
    '    """No bound: the batch size of the deployed model, to which forward passes are held."""',
]
_OUTPUT = [
    "",
    "    output: str | int | Callable[[Any], Any] | None",
    '    """No bound: the part of what the models give that is compared."""',
]


def bounds_text() -> str:
    """Return the source of `pytest_cp/assertions/bounds.py`."""
    parts = [_HEADER]
    for name, comparison in COMPARISONS.items():
        kind = "".join(part.capitalize() for part in name.split("_"))
        lines = [f"class {kind}Bounds(TypedDict, total=False):", f'    """The bounds of {name}."""']
        if comparison.kind in ("behaviour", "streamed"):
            lines += [*_DEPLOYED, *_OUTPUT]
        for argument, metric in bound_arguments(comparison.metrics).items():
            kind = "tuple[float, float]" if metric.leveled else "float"
            lines += ["", f"    {argument}: {kind} | None", *_described(metric)]
        parts.append("\n".join(lines) + "\n")
    return "\n\n".join(parts)


def _described(metric: Metric) -> Iterator[str]:
    low, high = (f"{bound:.4g}" if math.isfinite(bound) else "inf" for bound in (metric.low, metric.high))
    limits = f"in [{metric.low:.4g}, {high}]" if math.isfinite(metric.low) else f"at most {high}"
    if low == high == "inf":
        limits = "any number"
    side = "At least" if metric.direction == "min" else "At most"
    unit = f", in {metric.unit}" if metric.unit else ""
    pair = " A pair: the level of the quantile, in (0, 1), and its bound." if metric.leveled else ""
    text = f'"""{side} this ({limits}{unit}). {metric.sentence}{pair}'
    lines = textwrap.wrap(text, _WIDTH)
    yield from (f"    {line}" for line in [*lines[:-1], lines[-1] + '"""'])
