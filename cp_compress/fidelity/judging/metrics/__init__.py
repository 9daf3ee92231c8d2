"""Which metrics are there? Each is declared once, in a module of its subject, and found here by name.

Requirements, the arguments of assertions, the tables of a specification, proposals of bounds, the command line and the
tables of the documentation follow from the declaration. Nothing heavy is imported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from cp_compress.base.arguments import nearest, reject
from cp_compress.base.extensions import added
from cp_compress.fidelity.judging.metric import Metric
from cp_compress.fidelity.judging.metrics.behaviour import (
    ATTRIBUTIONS,
    BOUNDARIES,
    CONCEPTS,
    DIVERGENCE,
    EMBEDDINGS,
    POINTING,
    ROBUSTNESS,
)
from cp_compress.fidelity.judging.metrics.found import DETECTIONS, RETRIEVAL
from cp_compress.fidelity.judging.metrics.language import GENERATION, LANGUAGE
from cp_compress.fidelity.judging.metrics.outputs import OUTPUTS
from cp_compress.fidelity.judging.metrics.predictions import PREDICTIONS
from cp_compress.fidelity.judging.metrics.sizes import END_TO_END, FOOTPRINT, RECONSTRUCTION

_LISTED = 6

METRICS: Mapping[str, Mapping[str, Metric]] = {
    "predictions": PREDICTIONS,
    "embeddings": EMBEDDINGS,
    "language": LANGUAGE,
    "retrieval": RETRIEVAL,
    "detections": DETECTIONS,
    "generation": GENERATION,
    "attributions": ATTRIBUTIONS,
    "pointing": POINTING,
    "concepts": CONCEPTS,
    "boundaries": BOUNDARIES,
    "robustness": ROBUSTNESS,
    "divergence": DIVERGENCE,
    "outputs": OUTPUTS,
    "reconstruction": RECONSTRUCTION,
    "footprint": FOOTPRINT,
    "end_to_end": END_TO_END,
}
"""The metrics of each comparison of this package, by name."""


def known_metrics() -> Mapping[str, Mapping[str, Metric]]:
    """Return the metrics of each comparison, those of comparisons that users have added included."""
    own = {name: {metric.name: metric for metric in one.metrics} for name, one in added("comparison").items()}
    return {**METRICS, **own}


def known_metric(name: str) -> Metric | None:
    """Return the metric of a name, or None for one that no comparison gives.

    >>> known_metric("iou_quantile_0.1").argument
    'min_iou_quantile'
    """
    for metrics in known_metrics().values():
        for metric in metrics.values():
            if metric.name == name or (metric.leveled and name.startswith(f"{metric.name}_")):
                return metric
    return None


def find_metric(name: str) -> Metric:
    """Return the metric of a name; raises InvalidArgumentError for one that no comparison gives.

    A quantile over examples is written with its level: "iou_quantile_0.1".
    """
    metric = known_metric(name)
    if metric is not None:
        return metric
    names = _metric_names()
    bare = name.removeprefix("min_").removeprefix("max_")
    if bare != name and bare in names:
        reject("measurement", "metric", name, f"the metric is {bare}; min_ and max_ belong to the assertions")
    counted = (
        f"known are {', '.join(names[:_LISTED])} and {len(names) - _LISTED} more: see `cp-compress compare --help`"
    )
    reject("measurement", "metric", name, f"no comparison gives it; {near_metrics(name) or counted}")


_ALSO_CALLED = {
    "compression": ("size", "bytes", "memory", "ratio", "compression_ratio", "size_ratio"),
    "speedup": ("latency", "time", "throughput"),
    "flops_ratio": ("flops", "macs", "operations"),
    "mean_iou": ("jaccard",),
    "accuracy_drop": ("error", "loss", "degradation"),
    "accuracy": ("top1", "top_1"),
    "agreement": ("top1", "top_1", "fidelity", "match"),
    "cka": ("similarity", "embedding_similarity"),
    "token_kl": ("kld",),
}
"""What else people call a metric."""


def near_metrics(name: str) -> str:
    """Return which metrics a name may stand for that is none, also as the argument of an assertion or in short.

    >>> near_metrics("min_agrement"), near_metrics("iou")
    ('did you mean agreement?', 'did you mean mean_iou or median_iou or iou_quantile_0.1?')
    """
    bare = name.removeprefix("min_").removeprefix("max_")
    other = [known for known, words in _ALSO_CALLED.items() if bare.lower() in words]
    near = other or nearest(bare, [one for one in _metric_names() if _can_be_required(one)])
    told = [f"{one}_0.1" if getattr(known_metric(one), "leveled", False) else one for one in near]
    return f"did you mean {' or '.join(told)}?" if told else ""


def _can_be_required(name: str) -> bool:
    metric = known_metric(name)
    return metric is not None and metric.direction is not None


def _metric_names() -> list[str]:
    return [one.name for metrics in known_metrics().values() for one in metrics.values()]


def check_level(owner: str, name: str, metric: Metric) -> None:
    """Raise InvalidArgumentError unless the name of a metric of a family ends with a level in (0, 1)."""
    if not metric.leveled:
        return
    try:
        level = float(name.removeprefix(f"{metric.name}_"))
    except ValueError:
        level = math.nan
    if not 0 < level < 1:
        reject(owner, "metric", name, f"must end with the level of the quantile, in (0, 1), as {metric.name}_0.1 does")


def find_comparison(metric: str) -> str:
    """Return the name of the comparison that gives a metric; raises InvalidArgumentError for one that none gives."""
    found = find_metric(metric)
    return next(name for name, metrics in known_metrics().items() if found in metrics.values())


def without_labels(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return those metrics that do not rest on labels.

    >>> without_labels({"agreement": 0.9, "accuracy": 0.8})
    {'agreement': 0.9}
    """
    return {
        name: value
        for name, value in metrics.items()
        if getattr(known_metric(name), "rests_on", None) not in ("labels", "classes")
    }
