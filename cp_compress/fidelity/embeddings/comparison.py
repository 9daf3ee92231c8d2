"""Level B: do the model's internal representations of the examples stay similar?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.arguments import check_integer, explains_keywords, reject
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.embeddings.default_layer import default_layer
from cp_compress.fidelity.embeddings.similarity import (
    angular_visual_hardness,
    minibatch_cka,
    neighbor_overlap,
    paired_angles,
    procrustes_distance,
)
from cp_compress.fidelity.judging.intervals import BoundedMean, Evidence
from cp_compress.fidelity.judging.measurement import ExampleChange, Measurement
from cp_compress.fidelity.observing.layer_outputs import INPUT, find_layer, layer_features
from cp_compress.fidelity.observing.observation import Observation, require_observations
from cp_compress.fidelity.observing.pairing import check_comparable
from cp_compress.fidelity.observing.sampling import choose_examples
from cp_compress.model.layers import used_value

Layers = str | Sequence[str] | Mapping[str, str]
_OWNER = "compare_embeddings"
_LISTED_EXAMPLES = 20
_SMALL_IS_BETTER = ("mean_angle", "hardness_change", "procrustes_distance")
_METRICS = ("cka", "kernel_cka", "mean_angle", "neighbor_overlap", "hardness_change", "procrustes_distance")


@explains_keywords
def compare_embeddings(
    candidate: Observation,
    reference: Observation,
    layer: Layers | None = None,
    *,
    examples: int | Sequence[int] | Tensor | None = None,
    neighbors: int = 10,
    minibatch: int = 256,
    pool: str = "mean",
    seed: int = 0,
) -> Measurement:
    """Measure how similar the embeddings of two models are, at one layer or several.

    Metrics, each that of the layer with the worst value: `cka` and `kernel_cka`, linear and with a Gaussian kernel, see
    `minibatch_cka`; `mean_angle` between the two embeddings of an example, radians in [0, π]; `neighbor_overlap`, the
    mean fraction of `neighbors` nearest neighbours (at most n − 2) that both have; `hardness_change`, the mean
    |difference| of the angular visual hardness, against the weights of the last linear layer if the embedding is its
    input and the mean embeddings of the true classes elsewhere (NaN if an example does not have one class);
    `procrustes_distance`. If the widths of the two differ, as after shrinking, there is no angle: `mean_angle` is NaN
    with a count of 0. Details hold the values of every layer, with those of a shuffled pairing (`chance_…`).

    Args:
        candidate: The observation of the compressed model, or of a model on compressed data.
        reference: The observation of the reference on the same examples.
        layer: The path of a module, whose output is the embedding, "input:" and a path for its input, several of them,
            or a mapping from the reference's layers to the candidate's; "output:" is what the models give. By default
            the input of the linear layer that each model runs last of those that its answers depend on; of a model
            that gives embeddings, what it gives.
        examples: A number of examples spread evenly over the data set, their indices, or None for all. Examples of a
            `TaskDataset` with only ignored positions are left out.
        neighbors: The number of nearest neighbours of `neighbor_overlap`.
        minibatch: The largest minibatch of `minibatch_cka`.
        pool: "mean" averages embeddings over positions, as `layer_features` does; "flatten" puts them in one row.
        seed: The seed of the minibatches of `minibatch_cka`.

    Returns:
        The measurement.

    Raises:
        InvalidArgumentError: If an argument is not as described.
        ObservationError: If the observations are not of the same examples, or a layer cannot be read.

    >>> from cp_compress.examples import digits, digits_cnn
    >>> from cp_compress.fidelity import observe
    >>> from cp_compress.model import Prune
    >>> model, data = digits_cnn(), digits()
    >>> found = compare_embeddings(observe(Prune(0.5).compress(model), data), observe(model, data))
    >>> 0.9 < found.metrics["cka"] < 1
    True
    """
    require_observations(_OWNER, candidate=candidate, reference=reference)
    check_comparable(candidate, reference, any_task=True, any_output=True)
    chosen = choose_examples(_OWNER, examples, len(reference))
    check_integer(_OWNER, "neighbors", neighbors, "must be a whole number of 1 or more", at_least=1)
    check_integer(_OWNER, "seed", seed, "must be a whole number of 0 or more", at_least=0)
    pairs = _layer_pairs(layer, reference, candidate)
    asked, chosen = len(chosen), _answered(reference, chosen)
    before = layer_features(reference, list(pairs), pool=pool, examples=chosen)
    after = layer_features(candidate, list(pairs.values()), pool=pool, examples=chosen)
    single = reference.task == "single_label" and reference.labeled and reference.gives_logits
    labels = reference.labels[chosen] if single else None
    rows: list[dict[str, Any]] = []
    per_example = {"example": chosen}
    for theirs, mine in pairs.items():
        first, second = before[theirs], after[mine]
        weights = None
        if labels is not None:
            weights = _class_weights((reference, theirs, first), (candidate, mine, second), labels)
        values, each = _compare_layer(first, second, weights, labels, neighbors, minibatch, seed)
        named = theirs if theirs == mine else f"{theirs} → {mine}"
        rows.append({"layer": named, "widths": [first.shape[1], second.shape[1]], **values})
        suffix = f":{theirs}" if len(pairs) > 1 else ""
        per_example |= {f"{name}{suffix}": found for name, found in each.items()}
    metrics = {name: _worst(name, [row[name] for row in rows]) for name in _METRICS}
    counts = {name: 0 if math.isnan(value) else len(chosen) for name, value in metrics.items()}
    alone = len(pairs) == 1
    evidence: dict[str, Evidence] = {}
    if alone and "angle" in per_example:
        evidence["mean_angle"] = BoundedMean.of(per_example["angle"].numpy(), 0.0, math.pi)
    return Measurement(
        comparison="embeddings",
        metrics=metrics,
        counts=counts,
        evidence=evidence,
        per_example=per_example,
        examples=_largest_changes(per_example, chosen, reference) if alone else (),
        details={"layers": rows, "neighbors": min(neighbors, max(1, len(chosen) - 2)), "pool": pool},
        notes=_notes(rows, asked - len(chosen)),
    )


def _answered(reference: Observation, chosen: Tensor) -> Tensor:
    """Return those of the chosen examples that have an answer that counts, as level A has them."""
    if reference.task == "single_label" or not reference.labeled:
        return chosen
    kept = chosen[reference.counting[chosen].flatten(1).any(1)]
    if not len(kept):
        raise ObservationError("all positions of the examples are ignored, so there is nothing to compare")
    return kept


def _layer_pairs(layer: Layers | None, reference: Observation, candidate: Observation) -> dict[str, str]:
    if layer is None:  # one of them may stand inside another module, where paths are longer
        return {default_layer(reference): default_layer(candidate)}
    pairs = dict(layer) if isinstance(layer, Mapping) else {}
    if not isinstance(layer, Mapping):
        pairs = {name: name for name in ([layer] if isinstance(layer, str) else layer)}
    texts = [*pairs, *pairs.values()]
    if not pairs or not all(isinstance(text, str) and text.removeprefix(INPUT) for text in texts):
        reject(_OWNER, "layer", layer, "give the path of a layer, several, or a mapping from path to path")
    return pairs


def _compare_layer(
    first: Tensor,
    second: Tensor,
    weights: tuple[Tensor, Tensor] | None,
    labels: Tensor | None,
    neighbors: int,
    minibatch: int,
    seed: int,
) -> tuple[dict[str, float], dict[str, Tensor]]:
    count = len(first)
    each: dict[str, Tensor] = {}
    if weights is not None and labels is not None:
        hardness = [
            angular_visual_hardness(features, rows, labels)
            for features, rows in zip((first, second), weights, strict=True)
        ]
        each["hardness_change"] = (hardness[1] - hardness[0]).abs()
    if first.shape == second.shape:
        each["angle"] = paired_angles(first, second)
    if count >= 3:
        each["neighbor_overlap"] = neighbor_overlap(first, second, min(neighbors, count - 2))
    shuffled = second[torch.randperm(count, generator=torch.Generator().manual_seed(seed + 1))]
    values = {
        "cka": minibatch_cka(first, second, minibatch=minibatch, seed=seed),
        "kernel_cka": minibatch_cka(first, second, kernel="rbf", minibatch=minibatch, seed=seed),
        "mean_angle": _mean(each.get("angle")),
        "neighbor_overlap": _mean(each.get("neighbor_overlap")),
        "hardness_change": _mean(each.get("hardness_change")),
        "procrustes_distance": procrustes_distance(first, second),
        "chance_cka": minibatch_cka(first, shuffled, minibatch=minibatch, seed=seed),
        "chance_kernel_cka": minibatch_cka(first, shuffled, kernel="rbf", minibatch=minibatch, seed=seed),
        "chance_mean_angle": _mean(paired_angles(first, shuffled) if first.shape == second.shape else None),
        "chance_neighbor_overlap": min(neighbors, count - 2) / (count - 1) if count >= 3 else math.nan,
        "chance_procrustes_distance": procrustes_distance(first, shuffled),
    }
    return values, each


def _class_weights(
    reference: tuple[Observation, str, Tensor], candidate: tuple[Observation, str, Tensor], labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what hardness is measured against: both last layers' weights where they are known, else class means."""
    found = []
    for seen, name, features in (reference, candidate):
        found.append(class_weights(seen, name, features.shape[1]) if name.startswith(INPUT) else None)
    if found[0] is not None and found[1] is not None:
        return found[0], found[1]
    classes = reference[0].classes
    return _class_means(reference[2], labels, classes), _class_means(candidate[2], labels, classes)


