"""How much of a metric's change is noise: the same comparison between references that ought to be equivalent."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cp_compress.base.arguments import explains_keywords, reject
from cp_compress.base.json_values import plain
from cp_compress.base.showing.brief import Brief
from cp_compress.base.showing.tables import number, table
from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.observing.observation import Observation, as_observations


@explains_keywords
@dataclass(frozen=True, repr=False)
class NoiseFloor(Brief):
    """What each metric is between equivalent references: `values` hold one number for each ordered pair."""

    comparison: str
    values: Mapping[str, tuple[float, ...]]

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [(f"{self.comparison}, noise", "mean", "smallest", "largest", "pairs")]
        for name, row in self.to_json().items():
            figures = (float(row[key]) for key in ("mean", "smallest", "largest"))
            rows.append((name, *map(number, figures), str(row["pairs"])))
        return table(rows)

    def to_json(self) -> dict[str, Any]:
        """Return the mean, smallest and largest value and the number of pairs of each metric, as plain Python types."""
        rows = {}
        for name, values in self.values.items():
            known = [value for value in values if not math.isnan(value)]
            rows[name] = {
                "mean": float(np.mean(known)) if known else math.nan,
                "smallest": min(known, default=math.nan),
                "largest": max(known, default=math.nan),
                "pairs": len(known),
            }
        found: dict[str, Any] = plain(rows)
        return found

    def beside(self, measurement: Measurement) -> Measurement:
        """Return a measurement of the same comparison with the floor of each metric in `details["noise_floor"]`.

        Raises InvalidArgumentError for a measurement of another comparison.
        """
        if measurement.comparison != self.comparison:
            reject("NoiseFloor", "measurement", measurement.comparison, f"the floor is one of {self.comparison}")
        return replace(measurement, details={**measurement.details, "noise_floor": self.to_json()})


@explains_keywords
def noise_floor(references: Sequence[Observation], compare: Callable[..., Measurement], **options: Any) -> NoiseFloor:
    """Return what a comparison finds between references that are equally good.

    `references` are two observations or more, of the same examples: networks trained from other seeds, or one network
    in other number formats or layouts; `compare` is a comparison such as `compare_predictions`, called with every
    ordered pair and `options`. A candidate whose metric lies within its floor differs from the reference no more than
    the references differ from each other.

    Raises InvalidArgumentError for fewer than two references, and what the comparison raises.

    >>> from cp_compress.examples import digits, digits_cnn
    >>> from cp_compress.fidelity import compare_predictions, observe
    >>> from cp_compress.model import Quantize
    >>> model, data = digits_cnn(), digits()
    >>> same = [observe(model, data), observe(Quantize("float16").compress(model), data)]
    >>> floor = noise_floor(same, compare_predictions)
    >>> floor.to_json()["agreement"]["pairs"], floor.to_json()["agreement"]["smallest"] > 0.99
    (2, True)
    """
    seen = as_observations("noise_floor", "references", references, at_least=2)
    if not callable(compare):
        reject(
            "noise_floor", "compare", compare, "must be a comparison of two observations, such as compare_predictions"
        )
    pairs = [compare(one, other, **options) for one, other in itertools.permutations(seen, 2)]
    names = pairs[0].metrics
    values = {name: tuple(pair.metrics.get(name, math.nan) for pair in pairs) for name in names}
    return NoiseFloor(pairs[0].comparison, values)
