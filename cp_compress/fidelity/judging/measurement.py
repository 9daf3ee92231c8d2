"""What a comparison hands on: named numbers, the samples behind them, and the examples that differ most."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from cp_compress.base.arguments import reject
from cp_compress.base.json_values import plain
from cp_compress.fidelity.judging.intervals import Evidence

_SHARE, _POSITIVE, _ANY = (0.0, 1.0), (0.0, math.inf), (-math.inf, math.inf)
METRICS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "predictions": {
        "agreement": _SHARE,
        "accuracy": _SHARE,
        "reference_accuracy": _SHARE,
        "accuracy_drop": (-1.0, 1.0),
        "max_class_accuracy_drop": (-1.0, 1.0),
        "cost": _POSITIVE,
        "newly_wrong": _SHARE,
        "newly_right": _SHARE,
        "top_k_agreement": _SHARE,
        "mean_kl": _POSITIVE,
        "mean_logit_distance": _POSITIVE,
        "ece_change": (-1.0, 1.0),
        "max_slice_accuracy_drop": (-1.0, 1.0),
        "min_slice_agreement": _SHARE,
        "exact_agreement": _SHARE,
        "mean_class_iou": _SHARE,
        "reference_mean_class_iou": _SHARE,
        "mean_class_iou_drop": (-1.0, 1.0),
        "agreement_iou": _SHARE,
    },
    "embeddings": {
        "cka": _SHARE,
        "kernel_cka": _SHARE,
        "mean_angle": (0.0, math.pi),
        "neighbor_overlap": _SHARE,
        "hardness_change": _SHARE,
        "procrustes_distance": _SHARE,
    },
    "attributions": {
        "mean_iou": _SHARE,
        "median_iou": _SHARE,
        "iou_quantile": _SHARE,
        "chance_iou": _SHARE,
        "corrected_iou": (-math.inf, 1.0),
        "agreeing_mean_iou": _SHARE,
        "rank_correlation": (-1.0, 1.0),
        "top_fraction_iou": _SHARE,
    },
    "pointing": {
        "pointing_mass": _SHARE,
        "pointing_mass_drop": (-1.0, 1.0),
        "pointing_hits": _SHARE,
        "forbidden_mass": _SHARE,
    },
    "concepts": {
        "max_concept_change": _SHARE,
        "mean_concept_change": _SHARE,
        "concept_agreement": _SHARE,
    },
    "boundaries": {
        "median_change": _POSITIVE,
        "mean_abs_log_ratio": _POSITIVE,
        "median_distance_ratio": _POSITIVE,
        "preserved_fraction": _SHARE,
        "censored_fraction": _SHARE,
    },
    "robustness": {
        "corrupted_agreement": _SHARE,
        "worst_corrupted_agreement": _SHARE,
        "corrupted_accuracy_drop": (-1.0, 1.0),
        "worst_corrupted_accuracy_drop": (-1.0, 1.0),
        "corruption_error_ratio": _POSITIVE,
    },
    "divergence": {
        "divergence_rate": _SHARE,
        "mean_queries": _POSITIVE,
        "median_linf": _POSITIVE,
        "median_l2": _POSITIVE,
    },
    "reconstruction": {
        "max_error": _POSITIVE,
        "rmse": _POSITIVE,
        "psnr": _ANY,
        "ssim": (-1.0, 1.0),
        "bytes_per_example": _POSITIVE,
    },
    "footprint": {"compression": _POSITIVE, "flops_ratio": _POSITIVE, "speedup": _POSITIVE},
}
"""The metrics of each comparison, and the values that they can take."""


def find_comparison(metric: str) -> str:
    """Return the comparison that gives a metric; raises InvalidArgumentError for one that none gives.

    A quantile over examples is written with its level: "iou_quantile_0.1".
    """
    family = _family(metric)
    for comparison, metrics in METRICS.items():
        if family in metrics:
            return comparison
    bare = family.removeprefix("min_").removeprefix("max_")
    if any(bare in metrics for metrics in METRICS.values()):
        reject("measurement", "metric", metric, f"the metric is {bare}; min_ and max_ belong to the assertions")
    known = ", ".join(name for metrics in METRICS.values() for name in metrics)
    reject("measurement", "metric", metric, f"no comparison gives it; known are {known}")


def metric_range(metric: str) -> tuple[float, float]:
    """Return the values that a metric can take; a bound outside of them asks for nothing, or for what cannot be."""
    return METRICS[find_comparison(metric)][_family(metric)]


def _family(metric: str) -> str:
    return "iou_quantile" if metric.startswith("iou_quantile_") else metric


@dataclass(frozen=True)
class ExampleChange:
    """One example that compression changed: its index in the data, true label, and what was before and after."""

    index: int
    label: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"#{self.index} (label {self.label}): {self.before} → {self.after}"


@dataclass(frozen=True)
class Measurement:
    """The result of one comparison; it knows no threshold.

    `metrics` maps names to values; `counts` gives the number of samples behind each; `evidence` the samples
    themselves where a claim about the population can be made from them. `per_example` holds tensors whose first
    dimension follows the order of the data; they are copies, so that work on them in place changes no later
    comparison. `details` is plain JSON for reports: tables by class, flips, floors.
    `notes` are sentences that a reader must see beside the numbers.
    """

    comparison: str
    metrics: Mapping[str, float]
    counts: Mapping[str, int]
    evidence: Mapping[str, Evidence] = field(default_factory=dict)
    per_example: Mapping[str, Tensor] = field(default_factory=dict)
    examples: tuple[ExampleChange, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # observations keep what they have computed for later comparisons, and must not share it with their callers
        own = {name: values.clone() for name, values in self.per_example.items()}
        object.__setattr__(self, "per_example", own)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the values an example as plain Python types."""
        return {
            "comparison": self.comparison,
            "metrics": {name: plain(value) for name, value in self.metrics.items()},
            "counts": dict(self.counts),
            "examples": [dataclasses.asdict(change) for change in self.examples],
            "details": plain(dict(self.details)),
            "notes": list(self.notes),
        }
