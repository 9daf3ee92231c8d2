"""Attribution maps of one observed model, computed in batches, once."""

from __future__ import annotations

import contextlib
import functools
import math
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.batching import is_out_of_memory
from cp_compress.base.digests import digest_tensors
from cp_compress.base.errors import FORESEEN, ObservationError
from cp_compress.base.showing.brief import Brief
from cp_compress.base.showing.work import Work
from cp_compress.fidelity.attributions.checks import check_maps
from cp_compress.fidelity.attributions.methods.method import AttributionMethod, AttributionSubject, sum_of
from cp_compress.fidelity.attributions.methods.occlusion import Occlusion
from cp_compress.fidelity.attributions.methods.rules import DeepLift
from cp_compress.fidelity.observing.activation_modules import ActivationModules
from cp_compress.fidelity.observing.gradients import (
    differentiable,
    differentiating,
    require_gradients,
    starting_at,
)
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.fidelity.observing.runner import Runner
from cp_compress.fidelity.observing.sampling import batch_size_for
from cp_compress.fidelity.varying.inputs import Input, VariedInput, embedding_of
from cp_compress.fidelity.varying.layers import find_used_layer

_TRACED_EXAMPLES = 2
_PURPOSE = "a comparison of attributions"
_KEPT_BYTES = 2**30
_kept: list[tuple[weakref.ref[Observation], Hashable, int]] = []  # the maps used last stand last


@dataclass(frozen=True, repr=False)
class AttributionMaps(Brief):
    """Signed maps (n, ...) on the CPU, and how far attributions that should be complete are from it.

    `completeness_gap` is Σ|gap| / Σ|change| over the examples: the gap is the map's sum less the change of the
    logit from the baseline, which a complete map would add up to. None for methods that are not meant to be complete.
    `counting` (n, length) tells which places are no padding, where the maps have places of padding, which are 0, and
    `name` is that of the input that they explain, where an example has several.
    """

    maps: Tensor
    completeness_gap: float | None = None
    counting: Tensor | None = None
    name: str | None = None


def attribution_maps(
    observation: Observation,
    method: AttributionMethod,
    indices: Tensor,
    targets: Tensor,
    batch_size: int | None = None,
    name: Input = None,
) -> AttributionMaps:
    """Return the maps of the examples at `indices` (k,) for the classes `targets` (k,), computed once.

    `batch_size` is the largest number of inputs in one call of the model, steps and windows included, and `name` that
    of the input that is explained where an example has several. Maps, as large
    as the inputs or the layer's outputs of `k` examples, stay with the observation while all that are kept hold a
    gigabyte or less; beyond that those used last stay, the last two in any case.

    Raises ObservationError when the model offers no gradients, no layers or no activations where the method needs
    them, when the layer does not exist, when the method fails or gives maps of another form, and for NaN or infinite
    attributions.
    """
    key = _key(method, indices, targets, batch_size, name)
    found = observation.remember(key, lambda: compute_maps(observation, method, indices, targets, batch_size, name))
    _keep(observation, key, found.maps.nbytes)
    return found


def maps_of_some(
    observation: Observation,
    method: AttributionMethod,
    indices: Tensor,
    targets: Tensor,
    some: Tensor,
    batch_size: int | None = None,
    name: Input = None,
) -> Tensor:
    """Return the maps of the examples `some` (m,) among those at `indices` (k,), for their classes `targets` (k,).

    They are taken from what `attribution_maps` has kept of the same arguments, and else computed, these alone.
    """
    places = {int(index): place for place, index in enumerate(indices.tolist())}
    rows = torch.tensor([places[int(index)] for index in some.tolist()])
    if observation.remembers(_key(method, indices, targets, batch_size, name)):
        return attribution_maps(observation, method, indices, targets, batch_size, name).maps[rows]
    return attribution_maps(observation, method, some, targets[rows], batch_size, name).maps


def _key(method: AttributionMethod, indices: Tensor, targets: Tensor, batch_size: int | None, name: Input) -> Hashable:
    return "attributions", method, digest_tensors([indices, targets]), batch_size, name


