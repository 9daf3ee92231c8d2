"""The distances along rays before and after compression, summarised over examples and families."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cp_compress.base.showing.brief import Brief
from cp_compress.fidelity.judging.intervals import BoundedMean, Evidence, FloatArray, Quantile
from cp_compress.fidelity.judging.survival import kaplan_meier_median


@dataclass(frozen=True, eq=False, repr=False)
class RayPairs(Brief):
    """Distances (examples, rays) before and after, float64, and what counts as preserved.

    They are inf where a ray does not reach another class, and NaN where an example has no such ray.
    """

    before: Tensor
    after: Tensor
    tolerance: float

    @property
    def both(self) -> Tensor:
        """The rays that both models reach."""
        return torch.isfinite(self.before) & torch.isfinite(self.after)

    @property
    def either(self) -> Tensor:
        """The rays that at least one model reaches."""
        return torch.isfinite(self.before) | torch.isfinite(self.after)

    @property
    def ratio(self) -> Tensor:
        """Distance after / distance before, NaN where a ray is censored."""
        return torch.where(self.both, self.after / self.before, torch.nan)

    @property
    def change(self) -> Tensor:
        """|ratio − 1|, NaN where a ray is censored."""
        return (self.ratio - 1).abs()

    @property
    def log_ratio(self) -> Tensor:
        """|ln ratio|, NaN where a ray is censored."""
        return self.ratio.log().abs()

    @property
    def preserved(self) -> Tensor:
        """1.0 or 0.0, NaN where neither model reaches the ray."""
        kept = self.both & (self.change <= self.tolerance)
        return torch.where(self.either, kept.double(), torch.nan)

    @property
    def present(self) -> Tensor:
        """The rays that there are."""
        return ~self.before.isnan()

    @property
    def censored(self) -> Tensor:
        """1.0 where one or both models do not reach the ray, 0.0 elsewhere, NaN where there is no ray."""
        return torch.where(self.present, (~self.both).double(), torch.nan)

    def counts(self) -> dict[str, int]:
        """Return how many rays were compared, and how many of them who reaches."""
        only_before, only_after = torch.isinf(self.after) & self.either, torch.isinf(self.before) & self.either
        return {
            "compared": int(self.present.sum()),
            "reached_by_both": int(self.both.sum()),
            "reached_by_reference_only": int(only_before.sum()),
            "reached_by_candidate_only": int(only_after.sum()),
            "reached_by_neither": int((self.present & ~self.either).sum()),
        }


def summarise(pairs: RayPairs, reach: float) -> tuple[dict[str, float], dict[str, int], dict[str, Evidence]]:
    """Return metrics, counts of examples and evidence; every metric is a statistic of one number an example."""
    values = {
        "median_change": _row_medians(pairs.change),
        "mean_abs_log_ratio": pairs.log_ratio.nanmean(dim=1),
        "preserved_fraction": pairs.preserved.nanmean(dim=1),
        "censored_fraction": pairs.censored.nanmean(dim=1),
    }
    kinds: dict[str, tuple[Callable[[FloatArray], Any], Callable[[FloatArray], Evidence] | None]] = {
        "median_change": (np.median, lambda found: Quantile(found, 0.5)),
        "mean_abs_log_ratio": (np.mean, None),  # without a limit, no bound on its mean holds
        "preserved_fraction": (np.mean, BoundedMean.of),
        "censored_fraction": (np.mean, BoundedMean.of),
    }
    metrics: dict[str, float] = {}
    counts: dict[str, int] = {}
    evidence: dict[str, Evidence] = {}
    for name, (summary, support) in kinds.items():
        found = values[name][~values[name].isnan()].numpy()
        counts[name] = len(found)
        metrics[name] = float(summary(found)) if len(found) else math.nan
        if len(found) and support is not None:
            evidence[name] = support(found)
    # of all rays together: a median over examples of such medians would leave out those with few rays reached
    metrics["median_distance_ratio"] = censored_medians(pairs, reach)["ratio"]
    counts["median_distance_ratio"] = 0 if math.isnan(metrics["median_distance_ratio"]) else len(pairs.before)
    return metrics, counts, evidence


def _row_medians(values: Tensor) -> Tensor:
    return values.nanquantile(0.5, dim=1) if len(values) else values.new_empty(0)


def censored_medians(pairs: RayPairs, reach: float) -> dict[str, Any]:
    """Return the Kaplan–Meier medians of the distances before and after, with their numbers of rays and of events.

    A ray that was searched up to `reach` without an event is censored there. `ratio` is after over before, NaN where
    one of the curves does not come down to one half.
    """
    found: dict[str, Any] = {"rays": int(pairs.present.sum())}
    medians = []
    for name, distances in (("reference", pairs.before[pairs.present]), ("candidate", pairs.after[pairs.present])):
        seen = torch.isfinite(distances)
        medians.append(kaplan_meier_median(distances.clamp_max(reach), seen) if len(distances) else math.nan)
        found[name] = {"median": medians[-1], "reached": int(seen.sum())}
    found["ratio"] = medians[1] / medians[0]
    return found


def median_of(values: Tensor) -> float | None:
    """Return the median of values (n,), or None when there are none."""
    return float(values.quantile(0.5)) if len(values) else None


def _mean(values: Tensor) -> float | None:
    values = values[~values.isnan()]
    return float(values.mean()) if len(values) else None


def family_table(pairs: RayPairs, families: tuple[str, ...], reach: float) -> list[dict[str, Any]]:
    """Return, for each family of directions, its figures over all of its rays."""
    table = []
    for family in dict.fromkeys(families):
        columns = torch.tensor([position for position, name in enumerate(families) if name == family])
        part = RayPairs(pairs.before[:, columns], pairs.after[:, columns], pairs.tolerance)
        table.append(
            {
                "family": family,
                **part.counts(),
                "median_reference_distance": median_of(part.before[torch.isfinite(part.before)]),
                "median_ratio": median_of(part.ratio[part.both]),
                "censored_medians": censored_medians(part, reach),
                "mean_abs_log_ratio": _mean(part.log_ratio),
                "preserved_fraction": _mean(part.preserved),
            }
        )
    return table
