"""Level C: does the model still look at the same parts of its inputs?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cp_compress.base.arguments import check_integer, check_real, explains_keywords, reject
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.attributions.checks import check_completeness, check_gap_limit, check_same_inputs
from cp_compress.fidelity.attributions.maps import AttributionMaps, attribution_maps, covered_tokens
from cp_compress.fidelity.attributions.methods.known import as_attribution_method
from cp_compress.fidelity.attributions.methods.method import AttributionMethod
from cp_compress.fidelity.attributions.pairs import (
    FLOOR_DEFINITION,
    Similarities,
    chance_level,
    padded_behind,
    strata,
    summarise,
)
from cp_compress.fidelity.attributions.sanity import require_model_dependence
from cp_compress.fidelity.attributions.similarity import check_fraction
from cp_compress.fidelity.judging.measurement import ExampleChange, Measurement
from cp_compress.fidelity.observing.observation import Observation, require_observations
from cp_compress.fidelity.observing.pairing import check_comparable
from cp_compress.fidelity.observing.sampling import choose_examples
from cp_compress.fidelity.varying.inputs import Input

_OWNER = "compare_attributions"
_LISTED_EXAMPLES = 20


@explains_keywords
def compare_attributions(
    candidate: Observation,
    reference: Observation,
    method: AttributionMethod | str = "saliency",
    *,
    input: Input = None,
    examples: int | Sequence[int] | Tensor | None = None,
    quantiles: Sequence[float] = (),
    top_fraction: float = 0.1,
    max_completeness_gap: float = 0.1,
    batch_size: int | None = None,
    seed: int = 0,
) -> Measurement:
    """Measure how much a candidate's attribution maps have in common with its reference's.

    Both models explain the class that the reference predicts, each on its own inputs. Maps are compared example by
    example by `split_jaccard` (IoU), in [0, 1]; two all-zero maps count as 1, one all-zero map as 0.

    Metrics: `mean_iou`, `median_iou`; `chance_iou`, the mean IoU of maps of different examples; `corrected_iou` =
    (mean − chance) / (1 − chance), 1 for equal maps and about 0 for unrelated ones; `iou_quantile_<q>` for each
    of `quantiles`; `agreeing_mean_iou`, over the examples on which both models predict one class; `rank_correlation`,
    the mean over examples of Spearman's correlation, in [−1, 1]; `top_fraction_iou`, the mean IoU of the strongest
    places. The details hold the chance level of each, and all means separately for the examples on which the
    predictions agree and disagree. With fewer than two examples there is no chance level: `chance_iou` and
    `corrected_iou` are then NaN with a count of 0; so is `agreeing_mean_iou` where the models agree on none.

    Args:
        candidate: The compressed model's observation.
        reference: The original model's observation, on the same examples.
        method: An attribution method, its expression such as "integrated_gradients(steps=50)", or the function
            "package.module:function" that returns one.
        input: Which of several inputs the maps explain: its name, or its place in a tuple; the others stay as each
            example has them. By default the only floating-point tensor, or else the only one, that is no mask. What a
            mask leaves out has no attribution and no part in any metric.
        examples: A number of examples, spread evenly over the data set; their indices; or None for all.
        quantiles: Which quantiles of the IoU over examples to report, numbers in (0, 1).
        top_fraction: The share of the places, in (0, 1), that count as the strongest.
        max_completeness_gap: How much of the logits' changes the maps of a complete method may miss, a share above 0:
            those of integrated gradients and of DeepLIFT at the input.
        batch_size: The largest number of inputs in one call of a model; by default 32 on a CPU and 512 elsewhere,
            and never more than the observations were made with.
        seed: Draws the pairs of the chance level, a whole number of 0 or more.

    Returns:
        The metrics, with evidence for claims at a confidence, the IoU of each example, and the 20 least similar ones.

    Raises:
        InvalidArgumentError: An argument is malformed or out of its range.
        ObservationError: The observations are not of the same examples; a model lacks the gradients, the layer or the
            activations that the method needs; attributions are NaN or infinite, have the wrong shape, or are all zero
            for both models; they miss more than `max_completeness_gap`; or a method of your own does not depend on the
            model.

    >>> from cp_compress.fidelity import observe
    >>> model, data = torch.nn.Linear(2, 2), (torch.eye(2), torch.tensor([0, 1]))
    >>> compare_attributions(observe(model, data), observe(model, data)).metrics["mean_iou"]
    1.0
    """
    require_observations(_OWNER, candidate=candidate, reference=reference)
    asked = as_attribution_method(method)
    levels = _check_quantiles(quantiles)
    share = check_fraction(_OWNER, "top_fraction", top_fraction)
    limit = check_gap_limit(_OWNER, max_completeness_gap)
    check_integer(_OWNER, "seed", seed, "seed must be a whole number of 0 or more", at_least=0)
    chosen = choose_examples(_OWNER, examples, len(reference))
    check_comparable(candidate, reference)
    check_same_inputs(_OWNER, candidate, reference, chosen, input)
    targets = reference.predictions[chosen]
    before = attribution_maps(reference, asked, chosen, targets, batch_size, input)
    require_model_dependence(reference, asked, chosen, targets, input)
    after = attribution_maps(candidate, asked, chosen, targets, batch_size, input)
    if before.maps.shape != after.maps.shape:
        raise ObservationError(
            f"{asked} gives maps of shape {tuple(after.maps.shape[1:])} for the candidate and "
            f"{tuple(before.maps.shape[1:])} for the reference: maps of different sizes cannot be compared"
        )
    gaps = {"reference": before.completeness_gap, "candidate": after.completeness_gap}
    check_completeness(asked, gaps, limit)
    zeros = _count_zero_maps(before, after)
    if zeros["both"] == len(chosen):
        raise ObservationError(f"{asked} gives all-zero maps for both models on every example: nothing was compared")
    maps, counting = padded_behind((after.maps, before.maps), before.counting)
    found = Similarities.of(*maps, share, counting)
    chance = chance_level(*maps, share, seed, counting)
    agree = candidate.predictions[chosen] == targets
    summary = summarise(found, chance, agree, levels)
    return Measurement(
        comparison="attributions",
        metrics=summary.metrics,
        counts=summary.counts,
        evidence=summary.evidence,
        per_example={
            "iou": found.index,
            "rank_correlation": found.rank,
            "top_fraction_iou": found.top,
            "example": chosen,
        },
        examples=_least_alike(found.index, chosen, candidate, reference),
        details={
            "method": str(asked),
            **({} if before.name is None else {"input": before.name}),
            "top_fraction": share,
            "strata": strata(found, agree),
            "zero_maps": zeros,
            "completeness_gap": gaps,
            "chance_floor": FLOOR_DEFINITION,
            "chance": {
                "mean_iou": summary.metrics["chance_iou"],
                "rank_correlation": chance.rank,
                "top_fraction_iou": chance.top,
                "top_fraction_iou of random places": share / (2 - share),
            },
        },
        notes=(*_notes(gaps, zeros, int((~agree).sum()), len(chosen)), *covered_tokens(reference, asked)),
    )


def _check_quantiles(quantiles: Sequence[float]) -> tuple[float, ...]:
    if isinstance(quantiles, (str, float)):
        reject(_OWNER, "quantiles", quantiles, "give a sequence of numbers in (0, 1)")
    rule = "quantiles must lie in (0, 1)"
    return tuple(check_real(_OWNER, "quantiles", level, rule, above=0, below=1) for level in quantiles)


def _count_zero_maps(before: AttributionMaps, after: AttributionMaps) -> dict[str, int]:
    zero_before, zero_after = (~found.maps.flatten(1).any(dim=1) for found in (before, after))
    return {
        "both": int((zero_before & zero_after).sum()),
        "reference": int((zero_before & ~zero_after).sum()),
        "candidate": int((~zero_before & zero_after).sum()),
    }


def _least_alike(
    index: Tensor, chosen: Tensor, candidate: Observation, reference: Observation
) -> tuple[ExampleChange, ...]:
    names, changes = reference.class_names, []
    for position in torch.argsort(index, stable=True)[:_LISTED_EXAMPLES].tolist():
        example = int(chosen[position])
        now, was = int(candidate.predictions[example]), int(reference.predictions[example])
        changes.append(
            ExampleChange(
                index=example,
                label=reference.label_name(example),
                before=names[was],
                after=f"{names[now]}, IoU of the maps {float(index[position]):.2f}",
            )
        )
    return tuple(changes)


def _notes(gaps: dict[str, float | None], zeros: dict[str, int], flips: int, count: int) -> tuple[str, ...]:
    notes = []
    if gaps["reference"] is not None:
        shares = f"{gaps['reference']:.2%} for the reference, {gaps['candidate']:.2%} for the candidate"
        notes.append(f"attributions miss of the logits' changes (completeness gap): {shares}")
    if any(zeros.values()):
        notes.append(
            f"all-zero maps: {zeros['both']} of {count} pairs in both (counted as 1), "
            f"{zeros['reference']} in the reference only, {zeros['candidate']} in the candidate only (counted as 0)"
        )
    if flips:
        notes.append(f"predictions differ on {flips} of {count} examples; both models explain the reference's")
    if count < 2:
        notes.append("with one example there are no pairs of different examples, so there is no chance level")
    return tuple(notes)
