"""Level D: are the decision boundaries as far from the inputs as they were?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cp_compress.base.arguments import check_choice, check_integer, check_real, explains_keywords, reject
from cp_compress.base.digests import digest_tensors
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.boundaries.blocks import (
    DirectionBlocks,
    as_rays,
    benign_blocks,
    gate_blocks,
    worst_case_blocks,
)
from cp_compress.fidelity.boundaries.directions import Directions
from cp_compress.fidelity.boundaries.families import PURPOSE, USUAL_VALUES, at_counting_places
from cp_compress.fidelity.boundaries.pairs import RayPairs, censored_medians, family_table, median_of, summarise
from cp_compress.fidelity.boundaries.search import BoundarySearch, Bounds, boundary_distances, search_boundaries
from cp_compress.fidelity.judging.measurement import ExampleChange, Measurement
from cp_compress.fidelity.observing.observation import Observation, require_observations
from cp_compress.fidelity.observing.pairing import check_comparable
from cp_compress.fidelity.observing.sampling import batch_size_for, choose_examples
from cp_compress.fidelity.varying.inputs import Input, Varied
from cp_compress.fidelity.varying.layers import vary

__all__ = ["BoundarySearch", "boundary_distances", "compare_boundaries", "search_boundaries"]
_OWNER = "compare_boundaries"
FAMILIES = ("gate", "worst", "benign")
_LISTED_EXAMPLES = 20
_EXAMPLES, _FEWEST_EXAMPLES = 32, 8


@explains_keywords
def compare_boundaries(
    candidate: Observation,
    reference: Observation,
    directions: Directions | DirectionBlocks | Tensor | str = "gate",
    *,
    max_distance: float | None = None,
    examples: int | Sequence[int] | Tensor | str | None = "auto",
    tolerance: float = 0.1,
    bounds: Bounds | None = None,
    steps: int = 32,
    bisections: int = 14,
    batch_size: int | None = None,
    seed: int = 0,
    input: Input = None,
    at_layer: str | None = None,
) -> Measurement:
    """Measure how far a candidate's decision boundaries have moved along given directions.

    Each model starts from its own inputs, and only at examples on which both predict the same class; the others are
    counted and listed. No excursion into another class wider than max_distance / steps is missed.

    A ray on which a model meets no other class within `max_distance` is *censored* for it: it has no distance. With d
    of the reference and d̃ of the candidate, each metric is computed for each example from its own rays, and then over
    the examples, because examples are independent and rays are not; `counts` are numbers of examples.

    - `median_change`: median over examples of the median |d̃ − d| / d of the rays that both reach. It has no sign:
      boundaries that came nearer and that went away both count, and do not cancel.
    - `mean_abs_log_ratio`: mean of the mean |ln(d̃ / d)| of the rays that both reach.
    - `preserved_fraction`: mean fraction of the rays with |d̃ − d| ≤ `tolerance` · d among those that at least one of
      the two reaches; a ray that only one reaches is not preserved, a ray that neither reaches is left out.
    - `median_distance_ratio`: the Kaplan–Meier median of all rays' distances after, over that before; rays that a model
      does not reach count as longer than `max_distance`. NaN if more than half of the rays are not reached.
    - `censored_fraction`: mean fraction of the rays that one or both do not reach, which the first two metrics leave
      out.

    An example without such rays is left out of a metric; without any example the metric is NaN with a count of 0.

    Args:
        candidate: The observation of the compressed model, or of a model on compressed data.
        reference: The observation of the reference on the same examples.

    Args: Rays
        directions: "gate" (`gate_directions` of the reference with `seed`), "worst" (`worst_case_directions` of each
            model itself), "benign" (`benign_directions` of the reference), a `Directions` value, or a tensor
            (directions, *input). Directions made for each example follow the order of `examples`.
        examples: A number of examples spread evenly over the data set, their indices, or None for all. "auto" are 32 of
            up to 16,384 values, such as images of 3 × 64 × 64, and fewer of more, but at least 8.
        max_distance: How far to search, L2 in units of the inputs; by default the median distance between two of the
            examples.
        seed: The seed of the random directions of "gate".
        input: Which of several inputs is moved: its name, or its place in a tuple; the others stay as each example has
            them, and so do its places of padding. By default the only floating-point tensor, or else the only one,
            that is no mask.
        at_layer: The path of a layer whose outputs are moved instead of the input, such as one that embeds token ids.
            Each model starts from what its own layer gives; distances are L2 in units of these outputs.

    Args: Search
        steps: The number of equal steps on a ray.
        bisections: The number of halvings within a step.
        bounds: The pair (low, high) to which moved inputs are clipped, or None; see `search_boundaries`.
        batch_size: The largest number of inputs in one call, which bounds the memory; by default 32 on a CPU and 512
            elsewhere, and never more than the observations were made with. Named directions are made for at most that
            many examples at a time and not kept.

    Args: Metric
        tolerance: The relative change of a distance that counts as preserved, in (0, 1).

    Returns:
        The measurement, with the ray of each example that moved most.

    Raises:
        InvalidArgumentError: If an argument is not as described.
        ObservationError: If the observations are not of the same examples, logits on a ray are NaN, or the reference
            has no gradients for directions that need them.

    >>> from cp_compress.fidelity import observe
    >>> data = (torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    >>> near, far = torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False)
    >>> with torch.no_grad():  # the class changes where x₁ = x₀, and where x₁ = 2 · x₀
    ...     _ = near.weight.copy_(torch.eye(2)), far.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    >>> up = torch.tensor([[0.0, 1.0]])
    >>> found = compare_boundaries(observe(near, data), observe(far, data), up, max_distance=4.0)
    >>> round(found.metrics["median_change"], 3), found.metrics["preserved_fraction"]
    (0.5, 0.0)
    """
    require_observations(_OWNER, candidate=candidate, reference=reference)
    if isinstance(directions, str):
        check_choice(_OWNER, "directions", directions, FAMILIES)
    share = check_real(_OWNER, "tolerance", tolerance, "tolerance is a relative change in (0, 1)", above=0, below=1)
    start = check_integer(_OWNER, "seed", seed, "must be a whole number of 0 or more", at_least=0)
    check_comparable(candidate, reference)
    number = standard_examples(_OWNER, examples, reference, input, at_layer)
    chosen = choose_examples(_OWNER, number, len(reference))
    original, compressed = (
        vary(seen, chosen, input, at_layer, owner=_OWNER, purpose=PURPOSE) for seen in (reference, candidate)
    )
    if original.shape != compressed.shape:
        owner = "the candidate's inputs have" if at_layer is None else f"what {at_layer} gives has in the candidate the"
        shapes = f"{compressed.shape}, the reference's {original.shape}"
        raise ObservationError(f"{owner} shape {shapes}: no direction fits both")
    reach = _default_distance(original) if max_distance is None else max_distance
    rays = _as_rays(directions, original, start, batch_size)
    own_rays = rays
    if isinstance(directions, str) and directions == "worst":
        own_rays = _as_rays(directions, compressed, start, batch_size)

    # directions of a model that says what it is are told by its digest, which a change of what is hidden may leave
    origin = None if reference.model_digest is None else reference.content_key

    def search(varied: Varied, rows: Tensor, rays: Directions | DirectionBlocks) -> BoundarySearch:
        seen, part = varied.observation, varied.select(rows)
        key = ("boundaries", digest_tensors([chosen, rows]), rays.digest, reach, _key(bounds), steps, bisections)
        return seen.remember(
            (*key, batch_size, origin, varied.name, at_layer),
            lambda: search_boundaries(
                seen.runner,
                part.values(),
                rays.select(rows),
                max_distance=reach,
                steps=steps,
                bisections=bisections,
                bounds=bounds,
                batch_size=batch_size_for(seen.runner.device, batch_size, seen.batch_size.limit).limit,
                run=part.logits,
            ),
        )

    everything = torch.arange(len(chosen))
    agreeing = (reference.predictions[chosen] == candidate.predictions[chosen]).nonzero().flatten()
    # the reference's rays are searched from all examples, so that one search serves every candidate
    before = search(original, everything, rays)
    distances = torch.full_like(before.distances, torch.nan)
    reached = torch.full_like(before.classes, -1)
    if len(agreeing):
        after = search(compressed, agreeing, own_rays)
        distances[agreeing], reached[agreeing] = after.distances, after.classes
    known = before.distances
    if rays.absent is not None:
        known, distances = (found.masked_fill(rays.absent, torch.nan) for found in (known, distances))
    pairs = RayPairs(known[agreeing], distances[agreeing], share)
    metrics, counts, evidence = summarise(pairs, reach)
    left_out = chosen[~torch.isin(everything, agreeing)]
    return Measurement(
        comparison="boundaries",
        metrics=metrics,
        counts=counts,
        evidence=evidence,
        per_example={
            "reference_distance": known,
            "candidate_distance": distances,
            "example": chosen,
        },
        examples=_largest_changes(candidate, reference, chosen[agreeing], pairs, rays.names, reach)
        + _disagreements(candidate, reference, left_out),
        details={
            **{part: name for part, name in (("input", original.name), ("at_layer", at_layer)) if name is not None},
            "directions": len(rays),
            "directions_digest": rays.digest,
            "max_distance": reach,
            "grid_step": reach / steps,
            "tolerance": share,
            "examples": {"asked": len(chosen), "compared": len(agreeing), "disagree": left_out.tolist()},
            "rays": pairs.counts(),
            "median_ratio": median_of(pairs.ratio[pairs.both]),
            "censored_medians": censored_medians(pairs, reach),
            "families": family_table(pairs, rays.families, reach),
        },
        notes=(*_notes(pairs, len(left_out), len(chosen), reach, steps), *_units(original, compressed)),
    )


def standard_examples(
    owner: str,
    examples: int | Sequence[int] | Tensor | str | None,
    reference: Observation,
    input: Input = None,
    at_layer: str | None = None,
) -> int | Sequence[int] | Tensor | None:
    """Return how many examples "auto" are for values of the size of the first's; anything else as it is."""
    if not isinstance(examples, str) or examples != "auto":
        return examples  # type: ignore[return-value]  # other texts are refused where examples are chosen
    size = vary(reference, torch.arange(1), input, at_layer, owner=owner, purpose=PURPOSE).size
    return max(_FEWEST_EXAMPLES, int(_EXAMPLES * USUAL_VALUES / max(USUAL_VALUES, size)))


