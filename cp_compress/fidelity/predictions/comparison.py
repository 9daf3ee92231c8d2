"""Level A: do the predictions stay the same, and which classes lose where they do not?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cp_compress.base.arguments import check_integer, explains_keywords, reject
from cp_compress.fidelity.judging.batches import with_batches
from cp_compress.fidelity.judging.groups import LargestDrop, SmallestShare
from cp_compress.fidelity.judging.intervals import Evidence
from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.judging.units import Units
from cp_compress.fidelity.observing.observation import Observation, require_observations
from cp_compress.fidelity.observing.pairing import check_comparable
from cp_compress.fidelity.predictions.class_distances import (
    ClassDistance,
    Weights,
    as_change_costs,
    as_example_weights,
    check_class_distance,
)
from cp_compress.fidelity.predictions.output_changes import (
    PROBABILITIES_NOTE,
    as_log_probabilities,
    by_blocks,
    divergence_from,
    expected_calibration_error,
    logit_distance,
    require_equal_outputs,
    top_class_overlap,
)
from cp_compress.fidelity.predictions.structured import compare_structured
from cp_compress.fidelity.predictions.tables import (
    Slices,
    class_drops,
    class_table,
    deciding_counts,
    flip_table,
    flipped_examples,
    paired_drop,
    read_slices,
    slice_table,
)
from cp_compress.inputs.clusters import Clusters, joined_clusters, read_clusters
from cp_compress.inputs.distinct import identical_groups

_OWNER = "compare_predictions"
_LISTED_CLASSES = 8


@explains_keywords
def compare_predictions(
    candidate: Observation,
    reference: Observation,
    *,
    class_distance: ClassDistance | None = None,
    weights: Weights | None = None,
    slices: Slices | None = None,
    top_k: int = 5,
    clusters: Clusters | None = None,
    min_class_examples: int = 1,
) -> Measurement:
    """Measure how far a candidate's predictions are those of its reference.

    Metrics: `agreement`, the fraction of equal predictions; `reference_accuracy`, `accuracy`; `accuracy_drop` =
    reference_accuracy − accuracy; `max_class_accuracy_drop`, the largest drop within a true class; `cost`, the weighted
    mean distance from the reference's class to the candidate's: Δ_{μ,d} of Joseph et al. 2020, section II-A, with μ the
    weights and d the class distance; `newly_wrong` and `newly_right`, the fractions of examples that only the
    reference, or only the candidate, predicts correctly; `top_k_agreement`, the mean fraction of the reference's
    `top_k` top classes (at most classes − 1) that are among the candidate's; `mean_kl`, the mean divergence from the
    reference's probabilities in nats; `mean_logit_distance`, the mean L2 distance of logits, each row less its mean;
    `ece_change`, the candidate's expected calibration error less the reference's; with slices `max_slice_accuracy_drop`
    and `min_slice_agreement`.

    The count of `cost` is the effective sample size (Σw)² / Σw², that of a metric of the worst slice is the count of
    that slice. With unequal weights the cost is a value on the given data only, without a claim about the population.

    Data of multi-label, dense and sequence tasks (`TaskDataset`) is measured as `compare_structured` describes.

    Args:
        candidate: The observation of the compressed model, or of a model on compressed data.
        reference: The observation of the reference on the same examples.
        class_distance: The cost of a change from one class to another: a matrix (classes, classes), such as those of
            `tree_distance` and `embedding_distance`, or groups such as {"animals": [2, 3], "vehicles": [0, 1]} (indices
            or class names, every class in one group, none empty), by which a change costs 1 between groups and 0 within
            one. By default every change costs 1; distances that are all 0 are refused.
        weights: The weight of each example: one number per example, or a mapping from class (index or name) to weight,
            with 1 for classes not named.
        slices: Named subsets of the examples, as masks (n,) or indices.
        top_k: The number of top classes of `top_k_agreement`.
        clusters: Which examples are not independent of each other, such as those of a patient: one whole number or text
            an example, equal within a cluster, or a column of the data set's metadata. Claims are then about clusters.
            None for what the data set says itself.
        min_class_examples: Classes with fewer examples have no part in `max_class_accuracy_drop`, which a note says.

    Returns:
        The measurement, with tables by class, slice and pair of classes, and the changed examples.

    Raises:
        InvalidArgumentError: If a distance, weight, slice or cluster is not as described.
        ObservationError: If the observations are not of the same labelled examples.
    """
    require_observations(_OWNER, candidate=candidate, reference=reference)
    check_class_distance(class_distance)
    rule = "must be a whole number of 1 or more"
    top_k = check_integer(_OWNER, "top_k", top_k, rule, at_least=1)
    check_integer(_OWNER, "min_class_examples", min_class_examples, rule, at_least=1)
    check_comparable(candidate, reference, any_task=True)
    if reference.task != "single_label":
        if class_distance is not None or weights is not None:
            rule = f"costs need one class per example, not a {reference.task} task"
            reject(_OWNER, "class_distance, weights", "given", rule)
        if min_class_examples > 1:
            reject(
                _OWNER, "min_class_examples", min_class_examples, f"needs one class per example, not {reference.task}"
            )
        units = _units(reference, clusters)
        found = compare_structured(candidate, reference, read_slices(_OWNER, slices, len(reference)), units)
        return with_batches(found, candidate, reference)
    names = reference.class_names
    change_costs = as_change_costs(class_distance, names)
    shares = as_example_weights(weights, reference.labels, names)
    subsets = read_slices(_OWNER, slices, len(reference))
    units = _units(reference, clusters)
    top = min(top_k, len(names) - 1)
    before, after, labels = reference.predictions, candidate.predictions, reference.labels
    same = before == after
    costs = change_costs.of(before, after)
    right_before, right_after = before == labels, after == labels
    drop = paired_drop(right_before, right_after)
    by_class = class_drops(right_before, right_after, labels, units, at_least=min_class_examples)
    total = len(labels)
    outputs = candidate.logits, reference.logits
    probabilities = require_equal_outputs(*outputs)
    overlap = top_class_overlap(*outputs, top)
    divergence, moved = (_by_logits(measure, outputs, probabilities) for measure in (divergence_from, logit_distance))
    calibration = [
        expected_calibration_error(seen.logits, labels, probabilities=probabilities) for seen in (reference, candidate)
    ]
    metrics = {
        "agreement": same.double().mean().item(),
        "reference_accuracy": right_before.double().mean().item(),
        "accuracy": right_after.double().mean().item(),
        "accuracy_drop": (drop.lost - drop.gained) / total,
        "max_class_accuracy_drop": max(one.value for one in by_class.values()),
        "cost": float((shares * costs).sum() / shares.sum()),
        "newly_wrong": drop.lost / total,
        "newly_right": drop.gained / total,
        "top_k_agreement": float(overlap.mean()),
        "mean_kl": float(divergence.mean()),
        "mean_logit_distance": float(moved.mean()),
        "ece_change": calibration[1] - calibration[0],
    }
    evidence: dict[str, Evidence] = {
        "agreement": units.share(same),
        "reference_accuracy": units.share(right_before),
        "accuracy": units.share(right_after),
        "accuracy_drop": units.drop(right_before, right_after),
        "max_class_accuracy_drop": LargestDrop(tuple(by_class.values()), tuple(names[index] for index in by_class)),
        "newly_wrong": units.share(right_before & ~right_after),
        "newly_right": units.share(~right_before & right_after),
        "top_k_agreement": units.mean(overlap),
    }
    if bool((shares == shares[0]).all()):
        # unequal weights may go with the costs: a sample without the heavy examples would claim too much
        evidence["cost"] = units.mean(costs, 0.0, change_costs.largest)
    if subsets:
        drops = [units.among(members).drop(right_before[members], right_after[members]) for members in subsets.values()]
        agreements = [units.among(members).share(same[members]) for members in subsets.values()]
        metrics["max_slice_accuracy_drop"] = max(drop.value for drop in drops)
        metrics["min_slice_agreement"] = min(share.value for share in agreements)
        evidence["max_slice_accuracy_drop"] = LargestDrop(tuple(drops), tuple(subsets))
        evidence["min_slice_agreement"] = SmallestShare(tuple(agreements), tuple(subsets))
    slice_rows = slice_table(same, right_before, right_after, subsets)
    effective = round(float(shares.sum() ** 2 / (shares**2).sum()))
    found = Measurement(
        comparison="predictions",
        metrics=metrics,
        counts={**dict.fromkeys(metrics, total), "cost": effective, **deciding_counts(slice_rows)},
        evidence=evidence,
        per_example={
            "same": same,
            "before": before,
            "after": after,
            "cost": costs,
            "kl": divergence,
            "logit_distance": moved,
            "top_k_overlap": overlap,
        },
        examples=flipped_examples(candidate, reference, costs * shares, names, probabilities=probabilities),
        details={
            "classes": class_table(right_before, right_after, labels, names),
            "slices": slice_rows,
            "clusters": units.to_json(),
            "flips": flip_table(before, after, labels, names),
            "newly_wrong": (right_before & ~right_after).nonzero().flatten().tolist(),
            "newly_right": (~right_before & right_after).nonzero().flatten().tolist(),
            "top_k": top,
            "calibration_error": {"reference": calibration[0], "candidate": calibration[1]},
        },
        notes=(*((PROBABILITIES_NOTE,) if probabilities else ()), *_small_classes(labels, names, min_class_examples)),
    )
    return with_batches(found, candidate, reference)


def _small_classes(labels: Tensor, names: tuple[str, ...], at_least: int) -> tuple[str, ...]:
    """Return the note that names classes of too few examples to count, where there are any."""
    counts = torch.bincount(labels, minlength=len(names))
    small = ((counts > 0) & (counts < at_least)).nonzero().flatten().tolist()
    if not small:
        return ()
    listed = ", ".join(names[index] for index in small[:_LISTED_CLASSES])
    more = f" and {len(small) - _LISTED_CLASSES} more" if len(small) > _LISTED_CLASSES else ""
    return (
        f"with fewer than {at_least} examples, these classes have no part in max_class_accuracy_drop: {listed}{more}",
    )


def _by_logits(measure: Callable[..., Tensor], outputs: tuple[Tensor, Tensor], probabilities: bool) -> Tensor:
    if not probabilities:
        return by_blocks(measure, *outputs)
    return by_blocks(lambda *blocks: measure(*map(as_log_probabilities, blocks)), *outputs)


def _units(reference: Observation, clusters: Clusters | None) -> Units:
    """Return what claims are about: each example, or the clusters, of which those that share an input are one."""
    found = read_clusters(_OWNER, clusters, reference.data, len(reference))
    if found is None:
        return Units(None)
    repeated = reference.remember(("identical groups",), lambda: identical_groups(reference.data))
    return Units(joined_clusters(found, repeated))