def _keep(observation: Observation, key: Hashable, size: int) -> None:
    """Note that maps were used, and drop those that were used longest ago when all together are too large."""
    others = [kept for kept in _kept if kept[0]() is not None and (kept[0]() is not observation or kept[1] != key)]
    _kept[:] = [*others, (weakref.ref(observation), key, size)]
    while len(_kept) > 2 and sum(kept[2] for kept in _kept) > _KEPT_BYTES:
        owner, old, _ = _kept.pop(0)
        seen = owner()
        if seen is not None:
            seen.forget(old)


def compute_maps(
    observation: Observation,
    method: AttributionMethod,
    indices: Tensor,
    targets: Tensor,
    batch_size: int | None = None,
    name: Input = None,
) -> AttributionMaps:
    """Return the maps as `attribution_maps`, and keep nothing."""
    runner = observation.runner
    batch = batch_size_for(runner.device, batch_size, observation.batch_size.limit)
    varied = VariedInput(observation, indices, name, owner="attributions", purpose=_PURPOSE)
    if getattr(method.inner, "mask_token", None) is not None:
        varied.note_padding()
    layer, modules = _prepare(varied, method)
    discrete = not varied.floating
    draws = _draw(method, varied)
    work, counted = Work(f"{method} of {len(indices)} examples"), runner.passes
    maps: list[Tensor] = []
    gaps: list[Tensor] = []

    def run(part: slice) -> None:
        leaf, target = _leaf(runner, varied.values(part)), targets[part].to(runner.device, copy=True)
        rows = torch.arange(part.start, part.stop) if varied.beside else None
        subject = AttributionSubject(runner, modules, layer, draws, batch.limit, rows, varied.logits)
        found, change = check_maps(method, _ask(method, lambda: method.attribute(subject, leaf, target)), leaf)
        if not maps:  # at its final size from the start: joining parts would hold everything twice
            maps.append(torch.empty(len(indices), *found.shape[1:], dtype=found.dtype))
        if maps[0].shape[1:] != found.shape[1:]:
            sizes = f"{tuple(maps[0].shape[1:])} and {tuple(found.shape[1:])}"
            raise ObservationError(f"{method} returned maps of the shapes {sizes} in two batches: all must have one")
        if change is not None:
            gaps.append(torch.stack([sum_of(found) - change, change], dim=1).double().cpu())
        maps[0][part] = varied.clear(found, part).cpu()
        work.done(runner.passes - counted - work.made, share=part.stop / len(indices))

    with differentiating(runner), _gradients_from(layer, discrete):
        batch.run(len(indices), run)
    _check_finite(maps[0], indices, method)
    counting = varied.counting_in(maps[0])
    if not gaps:
        return AttributionMaps(maps[0], None, counting, varied.name)
    missing, change = torch.cat(gaps).abs().sum(dim=0).tolist()
    return AttributionMaps(maps[0], missing / change if change > 0 else math.inf, counting, varied.name)


def _prepare(varied: VariedInput, method: AttributionMethod) -> tuple[nn.Module | None, ActivationModules | None]:
    """Return the layer that a method looks at, and the model with its activations as modules, where it needs them."""
    runner, inner = varied.runner, method.inner
    first = varied.values(slice(0, _TRACED_EXAMPLES))
    rows = torch.arange(len(first))
    beside = (rows,) if varied.beside else ()
    discrete = not first.is_floating_point()
    if discrete:
        _require_discrete(varied, method, first)
    elif "gradients" in inner.needs:
        run = functools.partial(varied.logits, rows=rows[:1])
        require_gradients(runner, first[:1], f"attribution by {method}", run)
    spatial, layer = "spatial layer" in inner.needs, None
    if inner.at_layer is not None:
        layer = find_used_layer(runner, str(inner), inner.at_layer, varied.inputs(slice(0, 1)), spatial=spatial)
    if layer is None and not {"activation modules", "relu"} & set(inner.needs):
        return None, None
    with differentiating(runner), _gradients_from(layer, discrete):
        modules = ActivationModules(varied.logits, _leaf(runner, first), *beside)
    if "relu" in inner.needs and not modules.has(nn.ReLU):
        raise ObservationError(f"{method} needs a ReLU in the model's forward pass, and no ReLU is seen there")
    return layer, modules


