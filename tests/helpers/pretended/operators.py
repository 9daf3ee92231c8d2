"""Operators of the device: the CPU's, and those that torch's own code asks only such devices for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from pretended.labels import NAME, back_on_device, on_cpu, on_device, relabelled
from pretended.refusals import Facts, Refused, facts_of, refuse, wait

# what reads no memory is the same on all devices
_DESCRIBING = (
    "as_strided",
    "view",
    "_reshape_alias",
    "unfold",
    "set_.source_Storage",
    "set_.source_Storage_storage_offset",
)
# the more usual of what CUDA computes under autocast in the coarse dtype, and in float32
_COARSE = ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "conv1d", "conv2d", "conv3d")
_FINE = (
    "softmax.int",
    "log_softmax.int",
    "nll_loss",
    "mse_loss",
    "layer_norm",
    "exp",
    "log",
    "pow.Tensor_Scalar",
    "sum",
)
_BY_PRODUCTS = 0  # the way of computing attention that asks for no kernel of its own


def register() -> tuple[torch.library.Library, ...]:
    """Register all operators; they are there as long as what is returned."""
    everything, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    everything.fallback(compute, "PrivateUse1")
    everything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for name in _DESCRIBING:
        aten.impl(name, _describing(_operator(name)), "PrivateUse1")
    for function in _OWN:
        aten.impl(function.__name__, function, "PrivateUse1")
    for names, coarse in ((_COARSE, True), (_FINE, False)):
        for name in names:
            aten.impl(name, _casting(_operator(name), coarse), "AutocastPrivateUse1")
    return everything, aten


def compute(operator: Any, *args: Any, **kwargs: Any) -> Any:
    """Run an operator on the CPU: what it writes is written, what it returns lies on the device."""
    facts = facts_of(operator)
    given = dict(zip(facts.names, args, strict=False)) | kwargs
    refuse(facts, given)
    outputs = {name: given[name] for name in facts.outputs}
    fresh = {name: torch.empty(0, dtype=output.dtype) for name, output in outputs.items()}
    used = {name: on_cpu(value) for name, value in given.items() if name not in outputs} | fresh
    if used.get("device") is not None:
        used["device"] = torch.device("cpu")
    if used.pop("pin_memory", None):
        raise Refused("only memory of the CPU can be pinned")
    _wrap_numbers(facts, used)
    positional = [used.pop(name) for name in facts.names[: len(args)]]
    with _drawing(facts, given.get("generator")):
        found = operator(*positional, **used)
    for name, output in outputs.items():
        if output.shape != fresh[name].shape:
            output.resize_(fresh[name].shape)
        relabelled(output).copy_(fresh[name])
    if facts.returns_written:
        written = [given[name] for name in facts.names if name in facts.written]
        return written[0] if len(written) == 1 else tuple(written)
    return back_on_device(found)


def _operator(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


def _describing(operator: Any) -> Callable[..., Any]:
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    return lambda *args, **kwargs: operator.redispatch(keys, *args, **kwargs)


def _wrap_numbers(facts: Facts, used: dict[str, Any]) -> None:
    """Make numbers tensors again: torch hands over the numbers that it had made tensors of."""
    numbers = [name for name in facts.tensors & used.keys() if isinstance(used[name], (bool, int, float, complex))]
    if numbers:
        others = [value for name, value in used.items() if isinstance(value, Tensor) and name not in facts.outputs]
        for name in numbers:
            dtype = torch.result_type(others[0], used[name]) if others else None
            used[name] = torch.tensor(used[name], dtype=dtype)


@contextlib.contextmanager
def _drawing(facts: Facts, generator: torch.Generator | None) -> Iterator[None]:
    """Let an operator draw from the device's own generator."""
    if generator is not None or not facts.draws:
        yield
        return
    module, before = torch.get_device_module(NAME), torch.get_rng_state()
    torch.set_rng_state(module.state)
    try:
        yield
    finally:
        module.state = torch.get_rng_state()
        torch.set_rng_state(before)


def _casting(operator: Any, coarse: bool) -> Callable[..., Any]:
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def cast(value: Any) -> Any:
        if not on_device(value) or value.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            return value
        return value.to(torch.get_autocast_dtype(NAME) if coarse else torch.float32)

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return operator(*map(cast, args), **{name: cast(value) for name, value in kwargs.items()})

    return run


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    if source.device != target.device and not (non_blocking and on_device(target)):
        wait("a copy")
    on_cpu(target).copy_(on_cpu(source))
    return target


def _copy_from_and_resize(source: Tensor, target: Tensor) -> Tensor:
    return _copy_from(source, target.resize_(source.shape))


def resize_(tensor: Tensor, size: list[int], *, memory_format: torch.memory_format | None = None) -> Tensor:
    """Give a tensor new memory of another size, with the values that it had."""
    found = torch.empty(size, dtype=tensor.dtype, device=tensor.device)
    kept = min(tensor.numel(), found.numel())
    if kept and tensor.is_contiguous():
        found.view(-1)[:kept].copy_(tensor.view(-1)[:kept])
    return tensor.set_(found.untyped_storage(), 0, found.shape, found.stride())


def convolution_overrideable(*args: Any) -> Any:
    """Give torch the convolution that it asks such a device for."""
    return compute(torch.ops.aten.convolution.default, *args)


def convolution_backward_overrideable(gradient: Tensor, inputs: Tensor, weight: Tensor, *args: Any) -> Any:
    """Give torch the gradients of a convolution, which it asks such a device for without the size of the bias."""
    *sizes, transposed, padding, groups, mask = args
    bias = [weight.shape[1] * groups if transposed else weight.shape[0]]
    rest = (*sizes, transposed, padding, groups, mask)
    return compute(torch.ops.aten.convolution_backward.default, gradient, inputs, weight, bias, *rest)


def _fused_sdp_choice(*args: Any, **kwargs: Any) -> int:
    return _BY_PRODUCTS


def _thnn_fused_lstm_cell(
    inputs: Tensor, hidden: Tensor, cell: Tensor, input_bias: Tensor | None = None, hidden_bias: Tensor | None = None
) -> Any:
    inputs, hidden, cell, *biases = on_cpu((inputs, hidden, cell, input_bias, hidden_bias))
    entered, kept, offered, given = sum((bias for bias in biases if bias is not None), inputs + hidden).chunk(4, 1)
    work = torch.cat([entered.sigmoid(), kept.sigmoid(), offered.tanh(), given.sigmoid()], dim=1)
    entered, kept, offered, given = work.chunk(4, 1)
    after = kept * cell + entered * offered
    return back_on_device((given * after.tanh(), after, work))


def _thnn_fused_lstm_cell_backward_impl(
    of_output: Tensor | None, of_cell: Tensor | None, before: Tensor, after: Tensor, work: Tensor, has_bias: bool
) -> Any:
    of_output, of_cell, before, after, work = on_cpu((of_output, of_cell, before, after, work))
    entered, kept, offered, given = work.chunk(4, 1)
    seen = after.tanh()
    of_output = torch.zeros_like(seen) if of_output is None else of_output
    of_after = of_output * given * (1 - seen.square()) + (0 if of_cell is None else of_cell)
    slopes = (entered * (1 - entered), kept * (1 - kept), 1 - offered.square(), given * (1 - given))
    parts = (of_after * offered, of_after * before, of_after * entered, of_output * seen)
    gates = torch.cat([part * slope for part, slope in zip(parts, slopes, strict=True)], dim=1)
    return back_on_device((gates, of_after * kept, gates.sum(0) if has_bias else None))


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
