"""Devices named by the user, tested before any work is done on them."""

from __future__ import annotations

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


def _reason(name: str, error: Exception) -> str:
    if name.partition(":")[0].lower() in ("gpu", "nvidia"):
        return "torch calls it cuda, and the second one cuda:1"
    return str(error).splitlines()[0]
