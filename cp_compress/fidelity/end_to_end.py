"""How much faster a compressed pipeline gives answers than the uncompressed one, from stored data on."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from cp_compress.base.arguments import check_integer, explains_keywords
from cp_compress.fidelity.judging.intervals import Quantile
from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.observing.runner import Model
from cp_compress.pipeline.profiling import Loss, Pipeline, profile_pipelines

_OWNER = "compare_end_to_end"
_BEFORE, _AFTER = "uncompressed", "compressed"
_FEWEST_TURNS = 3


@explains_keywords
def compare_end_to_end(
    candidate: Model,
    reference: Model,
    compressed_data: Any,
    data: Any,
    *,
    batch_size: int = 64,
    workers: int = 0,
    backward: bool = False,
    coefficients: bool = False,
    transform: Callable[[Any], Any] | None = None,
    loss: Loss | None = None,
    device: str | None = None,
    examples: int | None = None,
    turns: int = 9,
) -> Measurement:
    """Measure how many examples a second a compressed pipeline gives, and how much faster that is than the original.

    The compressed pipeline is the candidate on `compressed_data`, the uncompressed one the reference on `data`. Both
    are run in turns: `end_to_end_speedup` is the median over the turns of examples a second after / before,
    `examples_per_second` that of the compressed pipeline. Claims with a confidence are about the median of turns on
    this machine, by distribution-free bounds (order statistics).

    Args:
        candidate: The compressed model, or the reference itself where only the data is compressed.
        reference: The model before compression.
        compressed_data: What the candidate reads: a store or data set of streams or coefficients, or `data`.
        data: What the reference reads, as it would without compression.

    Args: The run
        batch_size: The number of examples in a batch.
        workers: The number of processes that load.
        backward: Whether gradients are computed too.
        coefficients: Whether the candidate reads the coefficients of its streams.
        transform: A function from a batch of inputs to what both models take, after collating.
        loss: What gradients are those of; by default the cross-entropy.
        device: Where models run; by default where they are.
        examples: The number of examples of a timed pass; by default those of the data, at most 64 batches.
        turns: The number of timed passes of each, 3 or more; a claim at 95 % needs 5.

    Returns:
        The measurement; the details hold both profiles and the speed-up of every turn.

    Raises:
        InvalidArgumentError: If an argument is not as described.
    """
    turns = check_integer(_OWNER, "turns", turns, "must be a whole number of 3 or more", at_least=_FEWEST_TURNS)
    common: dict[str, Any] = {
        "transform": transform,
        "batch_size": batch_size,
        "workers": workers,
        "backward": backward,
        "loss": loss,
        "device": device,
    }
    pipelines = {
        _BEFORE: Pipeline(data, reference, **common),
        _AFTER: Pipeline(compressed_data, candidate, coefficients=coefficients, **common),
    }
    found = profile_pipelines(pipelines, examples=examples, passes=turns)
    ratios, rates = found.ratios(_AFTER), found[_AFTER].rates
    metrics = {"end_to_end_speedup": statistics.median(ratios), "examples_per_second": statistics.median(rates)}
    evidence = {
        name: Quantile(np.asarray(values), 0.5)
        for name, values in (("end_to_end_speedup", ratios), ("examples_per_second", rates))
    }
    after = found[_AFTER]
    best = after.at_best[after.bottleneck]
    notes = (
        f"speed-up of {len(ratios)} turns: {min(ratios):.3g} to {max(ratios):.3g}; of the compressed pipeline, "
        f"{after.bottleneck} takes most ({after.shares[after.bottleneck]:.0%} of the time); without it at best "
        f"{best:,.0f} examples/s",
    )
    details = {"candidate": after.to_json(), "reference": found[_BEFORE].to_json(), "ratios": ratios}
    return Measurement(
        "end_to_end", metrics, dict.fromkeys(metrics, len(ratios)), evidence=evidence, details=details, notes=notes
    )
