"""The gate's own set of directions: determined by data, reference and seed, the same for every candidate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from cp_compress.base.arguments import reject
from cp_compress.base.extensions import added
from cp_compress.data import JPEG
from cp_compress.fidelity.boundaries.blocks import DirectionBlocks, gate_blocks
from cp_compress.fidelity.boundaries.comparison import FAMILIES as FAMILIES
from cp_compress.fidelity.boundaries.comparison import compare_boundaries, standard_examples
from cp_compress.fidelity.boundaries.directions import Directions
from cp_compress.fidelity.boundaries.families import PURPOSE, residual_directions
from cp_compress.fidelity.boundaries.search import Bounds
from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.observing.observation import Observation, require_observations
from cp_compress.fidelity.observing.sampling import choose_examples
from cp_compress.fidelity.varying.inputs import Input, Varied
from cp_compress.fidelity.varying.layers import vary
from cp_compress.inputs.tasks import require_one_class

_RESIDUAL_CODEC = JPEG(quality=10)
_OWNER = "assert_boundary_distance"


def standard_directions(varied: Varied, seed: int, batch_size: int | None = None) -> Directions | DirectionBlocks:
    """Return class gradients, slow waves, Gaussian directions and, for images in [0, 1], JPEG residuals.

    The residuals are those of one fixed codec, whatever compressed the candidate's data. `batch_size` is as in
    `compare_boundaries`.
    """
    require_one_class(varied.observation.task)
    key = ("JPEG residuals", tuple(varied.chosen.tolist()), varied.name)
    residuals = None
    if varied.layer is None:
        residuals = varied.observation.remember(key, lambda: _residuals(varied.values()))
    return gate_blocks(varied, seed=seed, residuals=residuals, batch_size=batch_size)


def find_directions(directions: Any, varied: Varied, seed: int, batch_size: int | None = None) -> Any:
    """Return the directions that a name stands for, "gate" or a family that was added; anything else as it is."""
    reference, chosen = varied.observation, varied.chosen
    require_one_class(reference.task)
    if not isinstance(directions, str):
        return directions
    if directions == "gate":
        return standard_directions(varied, seed, batch_size)
    make = added("directions").get(directions)
    if make is None:
        if directions not in FAMILIES:
            known = ", ".join((*FAMILIES, *added("directions")))
            reject(_OWNER, "directions", directions, f"must be one of {known}, or directions")
        return directions
    return reference.remember(
        (f"{directions} directions", tuple(chosen.tolist()), seed), lambda: make(reference, chosen, seed)
    )


def compare_standard_boundaries(
    candidate: Observation,
    reference: Observation,
    directions: Directions | DirectionBlocks | Tensor | str = "gate",
    *,
    max_distance: float | None = None,
    examples: int | Sequence[int] | str | None = "auto",
    tolerance: float = 0.1,
    bounds: Bounds | None = None,
    steps: int = 32,
    bisections: int = 14,
    batch_size: int | None = None,
    seed: int = 0,
    input: Input = None,
    at_layer: str | None = None,
) -> Measurement:
    """Measure as `compare_boundaries`, whose arguments these are, with the gate's directions as the default.

    `directions` may also name a family that a user has added.
    """
    require_observations("compare_standard_boundaries", candidate=candidate, reference=reference)
    require_one_class(reference.task)
    number = standard_examples(_OWNER, examples, reference, input, at_layer)
    chosen = choose_examples(_OWNER, number, len(reference))
    varied = vary(reference, chosen, input, at_layer, owner=_OWNER, purpose=PURPOSE)
    return compare_boundaries(
        candidate,
        reference,
        find_directions(directions, varied, seed, batch_size),
        max_distance=max_distance,
        examples=chosen,
        tolerance=tolerance,
        bounds=bounds,
        steps=steps,
        bisections=bisections,
        batch_size=batch_size,
        seed=seed,
        input=input,
        at_layer=at_layer,
    )


def _residuals(images: Tensor) -> Directions | None:
    is_image = images.ndim == 4 and images.shape[1] in (1, 3) and images.is_floating_point()
    if not is_image or images.min() < 0 or images.max() > 1:
        return None
    decoded = _RESIDUAL_CODEC.roundtrip(images)
    exact = (decoded == images).flatten(1).all(dim=1)
    if not bool(exact.any()):
        return residual_directions(decoded, images)
    if bool(exact.all()):
        return None
    # a blank image has no residual
    names, families = ("compression residual",), ("residual",)
    return Directions((decoded - images)[:, None], names, families, per_example=True, absent=exact[:, None])