def _leaf(runner: Runner, inputs: Tensor) -> Tensor:
    """Return a copy of inputs on the model's device, which gradients can be asked for where their dtype has any."""
    return differentiable(runner, inputs) if inputs.is_floating_point() else inputs.to(runner.device, copy=True)


def _gradients_from(layer: nn.Module | None, discrete: bool) -> contextlib.AbstractContextManager[None]:
    return starting_at(layer) if discrete and layer is not None else contextlib.nullcontext()


def _require_discrete(varied: VariedInput, method: AttributionMethod, inputs: Tensor) -> None:
    """Raise ObservationError for a method that cannot explain inputs of whole numbers, such as token ids."""
    inner = method.inner
    noisy = inner is not method
    if varied.runner.module is None and inner.at_layer is not None:
        told = f"{method} looks at a layer, and the model is a plain callable without layers"
        raise ObservationError(f"{told}; cover tokens instead: occlusion(mask_token=…)")
    ruled = isinstance(inner, DeepLift)  # whose rules start at the input, whatever layer it looks at
    if not noisy and ((inner.at_layer is not None and not ruled) or not inner.needs):
        baseline = getattr(inner, "baseline", 0)
        if isinstance(baseline, (int, float)) and baseline != int(baseline):
            rule = f"inputs are {inputs.dtype}, so the baseline is one too: a whole number, such as a padding token's"
            raise ObservationError(f"{method}: {rule}")
        if varied.name is not None and isinstance(inner, Occlusion) and inner.mask_token is None:
            rule = "say which token is read in the place of a covered one, such as its tokenizer's mask_token_id"
            raise ObservationError(f"{method}: {varied.what} are {inputs.dtype}: {rule}: occlusion(mask_token=…)")
        return
    what = "it adds noise to the inputs" if noisy else "gradients need inputs of a floating-point dtype"
    table = embedding_of(varied.runner.module)
    look = (
        ""
        if varied.runner.module is None
        else (
            f"look at the layer that embeds them, such as saliency(layer={table or 'embedding'!r}) or "
            f"integrated_gradients(layer={table or 'embedding'!r}), or "
        )
    )
    cover = "occlusion(window=1, stride=1)" if varied.name is None else "occlusion(mask_token=…)"
    raise ObservationError(f"{method}: {varied.what} are {inputs.dtype}: {what}; {look}cover them: {cover}")


def covered_tokens(observation: Observation, method: AttributionMethod) -> tuple[str, ...]:
    """Return a note where token ids were covered by an id that nobody has named."""
    if not isinstance(method.inner, Occlusion) or method.inner.mask_token is not None:
        return ()
    first = observation.data.read([0])[0]
    tokens = isinstance(first, Tensor) and first.ndim == 2 and not first.is_floating_point()
    return ("in the place of covered token ids the id 0 is read: occlusion(mask_token=…) names another",) * tokens


def _draw(method: AttributionMethod, varied: VariedInput) -> dict[str, Tensor]:
    drawn = _ask(method, lambda: method.draws(varied.data, varied.shape))
    if not isinstance(drawn, dict) or not all(isinstance(part, Tensor) for part in drawn.values()):
        raise ObservationError(f"{method} drew a {type(drawn).__name__}: draws must be tensors by name, in a dict")
    return drawn


def _ask(method: AttributionMethod, call: Callable[[], Any]) -> Any:
    """Return what a method's code gives; raises ObservationError, with its cause, for an error that it did not mean."""
    try:
        return call()
    except FORESEEN:
        raise
    except Exception as error:
        if is_out_of_memory(error):  # smaller batches may fit
            raise
        raise ObservationError(f"{method} failed: {type(error).__name__}: {error}") from error


def _check_finite(maps: Tensor, indices: Tensor, method: AttributionMethod) -> None:
    bad = indices[~torch.isfinite(maps).flatten(1).all(dim=1)]
    if len(bad):
        first = ", ".join(f"#{index}" for index in bad[:5].tolist())
        raise ObservationError(
            f"{method} gives NaN or infinite attributions on {len(bad)} of {len(maps)} examples ({first}"
            f"{'…' if len(bad) > 5 else ''}): such maps cannot be compared"
        )
