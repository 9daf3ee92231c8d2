"""Do two models give the same numbers, whatever these mean?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cp_compress.base.arguments import check_real, explains_keywords, reject
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.judging.intervals import Evidence, Quantile
from cp_compress.fidelity.judging.measurement import WITHOUT_SKILL, ExampleChange, Measurement, unskilled
from cp_compress.fidelity.judging.skill import FEWEST
from cp_compress.fidelity.judging.units import ClusteredQuantile, Units
from cp_compress.fidelity.observing.observation import Observation, require_observations
from cp_compress.fidelity.observing.outputs import logits_in, named_tensors
from cp_compress.fidelity.observing.pairing import check_comparable
from cp_compress.fidelity.outputs.folding import Differences, OwnMetric, fold_constant, fold_pair
from cp_compress.inputs.clusters import Clusters, joined_clusters, read_clusters
from cp_compress.inputs.distinct import identical_groups

_OWNER = "compare_outputs"
_LISTED = 20
_NAMED = 5
_MASKED = 0.5


@explains_keywords
def compare_outputs(
    candidate: Observation,
    reference: Observation,
    *,
    metric: OwnMetric | None = None,
    tolerance: float | None = None,
    quantiles: Sequence[float] = (0.5, 0.9, 0.99),
    clusters: Clusters | None = None,
) -> Measurement:
    """Measure how far the outputs of two models are apart: regressions, forecasts, images, embeddings, any tensors.

    Both models run batch by batch; of outputs of more than 256 MiB no more than a few numbers an example are kept.

    Metrics, with a the candidate's output for an example and b the reference's, all values as one vector:
    `relative_error`, the mean over examples of ‖a − b‖ / ‖b‖; `relative_error_quantile_q`, a quantile of it over
    examples for each q of `quantiles`; `worst_relative_error`, the largest one; with a `tolerance`,
    `within_tolerance`, the share of examples of which it is at most that; `sqnr` = 10 · log10(Σ ‖b‖² / Σ ‖a − b‖²) in
    dB, over all examples; `output_rmse`, the root of the mean squared difference over all values, and `output_error`,
    the largest absolute difference, in the unit of the output; with a `metric` of your own `own_error`, the mean over
    examples of what it gives. Where the reference gives nothing but zeros for an example, the root mean square of ‖b‖
    over all examples stands for its ‖b‖.

    What models give as "logits" or "out" is compared, or what the observations' `output` names; else every
    floating-point tensor (n, ...) of the output, and each metric is that of the output where it is worst. Details hold
    all metrics of each output. Places of padding, as a mask among the inputs says, and places that targets ignore do
    not count.

    Args:
        candidate: The observation of the compressed model, or of a model on compressed data.
        reference: The observation of the reference on the same examples; they need no labels.
        metric: A distance of your own: a function of the candidate's outputs and the reference's, each (k, ...), that
            returns k numbers, lower where outputs are closer.
        tolerance: The relative error that counts as within the tolerance, in (0, 1).
        quantiles: The levels, in (0, 1), of `relative_error_quantile`.
        clusters: Which examples are not independent of each other: one whole number or text an example, equal within a
            cluster, or a column of the data set's metadata. None for what the data set says itself.

    Returns:
        The measurement; `per_example` has the relative error of each example, of the output where it is worst.

    Raises:
        InvalidArgumentError: If an argument is not as described.
        ObservationError: If the observations are not of the same examples, the models give outputs of other names or
            shapes, or the reference gives the same for all of 20 examples or more.

    >>> from cp_compress.fidelity import observe
    >>> data = torch.eye(3) + 1
    >>> found = compare_outputs(observe(lambda x: 1.02 * x, data), observe(lambda x: x, data))
    >>> round(found.metrics["relative_error"], 4), round(found.metrics["sqnr"], 2)
    (0.02, 33.98)
    """
    require_observations(_OWNER, candidate=candidate, reference=reference)
    levels = [check_real(_OWNER, "quantiles", one, "levels must lie in (0, 1)", above=0, below=1) for one in quantiles]
    if tolerance is not None:
        check_real(_OWNER, "tolerance", tolerance, "must be a relative error in (0, 1)", above=0, below=1)
    if metric is not None and not callable(metric):
        reject(_OWNER, "metric", metric, "must be a function of the candidate's and the reference's outputs")
    check_comparable(candidate, reference, any_task=True, any_output=True)
    units = _units(reference, clusters)
    found = fold_pair(_OWNER, candidate, reference, metric)
    _require_different(found, len(reference))
    rows = {name: _metrics(one, levels, tolerance) for name, one in found.items()}
    metrics = _worst_of(rows)
    relative = torch.stack([one.relative for one in found.values()]).amax(0)
    largest = torch.stack([one.largest for one in found.values()]).amax(0)
    evidence = _evidence(found, rows, levels, tolerance, units)
    worst = max(rows, key=lambda name: rows[name]["relative_error"])
    notes = [] if len(rows) == 1 else [f"{len(rows)} outputs are compared; the least alike is {worst}"]
    left_out = int(sum(float(one.left_out.sum()) for one in found.values()))
    if left_out:
        notes.append(f"{left_out} values are left out, at places that a mask or the targets say do not count")
    notes += [*_mask_notes(found), *reference.remember(("left out",), lambda: _left_out(reference, list(found)))]
    own = [one.own for one in found.values() if one.own is not None]
    return Measurement(
        comparison="outputs",
        metrics=metrics,
        counts=dict.fromkeys(metrics, len(reference)),
        evidence=evidence,
        per_example={
            "relative_error": relative,
            "output_error": largest,
            **({"own_error": torch.stack(own).amax(0)} if own else {}),
        },
        examples=_changes(found, relative, reference),
        details={
            "outputs": [{"output": name, "values": int(found[name].values.sum()), **row} for name, row in rows.items()],
            "tolerance": tolerance,
            "clusters": units.to_json(),
            WITHOUT_SKILL: _without_skill(found, reference, metric, levels, tolerance),
        },
        notes=tuple(notes),
    )


def _units(reference: Observation, clusters: Clusters | None) -> Units:
    found = read_clusters(_OWNER, clusters, reference.data, len(reference))
    if found is None:
        return Units(None)
    repeated = reference.remember(("identical groups",), lambda: identical_groups(reference.data))
    return Units(joined_clusters(found, repeated))


def _require_different(found: Mapping[str, Differences], count: int) -> None:
    """Raise ObservationError where the reference's outputs do not depend on the example."""
    if count >= FEWEST and all(one.alike for one in found.values()):
        raise ObservationError(
            f"the reference gives the same outputs for all {count} examples, so that no example can tell two models "
            "apart: check how inputs are scaled, or give different examples"
        )


