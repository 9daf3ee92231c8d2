"""Which axis of a tensor inside a model holds the channels, determined by the modules that made it."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from cp_compress.fidelity.observing.hooks import watching
from cp_compress.fidelity.observing.nested_tensors import tensors_in
from cp_compress.inputs.calls import first_input

Layout = Literal["first", "last"]
"""Tensors are (n, channels, *places), or (n, *places, channels)."""

_FIRST = re.compile(
    r".*(Conv|ConvTranspose|Norm|LRN|[Pp]ool|Pad|Softmax|Nearest|Bilinear)[123]d"
    r"|.*(BatchNorm|GroupNorm|ChannelNorm|LocalResponseNorm|Upsample|PixelShuffle|PixelUnshuffle|ChannelShuffle)"
)
_LAST = re.compile(
    r".*(Linear|LayerNorm|RMSNorm|Embedding)|Bilinear|Conv1D|LSTM|GRU|RNN|MultiheadAttention"
    r"|Transformer((En|De)coder(Layer)?)?"
)
_ELEMENTWISE = ("torch.nn.modules.activation", "torch.nn.modules.dropout")


def layout_of(module: nn.Module) -> Layout | None:
    """Return where a module's inputs and outputs hold channels, or None where its type does not tell.

    The names of torch's classes tell, and of other classes without children: what is called a linear layer or a
    convolution works as torch's do. Activations, containers and a normalisation over several axes tell nothing.
    """
    if getattr(module, "data_format", None) == "channels_first":  # normalisations of ConvNeXt
        return "first"
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) > 1:
        return None
    alone = next(module.children(), None) is None
    for kind in type(module).__mro__:
        if not alone and not kind.__module__.startswith("torch.nn."):
            continue
        if _FIRST.fullmatch(kind.__name__):
            return "first"
        if _LAST.fullmatch(kind.__name__):
            return "last"
    return None


@contextlib.contextmanager
def following(model: nn.Module, layers: Iterable[nn.Module]) -> Iterator[Layouts]:
    """Learn the layouts in a pass of a model until the block ends, where the types of its layers do not tell them."""
    layouts = Layouts()
    parts = {} if all(layout_of(layer) is not None for layer in layers) else dict(model.named_modules())
    hooks = {
        path: functools.partial(layouts.note, part)
        for path, part in parts.items()
        if path and not isinstance(part, torch.jit.ScriptModule)  # takes no hooks
    }
    with watching(model, hooks):
        yield layouts


def mean_over_places(value: Tensor, layout: Layout) -> Tensor:
    """Return the means (n, channels) over places of what a layer gives (n, ...), with a gradient."""
    return value.flatten(2).mean(2) if layout == "first" else value.flatten(1, -2).mean(1)


def has_one_place(value: Tensor) -> bool:
    """Tell whether there is nothing to average, wherever the channels of (n, ...) stand."""
    return value.ndim == 2 or value[0].numel() == max(value.shape[1:])


UNKNOWN_LAYOUT = "neither its type nor the layers before it determine which axis holds the channels"


class Layouts:
    """The layouts of the tensors in one pass of a model, found while it runs.

    A tensor's layout is that of the module that made it. An activation or a dropout keeps it, a `Permute` moves it, and
    a container returns what its last part has made. Else sizes tell, where they can: those of the last output of known
    layout, whose channels or places stand on one of the two axes only.
    """

    def __init__(self) -> None:
        self._known: Any = WeakIdKeyDictionary()  # tensors compare by value, and must not live longer for this
        self._latest: tuple[Layout, tuple[int, ...]] | None = None

    def note(self, module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        """Learn from a run of a module."""
        made = [tensor for tensor in tensors_in(output) if tensor.ndim > 2]
        layout = layout_of(module)
        if layout is None and len(made) == 1 and made[0] is output:
            layout = self._passed_on(module, first_input(module, args, keywords), output)
        if layout is None or not made:
            return
        for tensor in made:
            self._known[tensor] = layout, tuple(tensor.shape)
        self._latest = layout, tuple(made[0].shape)

    def of(self, module: nn.Module, tensor: Tensor) -> Layout | None:
        """Return the layout of what a module takes or gives, None where neither its type nor the pass tells."""
        return layout_of(module) or self.find(tensor)

    def find(self, tensor: Tensor) -> Layout | None:
        """Return the layout of a tensor (n, ...) with three dimensions or more, None where it is not known."""
        layout, shape = self._known.get(tensor, (None, None))
        if layout is not None and shape == tuple(tensor.shape):
            return layout  # type: ignore[no-any-return]
        if self._latest is None:
            return None
        channels, places = _parts(*self._latest)
        options: tuple[Layout, Layout] = ("first", "last")
        parts = {layout: _parts(layout, tuple(tensor.shape)) for layout in options}
        for fits in (
            [layout for layout in options if parts[layout][0] == channels],
            [layout for layout in options if parts[layout][1] == places],
        ):
            if len(fits) == 1:
                return fits[0]
        return None

    def _passed_on(self, module: nn.Module, given: Any, output: Tensor) -> Layout | None:
        if not isinstance(given, Tensor) or given.ndim != output.ndim:
            return None
        order = getattr(module, "dims", None) if type(module).__name__ == "Permute" else None
        if order is not None and len(order) == given.ndim:
            layout = self.find(given)
            if layout is None:
                return None
            axis = 1 if layout == "first" else given.ndim - 1
            place = [entry % given.ndim for entry in order].index(axis)
            return {1: "first", given.ndim - 1: "last"}.get(place)  # type: ignore[return-value]
        keeps = type(module).__module__ in _ELEMENTWISE or isinstance(module, (nn.Identity, nn.LayerNorm))
        return self.find(given) if keeps and given.shape == output.shape else None


def _parts(layout: Layout, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """Return the number of channels and the sizes of the places."""
    return (shape[1], shape[2:]) if layout == "first" else (shape[-1], shape[1:-1])
