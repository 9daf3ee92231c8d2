"""What a model of another runtime is called with, brought to the inputs that it says it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cp_compress.base.arguments import did_you_mean
from cp_compress.base.errors import ObservationError
from cp_compress.inputs.trees import TensorTree


def named_inputs(
    what: str, taken: Sequence[str], batch: tuple[Any, ...], named: Mapping[str, Any], *, only: bool = False
) -> dict[str, Tensor]:
    """Return the tensors that a call gives, by the names of the inputs that a model takes, in their order.

    Args:
        what: The model in words, with the inputs that it takes: "the ONNX graph takes ids int64 (n, 8)".
        taken: The names of its inputs.
        batch: What the call gives by position: one tensor for each input, or one mapping.
        named: What it gives by name.
        only: Whether further entries of the examples are left out, because the user has said which are read.

    Raises:
        ObservationError: If an input is missing, is no tensor, or is none of the model's.
    """
    if len(batch) == 1 and not named:
        first = batch[0].value if isinstance(batch[0], TensorTree) else batch[0]
        if isinstance(first, Mapping):
            named, batch = first, ()
        elif isinstance(first, (tuple, list)):
            batch = tuple(first)
        else:
            batch = (first,)
    if batch and (named or len(batch) != len(taken)):
        told = f"{len(batch)} tensor{'s' if len(batch) > 1 else ''} by position"
        raise ObservationError(f"{what}, and is given {told}: an example is a mapping of these, or a tuple in order")
    given = dict(zip(taken, batch, strict=True)) if batch else dict(named)
    missing = [name for name in taken if name not in given]
    unknown = [] if only else [name for name in given if name not in taken]
    if missing or unknown:
        near = did_you_mean(unknown[0], missing) if unknown and missing else ""
        lacking = f"the examples have no {', '.join(map(repr, missing))}"
        surplus = f"the examples have {', '.join(map(repr, unknown))}"
        if near:
            raise ObservationError(f"{what}, and {surplus}; {near}")
        advice = ": leave that out of the examples, or say what is read, as load_onnx(input=[…]) does"
        raise ObservationError(f"{what}, and {lacking if missing else surplus + advice}")
    wrong = [name for name in taken if not isinstance(given[name], Tensor)]
    if wrong:
        raise ObservationError(f"{what}, and {wrong[0]!r} of the examples is a {type(given[wrong[0]]).__name__}")
    return {name: given[name] for name in taken}


def as_dtype(what: str, name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return an input in the dtype that a model takes: floating-point numbers converted, others if none changes.

    Raises ObservationError, in which `what` is the model, for values that it cannot take.
    """
    if tensor.dtype == dtype or (tensor.is_floating_point() and dtype.is_floating_point):
        return tensor.to(dtype)
    if not tensor.is_floating_point() and not dtype.is_floating_point:
        converted = tensor.to(dtype)
        if torch.equal(converted.to(tensor.dtype), tensor):
            return converted
        raise ObservationError(f"{what}, and {name} holds numbers of {tensor.dtype} that {dtype} cannot hold")
    raise ObservationError(f"{what} takes {dtype} as {name}, not {tensor.dtype}")
