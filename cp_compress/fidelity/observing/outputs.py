"""What a model gives, whatever its form: its tensors by name, and the part of it that is compared."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.arguments import did_you_mean, reject
from cp_compress.base.errors import ObservationError
from cp_compress.inputs.trees import TensorTree

Output = str | int | Callable[[Any], Any] | None
"""Which part of a model's output is compared: the name of one, such as "logits" or "heads.depth", the place in a tuple,
or a function of the output. None for the output itself, or its logits where it has some under that name."""

_LOGITS = ("logits", "out")
_LISTED = 12


class NoLogitsError(ObservationError):
    """What a model gives are no logits, so that no class can be told by them."""


def check_output(owner: str, output: Output) -> Output:
    """Return which part of an output is compared; raises InvalidArgumentError, as `owner`, for anything else."""
    named = isinstance(output, str) and output != ""
    if output is None or named or callable(output) or (isinstance(output, int) and not isinstance(output, bool)):
        return output
    reject(
        owner, "output", output, "must be the name of an output, its place in a tuple, or a function that returns it"
    )


def read_output(text: str) -> Output:
    """Return the part of an output that a text names: a place where it is a whole number, else a name.

    >>> read_output("logits"), read_output("1")
    ('logits', 1)
    """
    return int(text) if text.lstrip("-").isdigit() else text


def pick(output: Any, part: Output) -> Any:
    """Return a part of what a model gives; raises ObservationError, which lists the parts, where there is none such."""
    if part is None:
        return output
    if callable(part):
        try:
            return part(output)
        except (LookupError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            name = getattr(part, "__qualname__", type(part).__name__)
            raise ObservationError(
                f"output={name} cannot be applied to {told(output)}: {type(error).__name__}: {error}"
            ) from error
    found = output
    for name in [part] if isinstance(part, int) else part.split("."):
        found = _entry(found, name)
        if found is _MISSING:
            names = list(named_tensors(output))
            near = did_you_mean(part, names) if isinstance(part, str) else ""
            raise ObservationError(
                f"output={part!r} is not among what the model gives, {told(output)}{f'; {near}' if near else ''}"
            )
    return found


_MISSING = object()


def _entry(value: Any, name: str | int) -> Any:
    if isinstance(value, Mapping):
        return value.get(name, _MISSING)
    if isinstance(value, (tuple, list)):
        place = int(name) if isinstance(name, int) or name.lstrip("-").isdigit() else None
        if place is not None:
            return value[place] if -len(value) <= place < len(value) else _MISSING
    if isinstance(value, Tensor) or not isinstance(name, str) or name.startswith("_"):
        return _MISSING
    return getattr(value, name, _MISSING)


def logits_in(output: Any) -> Any:
    """Return the logits that a model's output holds under a name, or the output."""
    if isinstance(output, Mapping):
        return next((output[name] for name in _LOGITS if output.get(name) is not None), output)
    return getattr(output, "logits", output)


def named_tensors(output: Any) -> dict[str, Tensor]:
    """Return the tensors within what a model gives, by name; that of one tensor alone is ""."""
    found: dict[str, Tensor] = {}
    _gather(output, "", found)
    return found


def _gather(value: Any, name: str, found: dict[str, Tensor]) -> None:
    below = f"{name}." if name else ""
    if isinstance(value, Tensor):
        found[name] = value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            _gather(entry, f"{below}{key}", found)
    elif isinstance(value, (tuple, list)):
        fields = getattr(value, "_fields", range(len(value)))
        for field, entry in zip(fields, value, strict=True):
            _gather(entry, f"{below}{field}", found)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            _gather(getattr(value, field.name), f"{below}{field.name}", found)


def floating_tensors(output: Any, count: int) -> dict[str, Tensor]:
    """Return the floating-point tensors within what a model gives for `count` examples, by name, each (n, ...).

    One number an example is (n, 1), and a complex tensor has its real and imaginary parts on a last axis. Raises
    ObservationError where there is none.
    """
    found = {
        name: _in_rows(tensor.detach())
        for name, tensor in named_tensors(output).items()
        if (tensor.is_floating_point() or tensor.is_complex()) and tensor.ndim and len(tensor) == count
    }
    if not found:
        raise ObservationError(
            f"the model returned {told(output)} for {count} examples; expected a floating-point tensor ({count}, ...)"
        )
    return found


def _in_rows(tensor: Tensor) -> Tensor:
    real = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return real[:, None] if real.ndim == 1 else real


def told(output: Any) -> str:
    """Return what a model gives in words: the type, and of several tensors their names and shapes."""
    found = named_tensors(output)
    if isinstance(output, Tensor) or not found:
        return f"a tensor {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
    listed = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in list(found.items())[:_LISTED])
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return f"a {type(output).__name__} of {listed}{more}"


def naming_part(output: Any) -> str:
    """Return the remedy for an output of several tensors: output= names one of them."""
    names = list(named_tensors(output))
    if isinstance(output, Tensor) or not names:
        return ""
    example = int(names[0]) if names[0].isdigit() else names[0]
    return f"; name the one that is compared by output=, such as output={example!r}"


def call_with_tree(model: Callable[..., Any], tree: TensorTree) -> Any:
    """Return what a model gives for a tree: its mapping by keyword, its tuple by position, anything else as it is.

    A model that takes a mapping as its one argument is given it as such. Raises ObservationError for entries that the
    model has no parameter for.
    """
    value = tree.value
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return model(*value)
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        return model(value)
    taken = _parameters(model)
    if taken is None:
        return model(**value)
    needed = _needed(taken, value)
    anything = any(one.kind is one.VAR_KEYWORD for one in taken.values())
    unknown = [name for name in value if name not in taken or taken[name].kind is inspect.Parameter.POSITIONAL_ONLY]
    if not needed and (anything or not unknown):
        return model(**value)
    if len(needed) == 1 and len(unknown) == len(value):  # such as a model of sentence_transformers
        return model(value)
    missing = f"needs {', '.join(needed)}" if needed else f"takes {', '.join(taken)}"
    left = f"; leave {', '.join(map(repr, unknown))} out of the examples" if unknown and not needed else ""
    raise ObservationError(f"the model {missing}, and the inputs are {tree.describe()}{left}")


def _needed(taken: Mapping[str, inspect.Parameter], given: Mapping[str, Any]) -> list[str]:
    return [
        name
        for name, one in taken.items()
        if one.default is one.empty and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL) and name not in given
    ]


def _parameters(model: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    try:
        return inspect.signature(model.forward if isinstance(model, nn.Module) else model).parameters
    except (TypeError, ValueError):  # a function that Python cannot look into
        return None


class PartOf(nn.Module):
    """A module that gives a part of what another one gives."""

    def __init__(self, model: nn.Module, part: Output) -> None:
        super().__init__()
        self.model, self.part = model, part
        self.training = model.training  # of this module alone: the model's own parts keep their modes

    def forward(self, *args: Any, **keywords: Any) -> Any:
        """Return the part."""
        return pick(self.model(*args, **keywords), self.part)


def view_of(model: Callable[..., Any], part: Output) -> Callable[..., Any]:
    """Return a model that gives a part of what another one gives; the model itself where it is the whole."""
    if part is None:
        return model
    if isinstance(model, nn.Module):
        return PartOf(model, part)
    return lambda *args, **keywords: pick(model(*args, **keywords), part)
