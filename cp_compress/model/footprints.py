"""What a model costs: parameters, non-zeros, bytes in a file and in memory, floating-point operations, time."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from cp_compress.base.arguments import check_integer, explains_keywords, reject
from cp_compress.base.batching import is_out_of_memory
from cp_compress.base.devices import wait_for
from cp_compress.base.errors import CompressionError
from cp_compress.base.holdings.found import Holdings
from cp_compress.base.holdings.tensors import count_nonzero, numbers_of
from cp_compress.base.holdings.walking import holdings_of
from cp_compress.base.lazy import LazyModule
from cp_compress.base.showing.mistaken import reject_kind
from cp_compress.model.layers import named_tensors
from cp_compress.model.record import compression_steps
from cp_compress.model.representations.registry import held_weights, tensors_of
from cp_compress.model.storage.files import stored_bytes
from cp_compress.model.tracing import running

Found = TypeVar("Found")


@explains_keywords
@dataclass(frozen=True)
class Footprint:
    """What a model costs.

    Attributes:
        parameters: The number of parameters, once where tied; weights held as integers, packed, or in modules that
            lie in attributes are counted.
        nonzero: The number of parameters that are not zero.
        artifact_bytes: The size of a file that `save` wrote; what `save` refuses, such as packed parameters, is added.
        resident_bytes: The bytes of everything that the model holds, each storage once.
        flops: The floating-point operations on one batch, two for each multiply-add; None without an example input.
    """

    parameters: int
    nonzero: int
    artifact_bytes: int
    resident_bytes: int
    flops: int | None

    def to_json(self) -> dict[str, int | None]:
        """Return the five figures as plain Python types."""
        return dataclasses.asdict(self)


@explains_keywords
def footprint(model: nn.Module, example_input: Any = None) -> Footprint:
    """Measure a model: what is stored, what is held, and what is computed on one batch.

    Counted is all that `cp_compress.base.holdings` finds: parameters and buffers, packed parameters, tensor
    subclasses, tensors and arrays in attributes, lists, objects and closures, each storage once. `artifact_bytes` is
    the size of a file that `save` wrote, or of the file that an exported program was read from, `flops` those of matrix
    products, convolutions and attention in the graph that runs on `example_input`: a tensor, a tuple of arguments or a
    dict of keywords.
    The model is left as it was. Raises CompressionError when the graph shows no operations that can be counted, and
    for a model that holds what nobody can see into, which it names.

    >>> footprint(nn.Linear(4, 2), torch.zeros(3, 4)).flops
    48
    """
    if not isinstance(model, nn.Module):
        reject_kind("footprint", "model", model, "must be a torch.nn.Module", "model")
    found = holdings_of(model)
    if found.unseen:
        raise CompressionError(f"the size of this model is not known: nobody can see what is in {found.unseen[0]}")
    counted = {id(parameter): numbers_of(parameter)[0] for parameter in model.parameters()}
    counted |= {id(held.tensor): held.tensor for held in found.hidden() if held.parameter}
    for _, layer, form in held_weights(model):
        tensors = tensors_of(layer, form)
        if form.numbers is not None and id(tensors[0]) not in counted:  # once where it is shared
            counted[id(tensors[0])] = form.numbers()
    return Footprint(
        parameters=sum(tensor.numel() for tensor in counted.values()),
        nonzero=sum(count_nonzero(tensor) for tensor in counted.values()),
        artifact_bytes=file_bytes_of(model) or stored_bytes(model, found),
        resident_bytes=_resident_bytes(found),
        flops=None if example_input is None else _count_flops(model, example_input),
    )


def file_bytes_of(model: object) -> int | None:
    """Return the size of the files that a model was read from, which it tells by `file_bytes`; None for others.

    A model that a scheme made from it is not what the files hold. Raises CompressionError for a command whose files are
    not known.
    """
    told = None if isinstance(model, nn.Module) and compression_steps(model) else getattr(model, "file_bytes", None)
    return told if type(told) is int and told > 0 else None


def figures_of(model: object, example_input: Any = None) -> dict[str, int | None]:
    """Return the figures of `footprint` by name; of a model that is no module, the size of its files alone.

    Raises as `footprint`, and InvalidArgumentError for a model without a size that is known.
    """
    if isinstance(model, nn.Module):
        return footprint(model, example_input).to_json()
    size = file_bytes_of(model)
    if size is None:
        rule = "others than torch.nn.Module have a size that is known only where they tell it by `file_bytes`"
        reject("footprint", "model", type(model).__name__, rule)
    unknown: dict[str, int | None] = dict.fromkeys(field.name for field in dataclasses.fields(Footprint))
    return unknown | {"artifact_bytes": size}


def _resident_bytes(found: Holdings) -> int:
    """Return the bytes of all storages, once each; of one that is used in part, those of the part."""
    storages: dict[tuple[int, str], tuple[int, int]] = {}
    for held in found.tensors:
        storage = held.tensor.untyped_storage()
        place = storage.data_ptr(), str(held.tensor.device)
        storages[place] = storage.nbytes(), storages.get(place, (0, 0))[1] + held.tensor.nbytes
    return sum(min(sizes) for sizes in storages.values()) + sum(part.size for part in found.content)


@explains_keywords
def measure_latency(
    candidate: nn.Module, reference: nn.Module, example_input: Any, repeats: int = 20
) -> tuple[float, float]:
    """Return the median seconds of one call of the candidate and of the reference, measured in turns after a warm-up.

    Both are run in evaluation mode without gradients, each on its own device.

    Args:
        candidate: The compressed model.
        reference: The model that it was made from.
        example_input: What both are called with: a tensor, a tuple of arguments or a dict of keywords.
        repeats: The number of measured calls of each, 1 or more.

    Returns:
        The seconds of the candidate and of the reference.

    Raises:
        InvalidArgumentError: If an argument is not as described.
    """
    ours, theirs = time_in_turns(candidate, reference, example_input, repeats)
    return statistics.median(ours), statistics.median(theirs)


def in_turns(calls: Sequence[Callable[[], Found]], turns: int, *, warm_up: int = 0) -> list[list[Found]]:
    """Return what each call gave in each turn, one after the other in every turn; the first ones are left out.

    What is compared is measured alternately, so that a busy machine slows all alike.

    >>> in_turns([lambda: "a", lambda: "b"], 2, warm_up=1)
    [['a', 'a'], ['b', 'b']]
    """
    found: list[list[Found]] = [[] for _ in calls]
    for turn in range(warm_up + turns):
        for call, values in zip(calls, found, strict=True):
            value = call()
            if turn >= warm_up:
                values.append(value)
    return found


def time_in_turns(
    candidate: nn.Module, reference: nn.Module, example_input: Any, repeats: int = 20
) -> tuple[list[float], list[float]]:
    """Return the seconds of each call of the candidate and of the reference, one after the other in each turn."""
    repeats = check_integer("measure_latency", "repeats", repeats, "must be a whole number of 1 or more", at_least=1)
    for name, model in (("candidate", candidate), ("reference", reference)):
        if not isinstance(model, nn.Module):
            reject_kind("measure_latency", name, model, "must be a torch.nn.Module", "model")
    calls = [
        functools.partial(_time_call, model, *_arguments(model, example_input)) for model in (candidate, reference)
    ]
    with running(candidate), running(reference), torch.no_grad():
        ours, theirs = in_turns(calls, repeats, warm_up=1)
    return ours, theirs


def _time_call(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    devices = {tensor.device for _, tensor in named_tensors(model)}  # of a quantised model all may be buffers
    for device in devices:
        wait_for(device)
    start = time.perf_counter()
    model(*args, **kwargs)
    for device in devices:
        wait_for(device)
    return time.perf_counter() - start


def _count_flops(model: nn.Module, example_input: Any) -> int:
    hidden = [path for path, module in model.named_modules() if isinstance(module, nn.Bilinear)]
    if hidden:
        raise CompressionError(
            f"the operations of {hidden[0]}, a Bilinear, cannot be counted: the sum would be too low"
        )
    if isinstance(example_input, (tuple, list, torch.Size)) and all(type(one) is int for one in example_input):
        shape = ", ".join(map(str, example_input))
        rule = f"a shape is no input: give a tensor, such as torch.zeros({shape})"
        reject("footprint", "example_input", example_input, rule)
    if isinstance(example_input, nn.Module):
        rule = "it is a model: take the footprint of each, or compression_report(reference, candidate)"
        reject("footprint", "example_input", type(example_input).__name__, rule)
    args, kwargs = _arguments(model, example_input)
    counter: Any = LazyModule("torch.utils.flop_counter").FlopCounterMode(display=False)
    with running(model), torch.no_grad(), _countable(), counter:
        try:
            model(*args, **kwargs)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            if is_out_of_memory(error):
                raise
            rule = f"the model cannot be run on it: {error}"
            reject("footprint", "example_input", _shapes_of(example_input), rule)
    flops = int(counter.get_total_flops())
    if flops == 0:
        raise CompressionError(
            "no floating-point operations can be counted in this model's graph (fused or integer kernels hide them): "
            "a count of 0 would pass for a perfect compression"
        )
    return flops


def _shapes_of(inputs: Any) -> str:
    """Return the shapes and dtypes of inputs, for an error."""
    leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]
    return ", ".join(f"{tuple(leaf.shape)} {leaf.dtype}" for leaf in leaves)


@contextlib.contextmanager
def _countable() -> Iterator[None]:
    """Keep torch from the fused kernels that its counter does not see: attention, and recurrent layers."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            # setting and reading flags warns about TF32, which is not touched here
            warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")
            warnings.filterwarnings("ignore", message="Please use the new API settings to control TF32")
            with (
                sdpa_kernel(SDPBackend.MATH),
                torch.backends.mkldnn.flags(enabled=False),
                torch.backends.cudnn.flags(enabled=False),
            ):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _arguments(model: nn.Module, example_input: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    device = next((tensor.device for _, tensor in named_tensors(model)), torch.device("cpu"))
    moved = pytree.tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, example_input)
    if isinstance(moved, dict):
        return (), moved
    return (tuple(moved), {}) if isinstance(moved, (tuple, list)) else ((moved,), {})
