"""Devices named by the user, tested before any work is done on them; their random states, and waiting for them."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from cp_compress.base.errors import InvalidArgumentError


def known_device(name: str, what: str) -> torch.device:
    """Return the device of a name, be it there or not; raises InvalidArgumentError for one that torch does not know."""
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise InvalidArgumentError(f"{what} cannot be used here: {_reason(name, error)}") from error


def usable_device(device: torch.device | str, what: str) -> torch.device:
    """Return a device on which values can be kept and read; `what` is how an error calls it.

    Raises InvalidArgumentError for a name that torch does not know and a device that is not there.

    >>> usable_device("cpu", "device 'cpu'")
    device(type='cpu')
    """
    try:
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InvalidArgumentError(f"{what} cannot be used here: {_reason(str(device), error)}") from error
    return torch.device(device)


def keeping_random_state() -> AbstractContextManager[None]:
    """Return a context after which the CPU, and all devices that are in use, draw on as if nothing had been drawn.

    >>> before = torch.get_rng_state()
    >>> with keeping_random_state():
    ...     drawn = torch.manual_seed(0), torch.rand(2)
    >>> torch.equal(torch.get_rng_state(), before)
    True
    """
    kind = torch.accelerator.current_accelerator()
    # asking a device that is not in use for its state would take it into use
    module = None if kind is None else getattr(torch, kind.type)
    if kind is None or not getattr(module, "is_initialized", lambda: False)():
        return torch.random.fork_rng(devices=[])
    devices = [torch.device(kind.type, index) for index in range(torch.accelerator.device_count())]
    return torch.random.fork_rng(devices=devices, device_type=kind.type)


def wait_for(device: torch.device) -> None:
    """Wait until an accelerator has done all that it was told to do; a CPU has."""
    kind = torch.accelerator.current_accelerator()
    if kind is not None and device.type == kind.type:
        torch.accelerator.synchronize(device)


def _reason(name: str, error: Exception) -> str:
    if name.partition(":")[0].lower() in ("gpu", "nvidia"):
        return "torch calls it cuda, and the second one cuda:1"
    return str(error).splitlines()[0]