def _default_distance(varied: Varied) -> float:
    rows = varied.clear(varied.values()).double().flatten(1)
    distances = torch.pdist(rows)
    median = float(distances.median()) if len(distances) else 0.0
    if not 0 < median < math.inf:
        rule = "must be given, because at least half of the examples are equal, or there is only one"
        reject(_OWNER, "max_distance", None, rule)
    return median


def _as_rays(
    directions: Directions | DirectionBlocks | Tensor | str, varied: Varied, seed: int, batch_size: int | None
) -> Directions | DirectionBlocks:
    if isinstance(directions, str):
        if directions == "worst":
            return worst_case_blocks(varied, batch_size=batch_size)
        if directions == "gate":
            return gate_blocks(varied, seed=seed, batch_size=batch_size)
        return benign_blocks(varied, batch_size=batch_size)
    rays = as_rays(_OWNER, directions, len(varied), varied.shape)
    return rays if varied.counting is None or isinstance(rays, DirectionBlocks) else at_counting_places(rays, varied)


def _units(original: Varied, compressed: Varied) -> tuple[str, ...]:
    """Return in what distances are measured where that is no input, and how far apart the models start."""
    if original.layer is None:
        return ()
    before, after = (varied.clear(varied.values()).double().flatten(1) for varied in (original, compressed))
    apart = float(((after - before).norm(dim=1) / before.norm(dim=1).clamp_min(1e-30)).mean())
    return (
        f"distances are L2 in units of {original.what}, over all places that are no padding; for the candidate it "
        f"differs there by {apart:.2%} from the reference (mean over examples)",
    )