def class_weights(seen: Observation, name: str, width: int) -> Tensor | None:
    """Return the weights (classes, width) of the linear layer whose input is `name`; None where it has no such ones."""

    def read() -> Tensor | None:
        layer = find_layer(seen.runner, name.removeprefix(INPUT), _OWNER)
        return _linear_weights(layer, width, seen.classes)

    return seen.remember(("class weights", name), read)


def _linear_weights(layer: nn.Module, width: int, classes: int) -> Tensor | None:
    weight = used_value(layer, "weight")
    if weight is not None and weight.is_floating_point() and weight.shape == (classes, width):
        return weight.float().cpu()
    return None


def _class_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    sums = torch.zeros(classes, features.shape[1], dtype=torch.float64).index_add_(0, labels, features.double())
    return sums / torch.bincount(labels, minlength=classes).clamp_min(1)[:, None]


def _mean(values: Tensor | None) -> float:
    return math.nan if values is None else float(values.mean())


def _worst(name: str, values: list[float]) -> float:
    if any(math.isnan(value) for value in values):
        return math.nan
    return max(values) if name in _SMALL_IS_BETTER else min(values)


def _largest_changes(
    per_example: Mapping[str, Tensor], chosen: Tensor, reference: Observation
) -> tuple[ExampleChange, ...]:
    angles = per_example.get("angle")
    values = per_example.get("hardness_change") if angles is None else angles
    if values is None or reference.task != "single_label":
        return ()
    return tuple(
        ExampleChange(
            index=int(chosen[row]),
            label=reference.label_name(int(chosen[row])),
            before="its embedding",
            after=f"hardness changed by {float(values[row]):.3g}"
            if angles is None
            else f"{float(values[row]):.3g} rad away",
        )
        for row in values.argsort(descending=True, stable=True)[:_LISTED_EXAMPLES].tolist()
        if values[row] > 0
    )


def _notes(rows: list[dict[str, Any]], left_out: int) -> tuple[str, ...]:
    notes = []
    if left_out:
        notes.append(f"{left_out} examples have only ignored positions and were left out")
    narrowed = [str(row["layer"]) for row in rows if row["widths"][0] != row["widths"][1]]
    if narrowed:
        notes.append(f"the widths differ at {', '.join(narrowed)}: embeddings have no angle")
    chance = ", ".join(f"{row['layer']} {row['chance_cka']:.2f}" for row in rows[:4])
    notes.append(f"CKA of shuffled pairs: {chance}")
    return tuple(notes)
