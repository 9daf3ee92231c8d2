"""A device that is not there: tensors say that they lie on it, the CPU computes, and what CUDA refuses is refused.

It is a backend of torch's own dispatcher, under the key that torch keeps for backends outside its tree: factories,
`.to`, views, autograd, modules and copies are torch's own code, and tensors are plain tensors. Their memory is the
CPU's, under another label. Refused are tensors of two devices where CUDA's kernels refuse them, operators and dtypes
for which CUDA has no kernel, generators of the CPU and, within `no_waiting`, what makes the program wait for the device.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.resources
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map_only

NAME = "pretended"
_IN_DLPACK = {"cpu": 1, NAME: 12}
_EARLIER = {"cpu": NAME, NAME: "cpu"}
# both may lie on either device
_COPIES = ("_copy_from", "_copy_from_and_resize")
# indices of a tensor on the device may lie on the CPU, what is written there may not
_INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put")
_PRODUCTS = ("mm", "bmm", "addmm", "addbmm", "baddbmm", "mv", "addmv", "dot", "vdot", "convolution_overrideable")
# the more usual of what CUDA computes under autocast in the coarse dtype, and in float32
_COARSE = ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "conv1d", "conv2d", "conv3d")
_FINE = ("softmax.int", "log_softmax.int", "nll_loss", "mse_loss", "layer_norm", "exp", "log", "pow.Tensor_Scalar", "sum")
_TENSOR_CORE_ROWS, _TENSOR_CORE_MULTIPLE = 16, 8  # what `_int_mm` asks for on CUDA
_ATTENTION_BY_PRODUCTS = 0


class Refused(RuntimeError):
    """What a device would have refused."""


class _Module:
    """What torch looks for under `torch.pretended`."""

    def __init__(self) -> None:
        self.state = torch.Generator().manual_seed(0).get_state()
        self.waiting_refused = False

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def synchronize(self, device: object = None) -> None:
        self.wait("synchronize")

    def device(self, device: object) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def empty_cache(self) -> None:
        """There is none."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def get_rng_state(self, device: object = None) -> Tensor:
        return self.state.clone()

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        self.state = state.clone()

    def manual_seed(self, seed: int) -> None:
        self.state = torch.Generator().manual_seed(seed).get_state()

    manual_seed_all = manual_seed

    def wait(self, what: str) -> None:
        """Note that the program waits for the device."""
        if self.waiting_refused:
            raise Refused(f"{what} waits for the device")


class _Generator(torch.Generator):
    """A generator on the device; the CPU draws."""

    there: set[int] = set()  # noqa: RUF012  # by the address of what draws: an operator is given it in a new wrapper
    device = property(lambda self: torch.device(NAME, 0))  # type: ignore[assignment]

    def __init__(self, device: torch.device | str) -> None:
        self.there.add(self._cdata)

    def __del__(self) -> None:
        self.there.discard(self._cdata)


class _AnyGenerator(type):
    def __instancecheck__(cls, one: object) -> bool:
        return isinstance(one, _Generator.__base__)

    def __call__(cls, device: torch.device | str = "cpu") -> torch.Generator:
        kind = _Generator if torch.device(device).type == NAME else _Generator.__base__
        return kind("cpu") if kind is _Generator else kind(device)


def _new_storage(cls: type[torch.UntypedStorage], *args: Any, **kwargs: Any) -> torch.UntypedStorage:
    if torch.device(kwargs.get("device") or "cpu").type != NAME:
        return torch._C.StorageBase.__new__(cls, *args, **kwargs)  # type: ignore[no-any-return]
    return torch.empty(*args, dtype=torch.uint8, device=NAME).untyped_storage()


def _synchronise(own: Callable[..., None]) -> Callable[..., None]:
    def synchronise(device: torch.device | str | int | None = None, /) -> None:
        if isinstance(device, (torch.device, str)) and torch.device(device).type == NAME:
            torch.get_device_module(NAME).synchronize()
        else:
            own(device)

    return synchronise