def _key(bounds: Bounds | None) -> str:
    if not isinstance(bounds, (tuple, list)):
        return repr(bounds)
    return digest_tensors([torch.as_tensor(limit) for limit in bounds])


def _largest_changes(
    candidate: Observation,
    reference: Observation,
    compared: Tensor,
    pairs: RayPairs,
    names: tuple[str, ...],
    reach: float,
) -> tuple[ExampleChange, ...]:
    """List the ray of each example that moved most, a ray that only one model reaches before all others."""
    if not len(compared):
        return ()
    moved = torch.where(pairs.both, pairs.log_ratio, torch.where(pairs.either, torch.inf, 0.0))
    worst, column = moved.max(dim=1)
    changes = []
    for row in torch.argsort(worst, descending=True, stable=True)[:_LISTED_EXAMPLES].tolist():
        ray, example = int(column[row]), int(compared[row])
        if worst[row] > 0:
            before, after = float(pairs.before[row, ray]), float(pairs.after[row, ray])
            changes.append(
                ExampleChange(
                    index=example,
                    label=reference.label_name(example),
                    before=f"boundary {_place(before, reach)} along {names[ray]}",
                    after=_place(after, reach),
                )
            )
    return tuple(changes)


def _place(distance: float, reach: float) -> str:
    return f"at {distance:.3g}" if math.isfinite(distance) else f"not within {reach:.3g}"


def _disagreements(candidate: Observation, reference: Observation, left_out: Tensor) -> tuple[ExampleChange, ...]:
    names = reference.class_names
    return tuple(
        ExampleChange(
            index=example,
            label=reference.label_name(example),
            before=names[int(reference.predictions[example])],
            after=f"{names[int(candidate.predictions[example])]} (left out)",
        )
        for example in left_out[:_LISTED_EXAMPLES].tolist()
    )


def _notes(pairs: RayPairs, left_out: int, asked: int, reach: float, steps: int) -> tuple[str, ...]:
    counts = pairs.counts()
    notes = [
        f"no excursion into another class wider than {reach / steps:.3g} is missed up to {reach:.3g}",
        f"{counts['reached_by_both']} of {counts['compared']} rays were reached by both models, "
        f"{counts['reached_by_reference_only']} by the reference only, "
        f"{counts['reached_by_candidate_only']} by the candidate only",
    ]
    absent = pairs.before.numel() - counts["compared"]
    if absent:
        notes.append(f"{absent} rays do not exist, such as towards a shifted blank image, and were not compared")
    if left_out:
        notes.append(f"{left_out} of {asked} examples were left out, because the models disagree on them")
    return tuple(notes)
