"""How far the outputs of two models differ, as far as they are known: of a frozen one perhaps the largest alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from cp_compress.fidelity.frozen.observation import FrozenObservation, largest_of
from cp_compress.fidelity.frozen.top_logits import divergence_bounds
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.fidelity.predictions.output_changes import (
    Outputs,
    as_log_probabilities,
    by_blocks,
    divergence_from,
    kind_of_outputs,
    largest_probability,
    logit_distance,
    require_equal_kinds,
    top_class_overlap,
)

_NO_LOGITS = "all logits of both models are needed, and {} was frozen with the {} largest alone (top_k)"


@dataclass(frozen=True, eq=False)
class OutputChanges:
    """What outputs say of each of n examples.

    Attributes:
        probabilities: Whether both models give probabilities.
        overlap: The share (n,) of the reference's top classes that are among the candidate's.
        kl: The divergence (n,) from the reference's probabilities, in nats; the most that it can be where the
            reference's largest outputs alone are known, and None where the candidate's are.
        distance: The distance (n,) of logits; None where not all are known.
        confidence: The probability (n,) of the answer, of "candidate" and "reference".
        notes: What a reader must be told of it.
        unknown: Why metrics are not known, by name.
    """

    probabilities: bool
    overlap: Tensor
    kl: Tensor | None
    distance: Tensor | None
    confidence: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()
    unknown: Mapping[str, str] = field(default_factory=dict)


def measure_outputs(candidate: Observation, reference: Observation, top: int) -> OutputChanges:
    """Return what the outputs of two models, of one class an example, say of each other.

    Raises ObservationError where one gives probabilities and the other logits, and where fewer of the largest outputs
    were frozen than `top`.
    """
    probabilities = require_equal_kinds(kind_of(candidate), kind_of(reference))
    reading = reading_of(probabilities)
    sides = {"candidate": candidate, "reference": reference}
    confidence = {who: _confidence(seen, probabilities) for who, seen in sides.items()}
    few = {who: seen for who, seen in sides.items() if not seen.knows_all_logits}
    if not few:
        outputs = candidate.logits, reference.logits
        return OutputChanges(
            probabilities,
            top_class_overlap(*outputs, top),
            by_blocks(lambda *blocks: divergence_from(*map(reading, blocks)), *outputs),
            by_blocks(lambda *blocks: logit_distance(*map(reading, blocks)), *outputs),
            confidence,
        )
    mine, theirs = (largest_of(seen, top).places for seen in (candidate, reference))
    overlap = (mine[:, :, None] == theirs[:, None, :]).any(dim=2).double().mean(dim=1)
    who, seen = next(iter(few.items()))
    assert isinstance(seen, FrozenObservation)
    told = _NO_LOGITS.format(f"the {who}", seen.content.kept)
    if "candidate" in few:
        unknown = {"mean_logit_distance": told, "mean_kl": told}
        return OutputChanges(probabilities, overlap, None, None, confidence, (f"not known: {told}",), unknown)
    bounds = divergence_bounds(seen.content.top, candidate.logits, reading)
    low, high = bounds.mean(dim=0).tolist()
    note = (
        f"mean_kl lies between {low:.4g} and {high:.4g}, and is taken to be the larger: the reference was frozen with "
        f"the {seen.content.kept} largest logits of each example"
    )
    unknown = {"mean_logit_distance": told}
    return OutputChanges(probabilities, overlap, bounds[:, 1], None, confidence, (note,), unknown)


def kind_of(seen: Observation) -> Outputs:
    """Return whether a model gives logits or probabilities; raises as `Observation.logits`."""
    if isinstance(seen, FrozenObservation):
        found: Outputs = seen.content.facts["outputs"]["kind"]
        return found
    return kind_of_outputs(seen.logits)


def reading_of(probabilities: bool) -> Callable[[Tensor], Tensor]:
    """Return what makes logits of outputs."""
    return as_log_probabilities if probabilities else lambda logits: logits


def _confidence(seen: Observation, probabilities: bool) -> Tensor:
    if seen.knows_all_logits:
        return largest_probability(seen.logits, probabilities=probabilities)
    found = largest_of(seen, 1)
    values = found.values[:, 0].double()
    return values if probabilities else (values - found.log_totals).exp()
