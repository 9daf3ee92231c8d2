"""What CUDA refuses, told by torch's own records of its operators, and what makes a program wait for a device."""

from __future__ import annotations

import functools
import importlib.resources
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pretended.labels import NAME

# the indices of a tensor on the device may lie on the CPU; what is written there may not
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
_PRODUCTS = {"mm", "bmm", "addmm", "addbmm", "baddbmm", "mv", "addmv", "dot", "vdot", "convolution"}
_WAITING = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}
_FEWEST_ROWS, _MULTIPLE = 17, 8  # that `_int_mm` takes on CUDA


# the addresses of the device's generators: operators are given them as objects of another class
generators_there: set[int] = set()


class Refused(RuntimeError):
    """What a device would have refused."""


@dataclass(frozen=True)
class Facts:
    """What is to be known of an operator whenever it is called."""

    names: tuple[str, ...]
    tensors: frozenset[str]  # arguments that are one tensor each
    outputs: tuple[str, ...]
    written: frozenset[str]
    returns_written: bool
    draws: bool
    name: str
    overload: str
    waits: bool
    has_kernel: bool
    takes_numbers: bool


@functools.cache
def facts_of(operator: Any) -> Facts:
    """Return what torch has on record of an operator."""
    schema, overload = operator._schema, operator.name()
    written = [argument for argument in schema.arguments if argument.is_write]
    return Facts(
        names=tuple(argument.name for argument in schema.arguments),
        tensors=frozenset(each.name for each in schema.arguments if str(each.type) in ("Tensor", "Optional[Tensor]")),
        outputs=tuple(argument.name for argument in written if argument.kwarg_only and str(argument.type) == "Tensor"),
        written=frozenset(argument.name for argument in written),
        returns_written=bool(schema.returns)
        and all(each.alias_info and each.alias_info.is_write for each in schema.returns),
        draws=torch.Tag.nondeterministic_seeded in operator.tags,
        name=schema.name.partition("::")[2],
        overload=overload,
        waits=overload == "aten::_local_scalar_dense" or bool(_WAITING & set(operator.tags)),
        # a torch that was built without CUDA does not know
        has_kernel=not torch.backends.cuda.is_built()
        or torch._C._dispatch_has_computed_kernel_for_dispatch_key(overload, "CUDA"),
        takes_numbers=overload.removeprefix("aten::") in _checked_by_iterators(),
    )


@functools.cache
def _checked_by_iterators() -> frozenset[str]:
    """Return the operators whose kernels check devices themselves: they take a number as a tensor on the CPU."""
    listed = importlib.resources.files("torchgen").joinpath("packaged/ATen/native/native_functions.yaml")
    text = listed.read_text(encoding="utf-8")
    return frozenset(re.findall(r"^- func: ([\w.]+)\((?:(?!^- func).)*?device_check: NoCheck", text, re.M | re.S))


def refuse(facts: Facts, given: dict[str, Any]) -> None:
    """Raise Refused for a call that CUDA would refuse."""
    if not facts.has_kernel:
        raise Refused(f"{facts.overload} has no kernel for CUDA")
    first = None
    for argument, value in given.items():
        for tensor in _tensors(value):
            first = tensor if first is None else first
            if tensor.device.type != NAME and not _may_stay(facts, argument, tensor):
                told = f"{facts.overload}: {argument} is on {tensor.device}"
                raise Refused(f"expected all tensors to be on the same device, but found at least two devices: {told}")
    generator = given.get("generator")
    if generator is not None and generator._cdata not in generators_there:
        raise Refused(f"{facts.overload}: expected a generator of the device, found one of the {generator.device}")
    if facts.name in _PRODUCTS and first is not None and not (first.is_floating_point() or first.is_complex()):
        raise Refused(f"{facts.overload} is not implemented for {first.dtype} on CUDA")
    if facts.name == "_int_mm":
        (rows, inner), columns = given["self"].shape, given["mat2"].shape[1]
        if rows < _FEWEST_ROWS or inner % _MULTIPLE or columns % _MULTIPLE:
            told = f"at least {_FEWEST_ROWS} rows and multiples of {_MULTIPLE}, not {(rows, inner, columns)}"
            raise Refused(f"{facts.overload} on CUDA needs {told}")
    if facts.waits:
        wait(facts.overload)


def _may_stay(facts: Facts, argument: str, tensor: Tensor) -> bool:
    if facts.name in _INDEXED and argument == "indices":
        return True
    return tensor.ndim == 0 and argument not in facts.written and facts.takes_numbers


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        yield from (each for each in value if isinstance(each, Tensor))


def wait(what: str) -> None:
    """Refuse to wait for the device where that is refused."""
    if torch.get_device_module(NAME).waiting_refused:
        raise Refused(f"{what} waits for the device")
