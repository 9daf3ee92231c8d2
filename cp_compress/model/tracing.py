"""What can only be seen when a model runs: an input it accepts, the order of its layers, which norm follows which."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

from cp_compress.base.devices import keeping_random_state
from cp_compress.base.errors import CompressionError
from cp_compress.model.calling import calling
from cp_compress.model.layers import is_transposed_linear, transposed_sizes
from cp_compress.model.representations.half_computed import model_dtype
from cp_compress.model.representations.half_stored import find_half

_SIZES = (32, 224, 64, 28, 16, 8, 96, 128, 256, 299)
_VOLUMES = (4, 6, 8, 16, 32, 64)  # a larger one could take all memory
_ROWS = 2
_STEPS = 9
_WITH_UNITS = (_ConvNd, nn.Linear, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
_BY_PRODUCTS = ("past_key_values", "attentions", "cross_attentions")
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True, eq=False)
class Inputs:
    """Two batches of different random examples that a model accepts."""

    first: Tensor
    second: Tensor


@dataclass(frozen=True)
class Trace:
    """One run of a model: layers with units in the order of their first calls, and the norms that they feed.

    `heads` are the layers that give the output; layers that read the same tensor have the same number in `reads`.
    """

    order: tuple[nn.Module, ...]
    norms: dict[nn.Module, tuple[_BatchNorm, ...]]
    heads: frozenset[nn.Module]
    reads: dict[nn.Module, int]


def example_inputs(owner: str, model: nn.Module, shape: tuple[int, ...] | None, dtype: str) -> Inputs:
    """Return random batches that the model accepts: of the given shape, or of one found by trying usual sizes.

    `dtype` is "float" for normally distributed numbers in the dtype of the model, "int64" for indices below the number
    of rows of its smallest embedding, and "auto" for indices where the model begins with an embedding. Raises
    CompressionError when the model accepts none.
    """
    whole = dtype == "int64" or (dtype == "auto" and _begins_with_embedding(model))
    shapes = [shape] if shape is not None else ([(_STEPS,)] if whole else _guesses(model))
    failure = "the model has no convolution, linear or recurrent layer to take the number of channels from"
    for guess in shapes:
        inputs = Inputs(*(_random_batch(model, guess, whole, seed) for seed in (0, 1)))
        try:
            with running(model), torch.no_grad():
                model(inputs.first)
            return inputs
        except Exception as error:
            failure = f"with an example of shape {guess} the model fails: {error}"
    advice = "" if shape else "; give the shape of one example, as in example_shape=(3, 32, 32)"
    raise CompressionError(f"{owner} has to run the model to see how its layers follow one another. {failure}{advice}")


@contextlib.contextmanager
def running(model: nn.Module) -> Iterator[None]:
    """Hold a model in evaluation mode and keep the random state; both are restored."""
    flags = [(module, module.training) for module in model.modules()]
    with keeping_random_state():
        for module, _ in flags:
            module.training = False
        try:
            with calling(model):
                yield
        finally:
            for module, training in flags:
                module.training = training


def output_tensors(output: object) -> list[Tensor]:
    """Return the tensors of what a model gave, a structure of them or an object with `logits`.

    What it keeps for the next token, and the weights of its attention, are no results, and change with its heads.
    """
    output = getattr(output, "logits", output)
    if isinstance(output, Mapping):
        output = {name: value for name, value in output.items() if name not in _BY_PRODUCTS}
    leaves = pytree.tree_leaves(output)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def trace(model: nn.Module, batch: Tensor) -> Trace:
    """Run a model once and return what was seen; the layers that give the output are never pruned."""
    order: list[nn.Module] = []
    norms: dict[nn.Module, tuple[_BatchNorm, ...]] = {}
    # held by value: an id is only unique while its tensor lives
    held: list[object] = []
    reads: dict[nn.Module, int] = {}
    made: dict[int, tuple[Tensor, nn.Module]] = {}

    def after(module: nn.Module, args: tuple[object, ...], output: object) -> None:
        inner: list[nn.Module] = (
            [module.out_proj] if isinstance(module, nn.MultiheadAttention) else []
        )  # used without being called
        order.extend([module, *inner])
        if args and module not in reads:
            reads[module] = id(args[0])
            held.append(args[0])
        for leaf in pytree.tree_leaves(output):
            if isinstance(leaf, Tensor):
                made[id(leaf)] = (leaf, (inner or [module])[0])

    def before(module: nn.Module, args: tuple[object, ...]) -> None:
        if args and id(args[0]) in made:
            source = made[id(args[0])][1]
            assert isinstance(module, _BatchNorm)
            norms[source] = (*norms.get(source, ()), module)

    handles = [module.register_forward_hook(after) for module in model.modules() if _has_units(module)]
    handles += [
        module.register_forward_pre_hook(before) for module in model.modules() if isinstance(module, _BatchNorm)
    ]
    try:
        with running(model), torch.no_grad():
            leaves = output_tensors(model(batch))
    finally:
        for handle in handles:
            handle.remove()
    given = {leaf.untyped_storage().data_ptr() for leaf in leaves}
    heads = {module for output, module in made.values() if output.untyped_storage().data_ptr() in given}
    return Trace(tuple(dict.fromkeys(order)), norms, frozenset(heads | set(order[-1:])), reads)


def _has_units(module: nn.Module) -> bool:
    return isinstance(module, _WITH_UNITS) or is_transposed_linear(module)


def _begins_with_embedding(model: nn.Module) -> bool:
    layers = (module for module in model.modules() if _has_units(module) or isinstance(module, _EMBEDDINGS))
    return isinstance(next(layers, None), _EMBEDDINGS)


def _guesses(model: nn.Module) -> list[tuple[int, ...]]:
    for module in model.modules():
        if isinstance(module, _ConvNd):
            spatial = len(module.kernel_size)
            return [(module.in_channels, *[size] * spatial) for size in (_VOLUMES if spatial == 3 else _SIZES)]
        if isinstance(module, nn.RNNBase):
            return [(_STEPS, module.input_size)]
        if isinstance(module, nn.MultiheadAttention):
            return [(module.embed_dim,), (_STEPS, module.embed_dim)]
        if isinstance(module, nn.Linear):
            return [(module.in_features,), (_STEPS, module.in_features)]
        if is_transposed_linear(module):
            inputs = transposed_sizes(module)[0]
            return [(inputs,), (_STEPS, inputs)]
    return []


def _random_batch(model: nn.Module, shape: tuple[int, ...], whole: bool, seed: int) -> Tensor:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    if whole:
        rows = [module.num_embeddings for module in model.modules() if isinstance(module, _EMBEDDINGS)]
        return torch.randint(0, min(rows, default=2), (_ROWS, *shape), generator=generator).to(device)
    narrow = find_half(model)
    dtype = narrow[1] if narrow is not None else model_dtype(model)
    return torch.randn((_ROWS, *shape), generator=generator).to(device, dtype)
