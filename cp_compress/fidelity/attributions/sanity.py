"""Whether a user's own method looks at the model at all: maps that do not are equal for any two models."""

from __future__ import annotations

import contextlib
import copy

import torch
from torch import Tensor, nn

from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.attributions.maps import compute_maps
from cp_compress.fidelity.attributions.methods.known import is_users_own
from cp_compress.fidelity.attributions.methods.method import AttributionMethod
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.fidelity.observing.runner import Model, Runner
from cp_compress.fidelity.varying.inputs import Input

_TRIED_EXAMPLES = 4


def require_model_dependence(
    observation: Observation, method: AttributionMethod, indices: Tensor, targets: Tensor, name: Input = None
) -> None:
    """Raise ObservationError for a user's own method that gives another model the same maps.

    The other model has the same parts, with shuffled parameters, and logits scaled by a function of the input (the
    randomisation test of Adebayo et al. 2018, "Sanity checks for saliency maps"). `indices` (k,) are examples and
    `targets` (k,) their classes, of which the first four are tried. The methods of this package are not tried.
    """
    if is_users_own(method):
        few, classes = indices[:_TRIED_EXAMPLES], targets[:_TRIED_EXAMPLES]
        key = ("depends on the model", method, tuple(few.tolist()), tuple(classes.tolist()), name)
        observation.remember(key, lambda: _try_another_model(observation, method, few, classes, name))


def _try_another_model(
    observation: Observation, method: AttributionMethod, indices: Tensor, targets: Tensor, name: Input
) -> None:
    # in the same batches as the other model's: a method may do with a batch what it likes
    maps = compute_maps(observation, method, indices, targets, name=name).maps
    if not bool(maps.any()):  # comparisons refuse maps that are all zero
        return
    runner = observation.runner
    other = Observation(_other_model(runner), observation.data, runner.device, observation.batch_size.limit)
    try:
        others = compute_maps(other, method, indices, targets, name=name).maps
    except ObservationError:  # it looked at the other model, and could not use it
        return
    if others.shape == maps.shape and torch.allclose(others, maps, rtol=1e-5, atol=0):
        raise ObservationError(
            f"{method} gives the same maps for a model with other parameters and other logits: maps that do not depend "
            "on the model are equal for any two models, so that nothing would be compared"
        )


def _other_model(runner: Runner) -> Model:
    """Return a model with the same parts and layers that answers otherwise; the one observed is not changed."""
    if runner.module is not None:
        with contextlib.suppress(Exception):  # not every module can be copied
            return _shuffled(copy.deepcopy(runner.module))
    return lambda inputs: _scaled(runner.logits(inputs), inputs)


def _shuffled(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
        parameter.data = parameter.detach().flatten()[order].reshape(parameter.shape).clone()
    module.register_forward_hook(_scale_output)
    return module


def _scale_output(module: nn.Module, args: tuple[object, ...], output: object) -> object:
    tensors = args and isinstance(args[0], Tensor) and isinstance(output, Tensor)
    return _scaled(output, args[0]) if tensors else output  # type: ignore[arg-type]


def _scaled(logits: Tensor, inputs: Tensor) -> Tensor:
    rows = inputs.flatten(1).to(logits.dtype)
    share = rows @ torch.linspace(-1, 1, rows.shape[1], dtype=logits.dtype, device=logits.device)
    return logits * (2 + share[:, None].sin())