def _mask_notes(found: Mapping[str, Differences]) -> list[str]:
    """Return a note on each output of which a mask leaves half of all values out, or more."""
    notes = []
    for name, one in found.items():
        share = 1.0 if one.lowest is None else float(one.values.sum()) / (len(one.values) * one.lowest.numel())
        if share <= _MASKED:
            told = f"{share:.1%} of the values of {name or 'the output'} are compared"
            notes.append(f"{told}: the mask, or the targets, leave the others out")
    return notes


def _left_out(reference: Observation, compared: Sequence[str]) -> list[str]:
    """Return a note on tensors that the reference gives and that are not compared, such as whole numbers."""
    with torch.inference_mode(False), torch.no_grad(), reference.runner.evaluating():
        given = reference.runner.output(reference.data.read([0])[0])
    chosen = logits_in(given) if reference.gives_logits else None
    others = [
        f"{name} ({str(tensor.dtype).removeprefix('torch.')})"
        for name, tensor in named_tensors(given).items()
        if name and name not in compared and tensor is not chosen
    ]
    if not others:
        return []
    more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
    return [f"not compared: {', '.join(others[:_NAMED])}{more}; output= names one that is to be"]


def _without_skill(
    found: Mapping[str, Differences],
    reference: Observation,
    metric: OwnMetric | None,
    levels: Sequence[float],
    tolerance: float | None,
) -> list[dict[str, Any]]:
    """Return what a model would get that gives the reference's mean output for every example, where that is near."""
    means = {name: one.mean for name, one in found.items()}
    known = {name: mean for name, mean in means.items() if mean is not None}
    if len(known) < len(means):
        return []
    constant = fold_constant(_OWNER, reference, known, metric)
    rows = {name: _metrics(one, levels, tolerance) for name, one in constant.items()}
    told = "a model that gives the reference's mean output for every example"
    return [unskilled(told, _worst_of(rows), len(reference))]


