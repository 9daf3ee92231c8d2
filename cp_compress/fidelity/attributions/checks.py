"""What must hold before attribution maps say anything: equal inputs, and attributions that are complete enough."""

from __future__ import annotations

from torch import Tensor

from cp_compress.base.arguments import check_real
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.attributions.methods import (
    AttributionMethod,
    DeepLift,
    IntegratedGradients,
    SmoothGrad,
    averaged_method,
)
from cp_compress.fidelity.observing.observation import Observation


def check_gap_limit(owner: str, limit: object) -> float:
    """Return the largest completeness gap that is allowed, a positive share."""
    return check_real(owner, "max_completeness_gap", limit, "must be a positive share of the logits' change", above=0)


def check_same_inputs(candidate: Observation, reference: Observation, chosen: Tensor) -> None:
    """Raise ObservationError unless both models read inputs of one shape; `chosen` are the examples looked at."""
    ours, theirs = (seen.data.select(chosen[:1])[0].shape[1:] for seen in (candidate, reference))
    if ours != theirs:
        raise ObservationError(
            f"the candidate's inputs have shape {tuple(ours)}, the reference's {tuple(theirs)}: "
            "maps are compared place by place, so the sizes must be equal"
        )


def check_completeness(method: AttributionMethod, gaps: dict[str, float | None], limit: float) -> None:
    """Raise ObservationError for a subject whose attributions miss more than the share `limit` of what they explain."""
    inner = averaged_method(method) if isinstance(method, SmoothGrad) else method
    if isinstance(inner, DeepLift) and inner.layer is not None:
        return
    if isinstance(inner, IntegratedGradients):
        remedy = f"use more steps, such as integrated_gradients(steps={2 * inner.steps})"
    else:
        remedy = "this model has activations for which DeepLIFT has no rule; use integrated_gradients()"
    for subject, gap in gaps.items():
        if gap is not None and not gap <= limit:
            missed = f"misses {gap:.1%} of the {subject}'s logit changes, more than the {limit:.1%} allowed"
            raise ObservationError(f"{method} {missed}: {remedy}")
