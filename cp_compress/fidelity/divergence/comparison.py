"""How many examples have an input near them for which a candidate predicts another class than its reference."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cp_compress.base.arguments import explains_keywords
from cp_compress.base.errors import NothingComparedError
from cp_compress.fidelity.divergence.finding import SMALLEST_MARGIN, DivergenceSearch, find_divergence
from cp_compress.fidelity.judging.intervals import Proportion
from cp_compress.fidelity.judging.measurement import ExampleChange, Measurement
from cp_compress.fidelity.observing.observation import Observation, require_observations
from cp_compress.fidelity.observing.pairing import check_comparable
from cp_compress.fidelity.observing.sampling import batch_size_for, choose_examples
from cp_compress.inputs.tasks import UNKNOWN

_LISTED_EXAMPLES = 20


@explains_keywords
def compare_divergence(
    candidate: Observation,
    reference: Observation,
    *,
    epsilon: float | None,
    examples: int | Sequence[int] | Tensor | None = 64,
    norm: str = "linf",
    lattice: str | None = None,
    guide: str = "gradient",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    restarts: int = 8,
    queries: int = 200,
    verify: bool = True,
    min_margin: float = SMALLEST_MARGIN,
    minimise: bool = False,
    refine: bool = False,
    batch_size: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Measurement:
    """Measure how many examples have an input near them for which the candidate predicts another class.

    Metrics: `divergence_rate`, the fraction of the seeds searched near which such an input was found (0 if none was:
    that none was found within the budget does not prove that there is none). A seed on which the models disagree only
    by rounding or only within a batch, and a seed without a path, do not count; a note states their number. Over the
    seeds with such an input: `mean_queries`, the mean number of inputs tried, `median_linf` and `median_l2`, the
    distances in units of the inputs; these are NaN with a count of 0 if none was found. `per_example["input"]` holds
    the inputs.

    Args:
        candidate: The observation of the compressed model.
        reference: The observation of the reference on the same examples.
        epsilon: The largest distance from an example, in units of the inputs; None for no limit.
        examples: The seeds of the reference's data: a number of examples spread evenly, their indices, or None for all.
        norm: As in `find_divergence`.
        lattice: As in `find_divergence`.
        guide: As in `find_divergence`.
        bounds: As in `find_divergence`.
        restarts: As in `find_divergence`.
        queries: As in `find_divergence`.
        verify: As in `find_divergence`.
        min_margin: As in `find_divergence`.
        minimise: As in `find_divergence`.
        refine: As in `find_divergence`.
        batch_size: As in `find_divergence`, and never more than the observations were made with.
        seed: As in `find_divergence`.
        device: Where the search runs; by default where the reference was observed.

    Returns:
        The measurement.

    Raises:
        InvalidArgumentError: If an argument is not as described.
        ObservationError: If the observations are not of the same examples, or `find_divergence` cannot run the models.
        NothingComparedError: If fewer than half of the seeds count.
    """
    require_observations("compare_divergence", candidate=candidate, reference=reference)
    check_comparable(candidate, reference)
    reference.data.require_one_tensor("a search for divergence")
    chosen = choose_examples("compare_divergence", examples, len(reference))
    found = find_divergence(
        candidate.compared_model,
        reference.compared_model,
        reference.data.inputs(chosen),
        epsilon=epsilon,
        norm=norm,
        lattice=lattice,
        guide=guide,
        bounds=bounds,
        restarts=restarts,
        queries=queries,
        verify=verify,
        min_margin=min_margin,
        minimise=minimise,
        refine=refine,
        batch_size=search_batch_size(candidate, reference, batch_size),
        seed=seed,
        device=reference.runner.device if device is None else device,
    )
    return as_measurement(found, chosen, reference)


def search_batch_size(candidate: Observation, reference: Observation, batch_size: int | None = None) -> int:
    """Return the largest number of inputs in one call of a search: what is asked for, at most what both observed."""
    largest = min(candidate.batch_size.limit, reference.batch_size.limit)
    return batch_size_for(reference.runner.device, batch_size, largest).limit


def as_measurement(
    found: DivergenceSearch, chosen: Tensor, reference: Observation, labels: Tensor | None = None
) -> Measurement:
    """Return the measurement of a search from the examples at `chosen`, of which `labels` (n,) are the true classes.

    The labels are by default those of the reference's data. Raises NothingComparedError where nothing was asked, or
    around fewer than half of the examples.
    """
    hits, asked = int(found.found.sum()), int(found.asked.sum())
    if 2 * asked < len(chosen):
        counted = f"only {asked} of the {len(chosen)} examples count"
        if not asked:
            counted = f"no input could be tried around any of the {len(chosen)} examples"
        raise NothingComparedError(f"{counted}: {'; '.join(_unasked_notes(found))}")
    metrics = {
        "divergence_rate": hits / asked,
        "mean_queries": float(found.queries[found.found].double().mean()) if hits else math.nan,
        "median_linf": float(found.linf[found.found].quantile(0.5)) if hits else math.nan,
        "median_l2": float(found.l2[found.found].quantile(0.5)) if hits else math.nan,
    }
    true_classes = reference.targets[chosen] if labels is None else labels
    return Measurement(
        comparison="divergence",
        metrics=metrics,
        counts={name: asked if name == "divergence_rate" else hits for name in metrics},
        evidence={"divergence_rate": Proportion(hits, asked)},
        per_example={
            "example": chosen,
            "found": found.found,
            "queries": found.queries,
            "linf": found.linf,
            "l2": found.l2,
            "input": found.inputs,
        },
        examples=_changes(found, chosen, true_classes, reference.class_names),
        details={
            "seeds": len(chosen),
            "asked": asked,
            "found": hits,
            "already": int(found.already.sum()),
            "unconfirmed": int(found.unconfirmed.sum()),
            "queries": int(found.queries.sum()),
            "precisions": found.precisions,
        },
        notes=tuple(_notes(found)),
    )


def _notes(found: DivergenceSearch) -> list[str]:
    notes = [f"{int(found.queries.sum())} inputs were tried around {int(found.asked.sum())} examples"]
    if found.precisions is not None:
        notes.append(
            f"hits were verified singly: candidate in {found.precisions[0]}, reference in {found.precisions[1]}"
        )
    if bool(found.already.any()):
        notes.append(f"on {int(found.already.sum())} examples the models disagree without any change")
    unclear = found.asked & ~found.found & (found.unconfirmed > 0)
    if bool(unclear.any()):
        notes.append(
            f"near {int(unclear.sum())} examples that count as free of such inputs the models disagreed, but no more "
            "than rounding does, or not on a batch of one"
        )
    return notes + _unasked_notes(found)


def _unasked_notes(found: DivergenceSearch) -> list[str]:
    wavering = ~found.asked & (found.unconfirmed > 0)
    lost = ~found.asked & ~wavering & (found.queries > 0)
    alone = ~found.asked & ~wavering & ~lost
    notes = []
    if bool(wavering.any()):
        notes.append(
            f"{int(wavering.sum())} examples do not count: the models disagree on them, but no more than rounding "
            "does, or not on a batch of one"
        )
    if bool(lost.any()):
        notes.append(
            f"{int(lost.sum())} examples do not count: the reference's gradient is zero there, and on the way to "
            "another example it keeps its class"
        )
    if bool(alone.any()):
        notes.append(
            f"{int(alone.sum())} examples do not count: no other example is of another class, and no "
            "gradient leads away from them"
        )
    return notes


def _changes(
    found: DivergenceSearch, chosen: Tensor, labels: Tensor, names: Sequence[str]
) -> tuple[ExampleChange, ...]:
    """List the inputs found, the surest disagreements first."""

    def name(number: Tensor) -> str:
        place = int(number)
        return names[place] if 0 <= place < len(names) else "none" if place == UNKNOWN else str(place)

    def moved(distance: float) -> str:
        return "" if math.isnan(distance) else f", moved by L∞ {distance:.3g}"  # a replay knows no seeds

    sure = torch.fmin(found.reference_margins, found.candidate_margins).nan_to_num(nan=0.0)
    rows = [row for row in torch.argsort(sure, descending=True, stable=True).tolist() if found.found[row]]
    return tuple(
        ExampleChange(
            index=int(chosen[row]),
            label=name(labels[row]),
            before=name(found.reference_classes[row]) + moved(float(found.linf[row])),
            after=name(found.candidate_classes[row]),
        )
        for row in rows[:_LISTED_EXAMPLES]
    )