def _keeping_ties(own: Callable[..., Any]) -> Callable[..., Any]:
    """Let one parameter of two modules that move stay one: CUDA moves the values of an object, this makes a new one."""
    moved: dict[int, tuple[torch.nn.Parameter | None, torch.nn.Parameter | None]] = {}
    depth = 0

    def apply(self: torch.nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        nonlocal depth
        before, depth = dict(self._parameters), depth + 1
        try:
            found = own(self, fn, recurse)
            for name, parameter in before.items():
                _, self._parameters[name] = moved.setdefault(id(parameter), (parameter, self._parameters[name]))
            return found
        finally:
            depth -= 1
            if not depth:
                moved.clear()

    return apply


def is_possible() -> bool:
    """Tell whether this version of torch lets a backend be written in Python."""
    return hasattr(backend_registration, "_setup_privateuseone_for_python_backend")


@functools.cache
def pretend() -> torch.device:
    """Register the device in this process, before anything is differentiated: autograd counts devices once."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())
    torch.Generator = _AnyGenerator("Generator", (), {})  # type: ignore[misc]
    torch.UntypedStorage.__new__ = _new_storage  # type: ignore[assignment, method-assign]
    torch.accelerator.synchronize = _synchronise(torch.accelerator.synchronize)
    torch.nn.Module._apply = _keeping_ties(torch.nn.Module._apply)  # type: ignore[assignment, method-assign]
    everything, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    everything.fallback(_compute, "PrivateUse1")
    everything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for names, coarse in ((_COARSE, True), (_FINE, False)):
        for name in names:
            aten.impl(name, _casting(_operator(name), coarse), "AutocastPrivateUse1")
    for name in ("as_strided", "view", "_reshape_alias", "unfold", "set_.source_Storage", "set_.source_Storage_storage_offset"):
        aten.impl(name, _describe(_operator(name)), "PrivateUse1")
    for function in _OWN:
        aten.impl(function.__name__, function, "PrivateUse1")
    pretend.kept = everything, aten  # type: ignore[attr-defined]
    return torch.device(NAME, 0)


@contextlib.contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """Refuse inside what makes the program wait for a device: transfers, and results that the next step depends on."""
    if device.type == NAME:
        module = torch.get_device_module(device)
        module.waiting_refused = True
        try:
            yield
        finally:
            module.waiting_refused = False
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def relabelled(tensor: Tensor) -> Tensor:
    """Return the same memory as a tensor of the other device."""
    capsule = torch._C._to_dlpack(tensor.detach())
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    place = pointer(capsule, b"dltensor") + ctypes.sizeof(ctypes.c_void_p)  # behind the address of the values
    kind, index = (ctypes.c_int32.from_address(place + offset) for offset in (0, 4))
    kind.value, index.value = _IN_DLPACK[_EARLIER[tensor.device.type]], 0
    return torch._C._from_dlpack(capsule)  # type: ignore[no-any-return]


def _operator(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


def _describe(operator: Any) -> Callable[..., Any]:
    """Return an operator that reads no memory as the CPU has it: its code does not look at the device."""
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    return lambda *args, **kwargs: operator.redispatch(keys, *args, **kwargs)


def _casting(operator: Any, coarse: bool) -> Callable[..., Any]:
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def cast(tensor: Tensor) -> Tensor:
        wanted = torch.get_autocast_dtype(NAME) if coarse else torch.float32
        eligible = _on_device(tensor) and tensor.dtype in (torch.float32, torch.float16, torch.bfloat16)
        return tensor.to(wanted) if eligible else tensor

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(keys):
            args, kwargs = tree_map_only(Tensor, cast, (args, kwargs))
            return operator(*args, **kwargs)

    return run


def _on_device(value: object) -> bool:
    return isinstance(value, Tensor) and value.device.type == NAME


def _on_cpu(tensor: Tensor) -> Tensor:
    return relabelled(tensor) if _on_device(tensor) else tensor


def _compute(operator: Any, *args: Any, **kwargs: Any) -> Any:
    """Run an operator on the CPU: what it writes is written, what it returns lies on the device."""
    schema = operator._schema
    given = {argument.name: value for argument, value in zip(schema.arguments, args, strict=False)} | kwargs
    _refuse(operator, given)
    outputs = {
        argument.name: given[argument.name]
        for argument in schema.arguments
        if argument.kwarg_only and argument.is_write and isinstance(given.get(argument.name), Tensor)
    }
    args, kwargs = tree_map_only(Tensor, _on_cpu, (args, kwargs))
    fresh = {name: torch.empty(0, dtype=output.dtype) for name, output in outputs.items()}
    kwargs |= fresh | ({"device": torch.device("cpu")} if kwargs.get("device") is not None else {})
    if kwargs.get("pin_memory"):
        raise Refused("only memory of the CPU can be pinned")
    with _drawing(operator, given.get("generator")):
        found = operator(*args, **kwargs)
    for name, output in outputs.items():
        if output.shape != fresh[name].shape:
            output.resize_(fresh[name].shape)
        relabelled(output).copy_(fresh[name])
    written = [given[argument.name] for argument in schema.arguments if argument.is_write]
    if schema.returns and all(each.alias_info is not None and each.alias_info.is_write for each in schema.returns):
        return written[0] if len(schema.returns) == 1 else tuple(written)
    return tree_map_only(Tensor, relabelled, found)


@contextlib.contextmanager
def _drawing(operator: Any, generator: torch.Generator | None) -> Iterator[None]:
    """Let an operator draw from the device's own generator."""
    if generator is not None or torch.Tag.nondeterministic_seeded not in operator.tags:
        yield
        return
    module, before = torch.get_device_module(NAME), torch.get_rng_state()
    torch.set_rng_state(module.state)
    try:
        yield
    finally:
        module.state = torch.get_rng_state()
        torch.set_rng_state(before)


def _refuse(operator: Any, given: dict[str, Any]) -> None:
    name, overload = operator._schema.name.removeprefix("aten::"), operator.name()
    tensors = [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
    if not _has_kernel(overload):
        raise Refused(f"{overload} has no kernel for CUDA")
    _refuse_two_devices(operator, name, given)
    generator = given.get("generator")
    if generator is not None and generator._cdata not in _Generator.there:
        raise Refused(f"{overload}: expected a generator of the device, found one of the {generator.device}")
    if name in _PRODUCTS and not (tensors[0].is_floating_point() or tensors[0].is_complex()):
        raise Refused(f"{overload} is not implemented for {tensors[0].dtype} on CUDA")
    if name == "_int_mm":
        (rows, inner), columns = tensors[0].shape, tensors[1].shape[1]
        if rows <= _TENSOR_CORE_ROWS or inner % _TENSOR_CORE_MULTIPLE or columns % _TENSOR_CORE_MULTIPLE:
            raise Refused(f"{overload} on CUDA needs more than 16 rows and multiples of 8, not {rows, inner, columns}")
    if name == "_local_scalar_dense" or {
        torch.Tag.dynamic_output_shape,
        torch.Tag.data_dependent_output,
    } & set(operator.tags):
        torch.get_device_module(NAME).wait(overload)


def _refuse_two_devices(operator: Any, name: str, given: dict[str, Any]) -> None:
    for argument in operator._schema.arguments:
        for tensor in tree_leaves(given.get(argument.name)):
            if not isinstance(tensor, Tensor) or _on_device(tensor):
                continue
            if tensor.device.type == "cpu":
                if name in _INDEXED and argument.name == "indices":
                    continue
                if tensor.ndim == 0 and not argument.is_write and _takes_numbers(operator.name()):
                    continue
            told = f"{operator.name()}: {argument.name} is on {tensor.device}"
            raise Refused(f"expected all tensors to be on the same device, but found at least two devices: {told}")


@functools.cache
def _has_kernel(overload: str) -> bool:
    """Tell whether CUDA has a kernel for an operator; a torch that was built without CUDA does not know."""
    return not torch.backends.cuda.is_built() or torch._C._dispatch_has_computed_kernel_for_dispatch_key(
        overload, "CUDA"
    )


@functools.cache
def _checked_by_iterators() -> frozenset[str]:
    """Return the operators whose devices CUDA checks itself: they take a number that lies on the CPU as a tensor."""
    listed = importlib.resources.files("torchgen").joinpath("packaged/ATen/native/native_functions.yaml")
    text = listed.read_text(encoding="utf-8")
    return frozenset(re.findall(r"^- func: ([\w.]+)\((?:(?!^- func).)*?device_check: NoCheck", text, re.M | re.S))


def _takes_numbers(overload: str) -> bool:
    return overload.removeprefix("aten::") in _checked_by_iterators()


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    if source.device != target.device and not (non_blocking and _on_device(target)):
        torch.get_device_module(NAME).wait("a copy")
    _on_cpu(target).copy_(_on_cpu(source))
    return target


def _copy_from_and_resize(source: Tensor, target: Tensor) -> Tensor:
    return _copy_from(source, target.resize_(source.shape))


def resize_(tensor: Tensor, size: list[int], *, memory_format: torch.memory_format | None = None) -> Tensor:
    found = torch.empty(size, dtype=tensor.dtype, device=tensor.device)
    kept = min(tensor.numel(), found.numel())
    if kept and tensor.is_contiguous():
        found.view(-1)[:kept].copy_(tensor.view(-1)[:kept])
    return tensor.set_(found.untyped_storage(), 0, found.shape, found.stride())


def convolution_overrideable(*args: Any) -> Any:
    return _compute(torch.ops.aten.convolution.default, *args)


def convolution_backward_overrideable(
    gradient: Tensor, inputs: Tensor, weight: Tensor, *args: Any
) -> tuple[Tensor | None, ...]:
    *sizes, mask = args
    bias = [weight.shape[0] if not sizes[4] else weight.shape[1] * sizes[-1]]
    return _compute(  # type: ignore[no-any-return]
        torch.ops.aten.convolution_backward.default, gradient, inputs, weight, bias, *sizes, mask
    )


def _fused_sdp_choice(*args: Any, **kwargs: Any) -> int:
    return _ATTENTION_BY_PRODUCTS


def _thnn_fused_lstm_cell(
    inputs: Tensor, hidden: Tensor, cell: Tensor, input_bias: Tensor | None = None, hidden_bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    gates = inputs + hidden
    for bias in (input_bias, hidden_bias):
        gates = gates if bias is None else gates + bias
    entered, kept, offered, given = gates.chunk(4, 1)
    work = torch.cat([entered.sigmoid(), kept.sigmoid(), offered.tanh(), given.sigmoid()], dim=1)
    entered, kept, offered, given = work.chunk(4, 1)
    after = kept * cell + entered * offered
    return given * after.tanh(), after, work


def _thnn_fused_lstm_cell_backward_impl(
    of_output: Tensor | None, of_cell: Tensor | None, before: Tensor, after: Tensor, work: Tensor, has_bias: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    entered, kept, offered, given = work.chunk(4, 1)
    seen = after.tanh()
    of_output = torch.zeros_like(seen) if of_output is None else of_output
    of_after = of_output * given * (1 - seen.square()) + (0 if of_cell is None else of_cell)
    slopes = (entered * (1 - entered), kept * (1 - kept), 1 - offered.square(), given * (1 - given))
    parts = (of_after * offered, of_after * before, of_after * entered, of_output * seen)
    gates = torch.cat([part * slope for part, slope in zip(parts, slopes, strict=True)], dim=1)
    return gates, of_after * kept, gates.sum(0) if has_bias else None


_OWN = (
    _copy_from,
    _copy_from_and_resize,
    resize_,
    convolution_overrideable,
    convolution_backward_overrideable,
    _fused_sdp_choice,
    _thnn_fused_lstm_cell,
    _thnn_fused_lstm_cell_backward_impl,
)
