"""Is a compressed model as robust to corruptions of images as its reference?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from cp_compress.base.arguments import check_choice, check_integer, explains_keywords, reject
from cp_compress.data.corruptions.dataset import CORRUPTION_NAMES, corrupt
from cp_compress.fidelity.judging.intervals import BoundedMean, Evidence, PairedDrop
from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.judging.metrics import without_labels
from cp_compress.fidelity.observing.observation import Observation, require_observations
from cp_compress.fidelity.observing.output_checks import check_finite
from cp_compress.fidelity.observing.pairing import check_comparable
from cp_compress.fidelity.observing.runner import Runner
from cp_compress.fidelity.observing.sampling import choose_examples
from cp_compress.fidelity.predictions.tables import paired_drop
from cp_compress.inputs.unlabeled import NO_LABELS_NOTE

_ALONE = ("corruption", "severity", "agreement")
_OWNER = "compare_robustness"


@explains_keywords
def compare_robustness(
    candidate: Observation,
    reference: Observation,
    corruptions: Sequence[str] | str = "all",
    severities: Sequence[int] = (1, 3, 5),
    *,
    examples: int | Sequence[int] | Tensor | None = None,
    seed: int = 0,
) -> Measurement:
    """Measure whether two models predict the same classes for corrupted images.

    Each model's own images are corrupted with the same random numbers.

    Metrics over all cells (a corruption at a severity): `corrupted_agreement`, the mean fraction of equal predictions;
    `worst_corrupted_agreement`, that of the worst cell; `corrupted_accuracy_drop`, the mean drop of accuracy, and
    `worst_corrupted_accuracy_drop`, the largest; `corruption_error_ratio`, the mean over corruptions of the candidate's
    summed errors over the reference's (mCE of Hendrycks and Dietterich 2019, with the reference in place of AlexNet, as
    a ratio), NaN if the reference makes no error on one of them. Details hold every cell.

    Args:
        candidate: The observation of the compressed model, or of a model on compressed data.
        reference: The observation of the reference on the same examples.
        corruptions: Names among the fifteen of `CORRUPTION_NAMES`, or "all".
        severities: Whole numbers in 1…5.
        examples: A number of examples spread evenly over the data set, their indices, or None for all.
        seed: The seed of the random numbers of each example.

    Returns:
        The measurement.

    Raises:
        InvalidArgumentError: If a corruption or severity is unknown, or the data is not images in [0, 1].
        ObservationError: If the observations are not of the same examples, or logits on corrupted images are NaN or
            infinite.
    """
    require_observations(_OWNER, candidate=candidate, reference=reference)
    check_comparable(candidate, reference)
    reference.data.require_one_tensor("a comparison on corrupted images")
    names, levels = _read_names(corruptions), _read_levels(severities)
    chosen = choose_examples(_OWNER, examples, len(reference))
    labels = reference.targets[chosen]
    cells: list[dict[str, Any]] = []
    same: list[Tensor] = []
    drops: list[PairedDrop] = []
    errors: dict[str, list[tuple[int, int]]] = {name: [] for name in names}
    for name in names:
        for level in levels:
            before, after = (_predictions(seen, name, level, chosen, seed) for seen in (reference, candidate))
            same.append(before == after)
            right_before, right_after = before == labels, after == labels
            drops.append(paired_drop(right_before, right_after))
            errors[name].append((int((~right_before).sum()), int((~right_after).sum())))
            cells.append(
                {
                    "corruption": name,
                    "severity": level,
                    "agreement": same[-1].double().mean().item(),
                    "reference_accuracy": right_before.double().mean().item(),
                    "accuracy": right_after.double().mean().item(),
                    "drop": (drops[-1].lost - drops[-1].gained) / len(chosen),
                }
            )
    agreeing = torch.stack(same)
    by_example = agreeing.double().mean(dim=0)
    # of whole numbers: a mean of rounded shares may lie a hair beyond a bound that it meets
    metrics = {
        "corrupted_agreement": int(agreeing.sum()) / agreeing.numel(),
        "worst_corrupted_agreement": min(cell["agreement"] for cell in cells),
        "corrupted_accuracy_drop": sum(drop.lost - drop.gained for drop in drops) / agreeing.numel(),
        "worst_corrupted_accuracy_drop": max(cell["drop"] for cell in cells),
        "corruption_error_ratio": _error_ratio(errors),
    }
    evidence: dict[str, Evidence] = {"corrupted_agreement": BoundedMean.of(by_example.numpy())}
    counts = dict.fromkeys(metrics, len(chosen))
    if metrics["corruption_error_ratio"] != metrics["corruption_error_ratio"]:
        counts["corruption_error_ratio"] = 0
    if not reference.labeled:
        metrics = without_labels(metrics)
        counts = {name: counts[name] for name in metrics}
        cells = [{name: value for name, value in cell.items() if name in _ALONE} for cell in cells]
    worst = min(cells, key=lambda cell: cell["agreement"])
    return Measurement(
        comparison="robustness",
        metrics=metrics,
        counts=counts,
        evidence=evidence,
        per_example={"example": chosen, "corrupted_agreement": by_example},
        details={"cells": cells, "seed": seed},
        notes=(
            f"{len(cells)} cells of {len(chosen)} examples each; the models agree least on {worst['corruption']} at "
            f"severity {worst['severity']}: {worst['agreement']:.1%}",
            *(() if reference.labeled else (NO_LABELS_NOTE,)),
        ),
    )


def _read_names(corruptions: Sequence[str] | str) -> list[str]:
    if corruptions == "all":
        return list(CORRUPTION_NAMES)
    if not isinstance(corruptions, Iterable):
        reject(_OWNER, "corruptions", corruptions, 'give names of corruptions in a sequence, or "all"')
    given = [corruptions] if isinstance(corruptions, str) else list(corruptions)
    names = [check_choice(_OWNER, "corruptions", name, CORRUPTION_NAMES) for name in given]
    if not names or len(set(names)) < len(names):
        reject(_OWNER, "corruptions", corruptions, "give at least one corruption, each once")
    return names


def _read_levels(severities: Sequence[int]) -> list[int]:
    rule = "give a sequence of whole numbers in 1..5, such as (1, 3, 5)"
    if not isinstance(severities, Iterable):
        reject(_OWNER, "severities", severities, rule)
    levels = [check_integer(_OWNER, "severities", level, rule, at_least=1, at_most=5) for level in severities]
    if not levels or len(set(levels)) < len(levels):
        reject(_OWNER, "severities", severities, "give at least one severity, each once")
    return levels


def _predictions(seen: Observation, corruption: str, severity: int, chosen: Tensor, seed: int) -> Tensor:
    def compute() -> Tensor:
        runner: Runner = seen.runner
        parts: list[Tensor] = []

        def run(part: slice) -> None:
            rows = chosen[part]
            images = corrupt(seen.data.inputs(rows), corruption, severity, seed=seed, indices=rows)
            parts.append(runner.logits(images).cpu())

        with torch.inference_mode(False), torch.no_grad(), runner.evaluating():
            seen.batch_size.run(len(chosen), run)
        logits = torch.cat(parts)
        check_finite(logits, chosen, f"images corrupted by {corruption} at severity {severity}")
        return logits.argmax(dim=1)

    return seen.remember(("corrupted", corruption, severity, tuple(chosen.tolist()), seed), compute)


def _error_ratio(errors: dict[str, list[tuple[int, int]]]) -> float:
    ratios = []
    for counts in errors.values():
        before, after = (sum(column) for column in zip(*counts, strict=True))
        ratios.append(after / before if before else float("nan"))
    return sum(ratios) / len(ratios)
