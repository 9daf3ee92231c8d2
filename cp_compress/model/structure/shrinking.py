"""Units really removed, with everything that depends on them, each removal checked on a copy before it is done.

The outputs of a shrunk copy must equal those of a copy in which the same units are zero.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from cp_compress.base.errors import CompressionError
from cp_compress.model.representations.half_computed import find_casts
from cp_compress.model.structure.cuts import Plan, remove
from cp_compress.model.structure.units import zero_channels, zero_units
from cp_compress.model.tracing import Inputs, output_tensors, running

_DOUBLE, _SINGLE, _HALF = 1e-9, 1e-5, 2e-2  # relative errors of sums in float64, float32 and 16 bits


def sound_plans(model: nn.Module, plans: Sequence[Plan], inputs: Inputs) -> list[Plan]:
    """Return the plans that may be carried out together without a change of the model's outputs.

    Raises CompressionError when the model's output does not depend on its input, so that nothing can be checked.
    """
    probe = _probe(model)
    if not _depends_on_input(probe, inputs):
        raise CompressionError(
            "the model's output does not depend on its input, so that a removal cannot be checked; use shrink=False"
        )
    return _sound_part(_best_check(model, probe, inputs), plans)


@dataclass(frozen=True, eq=False)
class _Check:
    """A copy of a model to check plans on, with the relative error that its arithmetic may make."""

    probe: nn.Module
    inputs: Inputs
    tolerance: float

    def passes(self, plans: Sequence[Plan]) -> bool:
        """Tell whether a copy without some units gives what one gives in which they are zero."""
        try:
            outputs, expected = (self._after(change, plans) for change in (remove, _mask))
        except Exception:  # a wrong plan may break the model's own code in any way; it is then not carried out
            return False
        if len(outputs) != len(expected) or any(a.shape != b.shape for a, b in zip(outputs, expected, strict=True)):
            return False
        return all(_close(a, b, self.tolerance) for a, b in zip(outputs, expected, strict=True))

    def _after(self, change: Callable[[nn.Module, Sequence[Plan]], None], plans: Sequence[Plan]) -> list[Tensor]:
        changed = copy.deepcopy(self.probe)  # one at a time: a language model fills much of a machine's memory
        change(changed, plans)
        return _run(changed, self.inputs.first)


def _best_check(model: nn.Module, probe: nn.Module, inputs: Inputs) -> _Check:
    if find_casts(model) is not None:  # the arithmetic is the casts' own
        return _Check(probe, inputs, _HALF)
    exact = copy.deepcopy(probe).double()
    try:
        outputs = _run(exact, inputs.first)
    except Exception:  # some kernels, such as those of experts, know no float64
        half = any(parameter.element_size() < 4 for parameter in probe.parameters() if parameter.is_floating_point())
        return _Check(probe, inputs, _HALF if half else _SINGLE)
    return _Check(exact, inputs, _DOUBLE if all(leaf.dtype == torch.float64 for leaf in outputs) else _HALF)


def _sound_part(check: _Check, plans: Sequence[Plan]) -> list[Plan]:
    """Return plans that are right together; where they are not, both halves are checked separately."""
    if not plans or check.passes(plans):
        return list(plans)
    if len(plans) == 1:
        return []
    middle = len(plans) // 2
    sound = [*_sound_part(check, plans[:middle]), *_sound_part(check, plans[middle:])]
    if sound and len(sound) < len(plans) and check.passes(sound):
        return sound
    # each half is right and both together are not: the first half of them is kept
    return _sound_part(check, sound[: (len(sound) + 1) // 2])


class _Widened(TorchFunctionMode):
    """Computes in float64 what a model takes to float32 on its own, as its norms and softmaxes may."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        wide = [torch.float64 if value is torch.float32 else value for value in args]
        named = {key: torch.float64 if value is torch.float32 else value for key, value in (kwargs or {}).items()}
        call: Any = torch.Tensor.double if func is torch.Tensor.float else func
        return call(*wide, **named)


def _probe(model: nn.Module) -> nn.Module:
    """Return a copy to check plans on, without weights that hide what is behind them.

    A tensor of nothing but zeros, as in a head or a norm that is to be trained from zero, is filled with random
    numbers: which layers hang together does not depend on values.
    """
    probe = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    for module in probe.modules():
        for name, parameter in module._parameters.items():
            if parameter is None or parameter.numel() == 0 or not parameter.is_floating_point():
                continue
            if (parameter.ndim > 1 or name == "weight") and not parameter.any():
                values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.data.copy_(values / max(1, parameter[0].numel()) ** 0.5)
    return probe


def _depends_on_input(probe: nn.Module, inputs: Inputs) -> bool:
    return not all(map(torch.equal, _run(probe, inputs.first), _run(probe, inputs.second)))


def _run(probe: nn.Module, batch: Tensor) -> list[Tensor]:
    double = any(parameter.dtype == torch.float64 for parameter in probe.parameters())
    with running(probe), torch.no_grad(), _Widened() if double else contextlib.nullcontext():
        leaves = output_tensors(probe(batch.double() if double and batch.is_floating_point() else batch))
    return [leaf for leaf in leaves if leaf.is_floating_point()]


def _close(actual: Tensor, expected: Tensor, tolerance: float) -> bool:
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    return bool(torch.allclose(actual, expected, rtol=tolerance, atol=tolerance * max(scale, 1e-30)))


def _mask(model: nn.Module, plans: Iterable[Plan]) -> None:
    for plan in plans:
        zero_units(map(model.get_submodule, plan.producers), plan.dropped)
        for zero in plan.zeros:
            zero_channels(model.get_submodule(zero.path), zero.indices, zero.inputs)
        for cut in plan.cuts:
            module = model.get_submodule(cut.path)
            if isinstance(module, _BatchNorm):  # its channels may be those of several concatenated layers
                dropped = torch.zeros(module.num_features, dtype=torch.bool)
                dropped[list(cut.indices)] = True
                zero_units([module], dropped)
