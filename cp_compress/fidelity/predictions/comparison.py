"""Level A: do the predictions stay the same, and which classes lose where they do not?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cp_compress.base.arguments import check_integer, explains_keywords, reject
from cp_compress.fidelity.judging.batches import with_batches
from cp_compress.fidelity.judging.groups import LargestDrop, SmallestShare
from cp_compress.fidelity.judging.intervals import Evidence
from cp_compress.fidelity.judging.measurement import NOT_KNOWN, Measurement
from cp_compress.fidelity.judging.metrics import METRICS
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
from cp_compress.fidelity.predictions.known_outputs import measure_outputs
from cp_compress.fidelity.predictions.output_changes import PROBABILITIES_NOTE, calibration_error
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
from cp_compress.inputs.unlabeled import NO_LABELS_NOTE

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

    Of data without labels, what is measured against labels is left out: accuracies and their drops, `newly_wrong`,
    `newly_right`, `ece_change`.

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
    labeled = reference.labeled
    if isinstance(weights, Mapping):
        reference.data.require_labels("weights by class")
    if min_class_examples > 1:
        reference.data.require_labels("min_class_examples")
    shares = as_example_weights(weights, reference.targets, names)
    subsets = read_slices(_OWNER, slices, len(reference))
    units = _units(reference, clusters)
    top = min(top_k, len(names) - 1)
    before, after, labels = reference.predictions, candidate.predictions, reference.targets if labeled else None
    same = before == after
    costs = change_costs.of(before, after)
    total = len(same)
    outputs = measure_outputs(candidate, reference, top)
    moved = {"kl": outputs.kl, "logit_distance": outputs.distance}
    metrics = {
        "agreement": same.double().mean().item(),
        "cost": float((shares * costs).sum() / shares.sum()),
        "top_k_agreement": float(outputs.overlap.mean()),
        **{f"mean_{name}": float(each.mean()) for name, each in moved.items() if each is not None},
    }
    evidence: dict[str, Evidence] = {"agreement": units.share(same), "top_k_agreement": units.mean(outputs.overlap)}
    if bool((shares == shares[0]).all()):
        # unequal weights may go with the costs: a sample without the heavy examples would claim too much
        evidence["cost"] = units.mean(costs, 0.0, change_costs.largest)
    right = None if labels is None else (before == labels, after == labels)
    if subsets:
        agreements = [units.among(members).share(same[members]) for members in subsets.values()]
        metrics["min_slice_agreement"] = min(share.value for share in agreements)
        evidence["min_slice_agreement"] = SmallestShare(tuple(agreements), tuple(subsets))
    by_labels: dict[str, Any] = {}
    if right is not None and labels is not None:
        truth = _Truth(labels, *right, units, names, min_class_examples)
        calibration = {
            who: calibration_error(outputs.confidence[who], known)
            for who, known in zip(("reference", "candidate"), right, strict=True)
        }
        values, claims = truth.compare(subsets)
        metrics |= {**values, "ece_change": calibration["candidate"] - calibration["reference"]}
        evidence |= claims
        by_labels = {**truth.details(), "calibration_error": calibration}
    metrics = {name: metrics[name] for name in METRICS["predictions"] if name in metrics}
    slice_rows = slice_table(same, right, subsets)
    effective = round(float(shares.sum() ** 2 / (shares**2).sum()))
    measured = Measurement(
        comparison="predictions",
        metrics=metrics,
        counts={**dict.fromkeys(metrics, total), "cost": effective, **deciding_counts(slice_rows)},
        evidence=evidence,
        per_example={
            "same": same,
            "before": before,
            "after": after,
            "cost": costs,
            **{name: each for name, each in moved.items() if each is not None},
            "top_k_overlap": outputs.overlap,
        },
        examples=flipped_examples(candidate, reference, costs * shares, outputs.confidence["reference"]),
        details={
            "classes": [],
            "slices": slice_rows,
            "clusters": units.to_json(),
            "flips": flip_table(before, after, labels, names),
            "top_k": top,
            **by_labels,
            **({NOT_KNOWN: dict(outputs.unknown)} if outputs.unknown else {}),
        },
        notes=(
            *((PROBABILITIES_NOTE,) if outputs.probabilities else ()),
            *outputs.notes,
            *(() if labels is None else _small_classes(labels, names, min_class_examples)),
            *(() if labeled else (NO_LABELS_NOTE,)),
        ),
    )
    return with_batches(measured, candidate, reference)


@dataclass(frozen=True, eq=False)
class _Truth:
    """What labels (n,) say of the answers of both models, and how many examples a class must have to count."""

    labels: Tensor
    right_before: Tensor
    right_after: Tensor
    units: Units
    names: tuple[str, ...]
    least: int

    def compare(self, subsets: Mapping[str, Tensor]) -> tuple[dict[str, float], dict[str, Evidence]]:
        """Return the metrics that rest on labels, with those of slices, and the evidence of claims."""
        before, after, units, total = self.right_before, self.right_after, self.units, len(self.labels)
        drop = paired_drop(before, after)
        by_class = class_drops(before, after, self.labels, units, at_least=self.least)
        metrics = {
            "reference_accuracy": before.double().mean().item(),
            "accuracy": after.double().mean().item(),
            "accuracy_drop": (drop.lost - drop.gained) / total,
            "max_class_accuracy_drop": max(one.value for one in by_class.values()),
            "newly_wrong": drop.lost / total,
            "newly_right": drop.gained / total,
        }
        names = tuple(self.names[index] for index in by_class)
        evidence: dict[str, Evidence] = {
            "reference_accuracy": units.share(before),
            "accuracy": units.share(after),
            "accuracy_drop": units.drop(before, after),
            "max_class_accuracy_drop": LargestDrop(tuple(by_class.values()), names),
            "newly_wrong": units.share(before & ~after),
            "newly_right": units.share(~before & after),
        }
        if subsets:
            drops = [units.among(members).drop(before[members], after[members]) for members in subsets.values()]
            metrics["max_slice_accuracy_drop"] = max(drop.value for drop in drops)
            evidence["max_slice_accuracy_drop"] = LargestDrop(tuple(drops), tuple(subsets))
        return metrics, evidence

    def details(self) -> dict[str, Any]:
        """Return the table by class, and which examples are newly wrong and newly right."""
        before, after = self.right_before, self.right_after
        return {
            "classes": class_table(before, after, self.labels, self.names),
            "newly_wrong": (before & ~after).nonzero().flatten().tolist(),
            "newly_right": (~before & after).nonzero().flatten().tolist(),
        }


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


def _units(reference: Observation, clusters: Clusters | None) -> Units:
    """Return what claims are about: each example, or the clusters, of which those that share an input are one."""
    found = read_clusters(_OWNER, clusters, reference.data, len(reference))
    if found is None:
        return Units(None)
    repeated = reference.remember(("identical groups",), lambda: identical_groups(reference.data))
    return Units(joined_clusters(found, repeated))
