"""What must hold before attribution maps say anything: equal inputs, maps of the right form, small enough gaps."""

from __future__ import annotations

from torch import Tensor

from cp_compress.base.arguments import check_real
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.attributions.masks import place_shape
from cp_compress.fidelity.attributions.methods.method import AttributionMethod, maps_and_change
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.fidelity.varying.inputs import Input, VariedInput


def check_gap_limit(owner: str, limit: object) -> float:
    """Return the largest completeness gap that is allowed, a positive share."""
    return check_real(owner, "max_completeness_gap", limit, "must be a positive share of the logits' change", above=0)


def check_same_inputs(
    owner: str, candidate: Observation, reference: Observation, chosen: Tensor, name: Input = None
) -> None:
    """Raise ObservationError unless both models read inputs of one shape; `chosen` are the examples compared.

    Of several inputs it is the one called `name`; raises as `find_input`, as `owner`, where there is none such.
    """
    purpose = "a comparison of attributions"
    ours, theirs = (
        VariedInput(seen, chosen[:1], name, owner=owner, purpose=purpose).shape for seen in (candidate, reference)
    )
    if ours != theirs:
        raise ObservationError(
            f"the candidate's inputs have shape {ours}, the reference's {theirs}: "
            "maps are compared place by place, so the sizes must be equal"
        )


def check_maps(method: AttributionMethod, found: object, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return what a method gave for inputs (n, ...): its maps, and the changes (n,) that they should add up to.

    Raises ObservationError for maps of another form than `AttributionMethod.attribute` asks for, and for a complete
    method without changes.
    """
    parts = found if isinstance(found, tuple) and len(found) == 2 else (found,)
    if not all(isinstance(part, Tensor) for part in parts):
        kinds = ", ".join(type(part).__name__ for part in (found if isinstance(found, tuple) else (found,)))
        raise ObservationError(f"{method} returned {kinds}: it must return a tensor of maps, or maps and changes")
    maps, change = maps_and_change(found)  # type: ignore[arg-type]
    if not maps.is_floating_point():
        raise ObservationError(f"{method} returned maps of {maps.dtype}: they must be of a floating-point dtype")
    shape, expected = tuple(maps.shape), _map_shapes(method, inputs)
    fits = shape in expected if expected else maps.ndim > 1 and len(maps) == len(inputs) and maps.numel() > 0
    if not fits:
        allowed = " or ".join(map(str, expected)) or f"({len(inputs)}, ...)"
        raise ObservationError(f"{method} returned maps of shape {shape} for {len(inputs)} inputs; expected {allowed}")
    if change is not None and tuple(change.shape) != (len(inputs),):
        found_shape, wanted = tuple(change.shape), (len(inputs),)
        raise ObservationError(f"{method} returned changes of the logits of shape {found_shape}; expected {wanted}")
    if change is None and method.inner.complete:
        rule = "a complete method returns a pair, its maps and the changes of the logits (n,)"
        raise ObservationError(f"{method} returned no changes of the logits: {rule}")
    return maps, change


def check_completeness(method: AttributionMethod, gaps: dict[str, float | None], limit: float) -> None:
    """Raise ObservationError for a subject whose attributions miss more than the share `limit` of what they explain."""
    if not method.inner.complete:
        return
    for subject, gap in gaps.items():
        if gap is not None and not gap <= limit:
            missed = f"misses {gap:.1%} of the {subject}'s logit changes, more than the {limit:.1%} allowed"
            raise ObservationError(f"{method} {missed}: {method.inner.gap_advice}")


def _map_shapes(method: AttributionMethod, inputs: Tensor) -> tuple[tuple[int, ...], ...]:
    """Return the shapes that maps of the input may have; none where a method looks at a layer, which has its own."""
    if method.at_layer is not None or method.inner.at_layer is not None:
        return ()
    count, *shape = inputs.shape
    space = place_shape(tuple(shape))
    return tuple(dict.fromkeys([tuple(inputs.shape), (count, *space), (count, 1, *space)]))
