"""A device that is not there: tensors say that they lie on it, the CPU computes, and what CUDA refuses is refused.

It is a backend of torch's own dispatcher, under the key that torch keeps for backends outside its tree: factories,
`.to`, views, autograd, modules and copies are torch's own code, and tensors are plain tensors. Refused are tensors of
two devices where CUDA refuses them, operators and dtypes for which CUDA has no kernel, generators of the CPU and,
within `no_waiting`, what makes the program wait for the device. docs/contributing/devices.md says what it cannot find.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration

from pretended.labels import NAME, relabelled
from pretended.operators import register
from pretended.refusals import Refused, generators_there, wait

__all__ = ["NAME", "Refused", "is_possible", "no_waiting", "pretend", "relabelled"]


class _Module:
    """What torch looks for under `torch.pretended`."""

    def __init__(self) -> None:
        self.waiting_refused = False
        self.manual_seed_all(0)

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def device(self, device: object) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def synchronize(self, device: object = None) -> None:
        wait("synchronize")

    def empty_cache(self) -> None:
        """There is none."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def get_rng_state(self, device: object = None) -> Tensor:
        return self.state.clone()

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        self.state = state.clone()

    def manual_seed_all(self, seed: int) -> None:
        # another sequence than the CPU's
        self.state = torch._C.Generator("cpu").manual_seed(seed + 1).get_state()

    manual_seed = manual_seed_all


class _Generator(torch._C.Generator):
    """A generator on the device; the CPU draws."""

    device = property(lambda self: torch.device(NAME, 0))

    def __init__(self, device: torch.device | str) -> None:
        generators_there.add(self._cdata)

    def __del__(self) -> None:
        generators_there.discard(self._cdata)


class _AnyGenerator(type):
    def __instancecheck__(cls, one: object) -> bool:
        return isinstance(one, torch._C.Generator)

    def __call__(cls, device: torch.device | str = "cpu") -> torch.Generator:
        return _Generator("cpu") if torch.device(device).type == NAME else torch._C.Generator(device)


def is_possible() -> bool:
    """Tell whether this version of torch lets a backend be written in Python."""
    return hasattr(backend_registration, "_setup_privateuseone_for_python_backend")


@functools.cache
def pretend() -> torch.device:
    """Register the device in this process, before anything is differentiated: autograd counts devices once."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())
    torch.Generator = _AnyGenerator("Generator", (), {})
    torch.UntypedStorage.__new__ = _new_storage
    torch.accelerator.synchronize = _synchronise(torch.accelerator.synchronize)
    torch.nn.Module._apply = _keeping_ties(torch.nn.Module._apply)
    pretend.operators = register()
    return torch.device(NAME, 0)


@contextlib.contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """Refuse inside what makes the program wait for a device: transfers, and results that the next step depends on."""
    module = torch.get_device_module(device)
    if device.type == NAME:
        module.waiting_refused = True
        try:
            yield
        finally:
            module.waiting_refused = False
        return
    before = module.get_sync_debug_mode()
    module.set_sync_debug_mode("error")
    try:
        yield
    finally:
        module.set_sync_debug_mode(before)


def _new_storage(cls: type[torch.UntypedStorage], *args: Any, **kwargs: Any) -> torch.UntypedStorage:
    if torch.device(kwargs.get("device") or "cpu").type != NAME:
        return torch._C.StorageBase.__new__(cls, *args, **kwargs)
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
