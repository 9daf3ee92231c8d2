"""Every activation of a model as a module of its own, for methods that modify the backward pass.

Captum hooks modules: it does not see an activation that a model calls as a function, and cannot handle modules that are
used twice or in place. Here each call of an activation is replaced by a module made for that call, while the model
runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cp_compress.base.errors import ObservationError

_TOLERANCE = 1e-4
_aten = torch.ops.aten
# each family: the module, the argument names of its calls in order, and the functions that mean it
_FAMILIES: tuple[tuple[type[nn.Module], tuple[str, ...], tuple[Any, ...]], ...] = (
    (
        nn.ReLU,
        (),
        (F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, _aten.relu.default, _aten.relu_.default),
    ),
    (
        nn.LeakyReLU,
        ("negative_slope",),
        (F.leaky_relu, F.leaky_relu_, _aten.leaky_relu.default, _aten.leaky_relu_.default),
    ),
    (nn.ELU, ("alpha",), (F.elu, F.elu_)),
    (
        nn.Sigmoid,
        (),
        (F.sigmoid, torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_, _aten.sigmoid.default),
    ),
    (nn.Tanh, (), (F.tanh, torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_, _aten.tanh.default)),
    (nn.Softplus, ("beta", "threshold"), (F.softplus,)),
    *(
        (pool, ("kernel_size", "stride", "padding", "dilation", "ceil_mode"), (function,))
        for pool, function in ((nn.MaxPool1d, F.max_pool1d), (nn.MaxPool2d, F.max_pool2d), (nn.MaxPool3d, F.max_pool3d))
    ),
)
_ACTIVATIONS = {
    function: (kind, names) for kind, names, functions in _FAMILIES for function in functions if function is not None
}


class ActivationModules(nn.Module):
    """A model, run so that each of its activations is one of the modules `activations`, in the order of the calls.

    `run` maps a batch, and what it takes `beside`, to logits; its own modules are no submodules of this one, so that
    nothing is hooked that belongs to the model. `example` (k, ...) is run once to find the activations. `latest` are
    the logits of the last call.

    Raises ObservationError when the model gives other logits this way than by itself, as one may that goes on with
    the input of an activation in place, and when a later call runs other activations.
    """

    def __init__(self, run: Callable[..., Tensor], example: Tensor, *beside: Tensor) -> None:
        super().__init__()
        self._run = (run,)  # in a tuple, so that a model is not taken for a submodule
        self.activations = nn.ModuleList()
        self.latest: Tensor
        with _Exchange(self._append):
            exchanged = run(example, *beside)
        own = run(example, *beside)
        if not torch.allclose(exchanged.detach(), own.detach(), rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True):
            raise ObservationError(
                "the model returns other logits when each activation runs as a module, not in place: backward rules at "
                "activations need a deterministic model that uses the value that each activation returns"
            )

    def has(self, kind: type[nn.Module]) -> bool:
        """Tell whether the model runs an activation of a kind."""
        return any(isinstance(module, kind) for module in self.activations)

    def forward(self, inputs: Tensor, *beside: Tensor) -> Tensor:
        """Return the logits (n, classes) of a batch (n, ...), with what `run` takes beside it."""
        rest = iter(self.activations)
        with _Exchange(lambda wanted: _next(rest, wanted)):
            logits = self._run[0](inputs, *beside)
        # without their graph: its hooks hold this module, and nothing would ever free the two
        self.latest = logits.detach()
        return logits

    def _append(self, module: nn.Module) -> nn.Module:
        self.activations.append(module)
        return module


class _Exchange(TorchFunctionMode):
    """While it is on, activations run as the modules that `take` gives for them."""

    def __init__(self, take: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self._take = take

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        keywords = kwargs or {}
        inputs = args[0] if args else keywords.get("input")
        # what needs no gradient carries no rule, such as a gate made of frozen parameters
        if func not in _ACTIVATIONS or not isinstance(inputs, Tensor) or not inputs.requires_grad:
            return func(*args, **keywords)
        module = self._take(_as_module(func, args[1:], keywords))
        # a view, so that a hook on the gradient of the input sees this use of it alone
        return module(inputs.view_as(inputs))


def _as_module(function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> nn.Module:
    kind, names = _ACTIVATIONS[function]
    settings = {**dict(zip(names, arguments, strict=False)), **keywords}
    return kind(**{name: settings[name] for name in names if name in settings})


def _next(rest: Iterator[nn.Module], wanted: nn.Module) -> nn.Module:
    found = next(rest, None)
    if found is None or repr(found) != repr(wanted):
        raise ObservationError(
            f"the model runs {wanted} where it ran {found or 'nothing more'} before: backward rules need a model "
            "that runs the same activations in every call"
        )
    return found
