"""Memory of the CPU that a tensor says lies on the device: what torch exchanges tensors by is told another place."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

NAME = "pretended"
_OTHER_IN_DLPACK = {"cpu": 12, NAME: 1}
_address = ctypes.pythonapi.PyCapsule_GetPointer
_address.restype, _address.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


class _Head(ctypes.Structure):
    """How a tensor of DLPack begins."""

    _fields_ = (("values", ctypes.c_void_p), ("kind", ctypes.c_int32), ("index", ctypes.c_int32))


def relabelled(tensor: Tensor) -> Tensor:
    """Return the same memory as a tensor of the other device."""
    capsule = torch._C._to_dlpack(tensor.detach())
    head = _Head.from_address(_address(capsule, b"dltensor"))
    head.kind, head.index = _OTHER_IN_DLPACK[tensor.device.type], 0
    return torch._C._from_dlpack(capsule)


def on_device(value: object) -> bool:
    """Tell whether something is a tensor that says it lies on the device."""
    return isinstance(value, Tensor) and value.device.type == NAME


def on_cpu(value: Any) -> Any:
    """Return a value with all tensors in its lists on the CPU."""
    if isinstance(value, Tensor):
        return relabelled(value) if value.device.type == NAME else value
    return type(value)(map(on_cpu, value)) if type(value) in (list, tuple) else value


def back_on_device(value: Any) -> Any:
    """Return a value with all tensors in its lists on the device."""
    if isinstance(value, Tensor):
        return relabelled(value)
    return type(value)(map(back_on_device, value)) if isinstance(value, (list, tuple)) else value
