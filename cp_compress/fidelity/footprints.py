"""How much smaller and faster a candidate is than its reference, as a measurement that requirements can be made of."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from torch import nn

from cp_compress.base.arguments import reject
from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.observing.observation import Observation, require_observations
from cp_compress.fidelity.observing.runner import Model
from cp_compress.inputs.trees import arguments_of
from cp_compress.model.coverage import measure_coverage
from cp_compress.model.footprints import figures_of, measure_latency

_OWNER = "compare_footprints"


def compare_observed_footprints(
    candidate: Observation,
    reference: Observation,
    *,
    metrics: Collection[str] = ("compression",),
    batch_size: int = 256,
) -> Measurement:
    """Measure as `compare_footprints` the models of two observations, on their first `batch_size` inputs.

    They are never more than the reference was observed with in one call.
    """
    require_observations("compare_observed_footprints", candidate=candidate, reference=reference)
    count = min(len(reference), batch_size, reference.batch_size.limit)
    batch = reference.data.read(range(count))[0].to(reference.runner.device)
    return compare_footprints(candidate.model, reference.model, arguments_of(batch), metrics)


def compare_footprints(
    candidate: Model, reference: Model, example_input: Any = None, metrics: Collection[str] = ("compression",)
) -> Measurement:
    """Measure how much smaller a candidate is, and with `example_input`, a batch, how much less it computes.

    `compression` is reference bytes / candidate bytes of the files that `save` writes, or of their own files (ONNX,
    exported programs, commands, and whatever tells `file_bytes`), `flops_ratio` the candidate's
    FLOPs as a share of the reference's, `speedup`, measured where `metrics` asks for it, the ratio of median latencies
    of both in turns. The details hold what was measured of each, `latency_seconds` included. Raises
    InvalidArgumentError for models without a size that is known, and for metrics that need a batch when none is given,
    or modules; CompressionError for a model that holds what nobody can see.
    `coverage` is the share of the reference's weights that the candidate changed, NaN where that is unknown; where
    nothing else is asked for, the models may be of any kind.
    """
    coverage = measure_coverage(candidate, reference)
    share = math.nan if coverage.share is None else coverage.share
    notes = (str(coverage),) if coverage.share is None and "coverage" in metrics else ()
    if set(metrics) == {"coverage"}:
        return Measurement("footprint", {"coverage": share}, {"coverage": 1}, notes=notes)
    needs_batch = {"flops_ratio", "speedup"} & set(metrics)
    if example_input is None and needs_batch:
        reject(_OWNER, "example_input", None, "FLOPs and speed are measured on a batch; give one")
    modules = isinstance(candidate, nn.Module) and isinstance(reference, nn.Module)
    if needs_batch and not modules and "compression" not in metrics:  # else what is known is measured
        kinds = f"{type(candidate).__name__}, {type(reference).__name__}"
        reject(_OWNER, "models", kinds, f"{min(needs_batch)} is measured of torch.nn.Module alone")
    batch = example_input if modules else None
    after, before = figures_of(candidate, batch), figures_of(reference, batch)
    sizes = [one["artifact_bytes"] or 0 for one in (before, after)]
    found = {"compression": sizes[0] / sizes[1]}
    if after["flops"] is not None and before["flops"] is not None:
        found["flops_ratio"] = after["flops"] / before["flops"]
    details: dict[str, dict[str, Any]] = {"candidate": dict(after), "reference": dict(before)}
    if coverage.share is not None or "coverage" in metrics:
        found["coverage"] = share
    if isinstance(candidate, nn.Module) and isinstance(reference, nn.Module) and "speedup" in metrics:
        after_seconds, before_seconds = measure_latency(candidate, reference, example_input)
        found["speedup"] = before_seconds / after_seconds
        details["candidate"]["latency_seconds"] = after_seconds
        details["reference"]["latency_seconds"] = before_seconds
    return Measurement(
        "footprint",
        found,
        dict.fromkeys(found, 1),
        details=details,
        notes=notes,
    )
