"""Level C by concepts: do the model's answers still depend on the same concepts, given by examples?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from cp_compress.base.arguments import check_integer, explains_keywords, reject
from cp_compress.base.batching import slices
from cp_compress.base.digests import digest_tensors
from cp_compress.base.errors import ObservationError
from cp_compress.base.showing.brief import Brief
from cp_compress.fidelity.attributions.concept_vectors import ConceptVectors, find_concept_vectors
from cp_compress.fidelity.attributions.maps import attribution_maps
from cp_compress.fidelity.attributions.methods.gradients import Saliency
from cp_compress.fidelity.judging.intervals import BoundedMean
from cp_compress.fidelity.judging.measurement import ExampleChange, Measurement
from cp_compress.fidelity.observing.observation import Observation, require_observations
from cp_compress.fidelity.observing.pairing import check_comparable
from cp_compress.fidelity.observing.sampling import batch_size_for, choose_examples

_OWNER = "compare_concepts"
_LISTED_EXAMPLES = 20
_LEAST_EXAMPLES = 6
_CHUNK_ROWS = 64


@dataclass(frozen=True, repr=False)
class ConceptScores(Brief):
    """How a model's logits move along concepts: derivatives (examples, concepts, random sets), and the vectors' fit.

    `accuracies` and `known` (concepts, random sets) are those of `ConceptVectors`.
    """

    derivatives: Tensor
    accuracies: Tensor
    known: Tensor


@explains_keywords
def compare_concepts(
    candidate: Observation,
    reference: Observation,
    layer: str,
    concepts: Mapping[str, Tensor],
    *,
    random_sets: int | Sequence[Tensor] = 5,
    examples: int | Sequence[int] | Tensor | None = None,
    min_class_examples: int = 10,
    batch_size: int | None = None,
    seed: int = 0,
) -> Measurement:
    """Measure how much each class's answer comes to depend more or less on each concept (TCAV, Kim et al. 2018).

    In each model, linear classifiers in the layer separate a concept's outputs from random ones; the normal of each is
    the concept's vector. A class's score for a concept is the share of its examples whose logit grows along that
    vector, in [0, 1], averaged over the random sets. The examples of a class are those for which the reference
    predicts it.

    Metrics: `max_concept_change` and `mean_concept_change`, the largest and the mean absolute change of a score over
    classes and concepts; `concept_agreement`, the share of derivatives (examples, concepts, random sets) that keep
    their sign. The details list each score before and after with its deviation over the random sets, the magnitude
    (the mean derivative along the unit vector), the two-sided p-value of a t-test of the scores against 0.5, and
    the accuracy of the classifiers on held-out examples: a concept near 0.5 is not represented in this layer. Claims
    with a confidence level hold for these concepts and random sets.

    Args:
        candidate: The compressed model's observation.
        reference: The original model's observation, on the same examples.
        layer: The path of a layer that both models have, such as "layer3"; its widths may differ.
        concepts: For each name of a concept, inputs (k, *input) that show it, six or more, all finite.
        random_sets: Inputs without the concepts: a sequence of tensors (k, *input), or the number of sets to draw from
            the reference's data, each as large as the largest concept.
        examples: A number of examples, spread evenly over the data set; their indices; or None for all.
        min_class_examples: Classes with fewer examples than this have no score; the notes name them.
        batch_size: The largest number of inputs in one call of a model; by default 32 on a CPU and 512 elsewhere,
            and never more than the observations were made with.
        seed: Draws the random sets and the held-out examples, a whole number of 0 or more.

    Returns:
        The metrics, with evidence for `concept_agreement`, the scores, and the 20 examples that change most.

    Raises:
        InvalidArgumentError: An argument is malformed or out of its range.
        ObservationError: The observations are not of the same examples; a model lacks this layer or gradients; no class
            has enough examples; the reference's classifiers separate a concept from random inputs no better than
            chance; or a layer gives the same outputs for both.
    """
    require_observations(_OWNER, candidate=candidate, reference=reference)
    named = _check_concepts(concepts, reference)
    check_integer(_OWNER, "seed", seed, "seed must be a whole number of 0 or more", at_least=0)
    rule = "must be a whole number of 1 or more"
    least = check_integer(_OWNER, "min_class_examples", min_class_examples, rule, at_least=1)
    if not isinstance(layer, str) or not layer:
        reject(_OWNER, "layer", layer, "layer is the path of a module, such as 'layer3'")
    size = batch_size_for(reference.runner.device, batch_size, reference.batch_size.limit).limit
    chosen = choose_examples(_OWNER, examples, len(reference))
    check_comparable(candidate, reference)
    reference.data.require_one_tensor("a comparison of concepts")
    sets = _random_sets(random_sets, named, reference, seed)
    targets = reference.predictions[chosen]
    classes = [number for number, count in enumerate(torch.bincount(targets).tolist()) if count >= least]
    if not classes:
        raise ObservationError(f"no class is predicted for {least} of the {len(chosen)} examples: none has a score")
    settings = (layer, tuple(named.values()), sets, chosen, targets, size, seed)
    before, after = (_scores(seen, *settings) for seen in (reference, candidate))
    _require_concepts(before, after, layer, list(named))
    kept = (before.derivatives.sign() == after.derivatives.sign()).double()
    agreement = kept.flatten(1).mean(dim=1)
    rows = _table(before, after, targets, classes, list(named), reference.class_names)
    changes = [abs(row["after"] - row["before"]) for row in rows]
    metrics = {
        "max_concept_change": max(changes),
        "mean_concept_change": float(np.mean(changes)),
        "concept_agreement": float(agreement.mean()),
    }
    return Measurement(
        comparison="concepts",
        metrics=metrics,
        counts=dict.fromkeys(metrics, len(chosen)),
        evidence={"concept_agreement": BoundedMean.of(agreement.numpy())},
        per_example={"concept_agreement": agreement, "example": chosen},
        examples=_changed_examples(agreement, chosen, candidate, reference),
        details={
            "layer": layer,
            "concepts": {name: len(inputs) for name, inputs in named.items()},
            "random_sets": len(sets),
            "scores": rows,
            "accuracy": _accuracies(before, after, list(named)),
        },
        notes=_notes(before, after, list(named), rows, targets, classes, reference.class_names),
    )


def _check_concepts(concepts: Mapping[str, Tensor], reference: Observation) -> dict[str, Tensor]:
    if not isinstance(concepts, Mapping) or not concepts:
        reject(_OWNER, "concepts", concepts, "give a mapping of names to inputs that show the concept, at least one")
    return {str(name): _check_inputs("concepts", inputs, reference) for name, inputs in concepts.items()}


def _check_inputs(name: str, inputs: object, reference: Observation) -> Tensor:
    first = reference.data.inputs([0])
    if not isinstance(inputs, Tensor) or inputs.shape[1:] != first.shape[1:] or len(inputs) < _LEAST_EXAMPLES:
        found = tuple(inputs.shape) if isinstance(inputs, Tensor) else inputs
        rule = f"needs {_LEAST_EXAMPLES} inputs or more, a tensor (k, {', '.join(map(str, first.shape[1:]))})"
        reject(_OWNER, name, found, rule)
    if not bool(torch.isfinite(inputs).all()):
        reject(_OWNER, name, "NaN or Inf", "every input must be finite")
    return inputs.detach().to(first.dtype)


def _random_sets(
    given: int | Sequence[Tensor], concepts: dict[str, Tensor], reference: Observation, seed: int
) -> tuple[Tensor, ...]:
    if isinstance(given, (Sequence, Tensor)) and not isinstance(given, str) and len(given):
        return tuple(_check_inputs("random_sets", inputs, reference) for inputs in given)
    rule = "give a number of sets to draw from the data, or a sequence of tensors"
    count = check_integer(_OWNER, "random_sets", given, rule, at_least=1)
    size = max(map(len, concepts.values()))
    if size > len(reference):
        reject(_OWNER, "random_sets", given, f"a concept has {size} examples, the data set {len(reference)} only")
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randperm(len(reference), generator=generator)[:size] for _ in range(count)]
    return tuple(reference.data.inputs(indices) for indices in drawn)


def _scores(
    observation: Observation,
    layer: str,
    concepts: tuple[Tensor, ...],
    random_sets: tuple[Tensor, ...],
    chosen: Tensor,
    targets: Tensor,
    batch_size: int,
    seed: int,
) -> ConceptScores:
    gradients = attribution_maps(observation, Saliency(layer), chosen, targets, batch_size).maps
    size = min(batch_size, observation.batch_size.limit)
    key = ("concept vectors", layer, len(concepts), digest_tensors([*concepts, *random_sets]), seed)

    def find() -> ConceptVectors:
        return find_concept_vectors(observation, layer, concepts, random_sets, batch_size=size, seed=seed)

    found = observation.remember(key, find)
    directions = found.vectors.flatten(0, 1).t()
    parts = slices(len(chosen), _CHUNK_ROWS)
    along = torch.cat([gradients[part].flatten(1).float() @ directions for part in parts])
    return ConceptScores(along.reshape(len(chosen), *found.accuracies.shape), found.accuracies, found.known)


def _require_concepts(before: ConceptScores, after: ConceptScores, layer: str, concepts: list[str]) -> None:
    """Refuse derivatives along vectors that represent nothing: those of any two models agree."""
    for column, concept in enumerate(concepts):
        accuracy = float(before.accuracies[column].mean())
        if accuracy <= 0.5 or not bool(before.known[column].all()):
            raise ObservationError(
                f"the reference's layer {layer!r} cannot tell the concept {concept!r} from random inputs: its accuracy "
                f"on held-out examples is {accuracy:.2f}, where chance is 0.5, so no vector represents the concept"
            )
        if not bool(after.known[column].all()):
            raise ObservationError(
                f"the candidate's layer {layer!r} cannot tell the concept {concept!r} from random inputs: its outputs "
                "are the same for both"
            )


def _table(
    before: ConceptScores,
    after: ConceptScores,
    targets: Tensor,
    classes: list[int],
    concepts: list[str],
    names: tuple[str, ...],
) -> list[dict[str, Any]]:
    rows = []
    for number in classes:
        members = targets == number
        for column, concept in enumerate(concepts):
            was, now = (seen.derivatives[members, column].double() for seen in (before, after))
            counts_was, counts_now = ((part > 0).double().mean(dim=0) for part in (was, now))
            rows.append(
                {
                    "class": names[number],
                    "concept": concept,
                    "count": int(members.sum()),
                    "before": float(counts_was.mean()),
                    "after": float(counts_now.mean()),
                    "deviation_before": _deviation(counts_was),
                    "deviation_after": _deviation(counts_now),
                    "p_value_before": _p_value(counts_was),
                    "p_value_after": _p_value(counts_now),
                    "magnitude_before": float(was.mean()),
                    "magnitude_after": float(now.mean()),
                }
            )
    return rows


def _deviation(scores: Tensor) -> float | None:
    return float(scores.std()) if len(scores) > 1 else None


def _p_value(scores: Tensor) -> float | None:
    if len(scores) < 2:
        return None
    if float(scores.std()) == 0:  # no spread: the test statistic is infinite, or 0 / 0
        return 0.0 if float(scores[0]) != 0.5 else 1.0
    found = float(stats.ttest_1samp(scores.numpy(), 0.5).pvalue)
    return None if math.isnan(found) else found


def _accuracies(before: ConceptScores, after: ConceptScores, concepts: list[str]) -> dict[str, dict[str, float]]:
    subjects = {"before": before, "after": after}
    return {
        concept: {name: float(seen.accuracies[column].mean()) for name, seen in subjects.items()}
        for column, concept in enumerate(concepts)
    }


def _changed_examples(
    agreement: Tensor, chosen: Tensor, candidate: Observation, reference: Observation
) -> tuple[ExampleChange, ...]:
    names, changes = reference.class_names, []
    for row in torch.argsort(agreement, stable=True)[:_LISTED_EXAMPLES].tolist():
        if agreement[row] == 1:
            break
        example = int(chosen[row])
        now, was = int(candidate.predictions[example]), int(reference.predictions[example])
        text = f"{names[now]}, {float(agreement[row]):.0%} of the concepts keep their sign"
        changes.append(ExampleChange(example, reference.label_name(example), names[was], text))
    return tuple(changes)


def _notes(
    before: ConceptScores,
    after: ConceptScores,
    concepts: list[str],
    rows: list[dict[str, Any]],
    targets: Tensor,
    classes: list[int],
    names: tuple[str, ...],
) -> tuple[str, ...]:
    worst = max(rows, key=lambda row: abs(row["after"] - row["before"]))
    change = f"{worst['concept']} for {worst['class']}: {worst['before']:.2f} → {worst['after']:.2f}"
    notes = [f"largest change of a score: {change}"]
    for concept, found in _accuracies(before, after, concepts).items():
        notes.append(
            f"concept {concept} is separated from random inputs with an accuracy of {found['before']:.2f} in the "
            f"reference and {found['after']:.2f} in the candidate"
        )
    left_out = sorted(set(targets.tolist()) - set(classes))
    if left_out:
        notes.append(f"classes with too few examples for a score: {', '.join(names[number] for number in left_out)}")
    return tuple(notes)