def _worst_of(rows: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the metrics of the outputs, each of the output where it is worst."""
    names = [name for name in next(iter(rows.values())) if all(name in row for row in rows.values())]
    return {name: _worst(name, [row[name] for row in rows.values()]) for name in names}


def _metrics(found: Differences, levels: Sequence[float], tolerance: float | None) -> dict[str, float]:
    relative = found.relative
    signal, noise = float(found.reference.sum()), float(found.squared.sum())
    metrics = {
        "relative_error": float(relative.mean()),
        **{f"relative_error_quantile_{level:g}": _quantile(relative, level) for level in levels},
        "worst_relative_error": float(relative.max()),
        "sqnr": _decibels(signal, noise),
        "output_rmse": math.sqrt(noise / float(found.values.sum())),
        "output_error": float(found.largest.max()),
    }
    if tolerance is not None:
        metrics["within_tolerance"] = float((relative <= tolerance).double().mean())
    if found.own is not None:
        metrics["own_error"] = float(found.own.mean())
    return metrics


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def _quantile(values: Tensor, level: float) -> float:
    """Return the smallest value that a share `level` of all does not exceed."""
    place = max(0, math.ceil(level * len(values) - 1e-9) - 1)
    return float(np.partition(values.numpy(), place)[place])


def _worst(name: str, values: Sequence[float]) -> float:
    return min(values) if name in ("sqnr", "within_tolerance") else max(values)


def _evidence(
    found: Mapping[str, Differences],
    rows: Mapping[str, Mapping[str, float]],
    levels: Sequence[float],
    tolerance: float | None,
    units: Units,
) -> dict[str, Evidence]:
    """Return what claims are made of; of several outputs, an example counts by the one where it is worst."""
    relative = torch.stack([one.relative for one in found.values()]).amax(0)
    evidence: dict[str, Evidence] = {}
    if len(rows) == 1:
        for level in levels:
            name = f"relative_error_quantile_{level:g}"
            evidence[name] = (
                Quantile(relative.numpy(), level)
                if units.clusters is None
                else ClusteredQuantile.of(relative, units, level)
            )
    if tolerance is not None and len(rows) == 1:
        evidence["within_tolerance"] = units.share(relative <= tolerance)
    return evidence


def _changes(found: Mapping[str, Differences], relative: Tensor, reference: Observation) -> tuple[ExampleChange, ...]:
    each = {name: one.relative for name, one in found.items()}
    changes = []
    for place in torch.argsort(relative, descending=True, stable=True)[:_LISTED].tolist():
        if relative[place] <= 0:
            break
        name = max(each, key=lambda one: float(each[one][place]))
        norm = math.sqrt(float(found[name].reference[place]))
        changes.append(
            ExampleChange(
                index=place,
                label=_label(reference, place),
                before=f"{name or 'output'} of norm {norm:.4g}",
                after=f"relative error {float(relative[place]):.3g}, "
                f"at most {float(found[name].largest[place]):.3g} at one value",
            )
        )
    return tuple(changes)


def _label(reference: Observation, place: int) -> str:
    """Return an example's label in words, "none" where it has no class."""
    if reference.task == "single_label" and reference.gives_logits:
        return reference.label_name(place)
    return "none" if reference.task != "single_label" or not reference.labeled else str(int(reference.targets[place]))
