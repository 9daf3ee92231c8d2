"""The plain tensors that a tensor is made of: those of subclasses, quantised and sparse tensors."""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any

import torch
from torch import Tensor, nn

_COMPRESSED = {
    torch.sparse_csr: ("crow_indices", "col_indices"),
    torch.sparse_bsr: ("crow_indices", "col_indices"),
    torch.sparse_csc: ("ccol_indices", "row_indices"),
    torch.sparse_bsc: ("ccol_indices", "row_indices"),
}
_PER_TENSOR = (torch.per_tensor_affine, torch.per_tensor_symmetric)
_PLAIN = (Tensor, nn.Parameter, nn.Buffer)


class NotVisibleError(Exception):
    """A value whose content cannot be read; the message says why."""


def is_plain(tensor: Tensor) -> bool:
    """Tell whether a tensor's content is the bytes of its own strided storage.

    >>> is_plain(torch.zeros(2)), is_plain(torch.zeros(2).to_sparse())
    (True, False)
    """
    kind = type(tensor) in _PLAIN or not is_made_of_others(tensor)
    return kind and tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta


def is_made_of_others(tensor: Tensor) -> bool:
    """Tell whether a tensor is a subclass that wraps other tensors."""
    return type(tensor) not in _PLAIN and hasattr(type(tensor), "__tensor_flatten__")


def as_plain(tensor: Tensor) -> Tensor:
    """Return a tensor that shares the storage of one that `is_plain`, without its subclass and its gradient."""
    if type(tensor) in _PLAIN:
        return tensor.detach()
    with torch._C.DisableTorchFunctionSubclass():
        plain = tensor.detach().as_subclass(Tensor)
    if type(plain) is not Tensor or (plain.numel() and not _has_storage(plain)):
        raise NotVisibleError("a tensor subclass that does not say what it is made of (__tensor_flatten__)")
    return plain


def parts_of(tensor: Tensor) -> tuple[str, list[tuple[str, Tensor]]]:
    """Return what a tensor that is not plain is made of: a text of all that is no tensor, and tensors by name.

    The parts may be made of others again. Raises NotVisibleError where there is no content.
    """
    facts = f"{type(tensor).__name__} {tensor.layout} {tensor.dtype} {tuple(tensor.shape)}"
    if is_made_of_others(tensor):
        try:
            names, context = tensor.__tensor_flatten__()  # type: ignore[attr-defined]
        except Exception as error:
            raise NotVisibleError(f"its __tensor_flatten__ fails: {error}") from error
        return f"{facts} {told(context)}", [(name, getattr(tensor, name)) for name in names]
    tensor = tensor.detach()
    if tensor.is_meta:
        raise NotVisibleError("a tensor on the device meta, which has no values")
    if tensor.is_quantized:
        return _quantized(facts, tensor)
    if tensor.layout is torch.sparse_coo:
        return facts, [("indices", tensor._indices()), ("values", tensor._values())]
    if tensor.layout in _COMPRESSED:
        return facts, [(name, getattr(tensor, name)()) for name in (*_COMPRESSED[tensor.layout], "values")]
    try:
        return facts, [("dense", tensor.to_dense())]
    except (RuntimeError, NotImplementedError) as error:
        raise NotVisibleError(f"a tensor of layout {tensor.layout}") from error


def _quantized(facts: str, tensor: Tensor) -> tuple[str, list[tuple[str, Tensor]]]:
    integers = tensor.int_repr()
    if tensor.qscheme() in _PER_TENSOR:
        return f"{facts} {tensor.q_scale()!r} {tensor.q_zero_point()}", [("int_repr", integers)]
    scales, zeros = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
    axis = f"{facts} {tensor.q_per_channel_axis()}"
    return axis, [("int_repr", integers), ("scales", scales), ("zero_points", zeros)]


def numbers_of(tensor: Tensor) -> tuple[Tensor, str]:
    """Return the plain numbers that a tensor is held as, and the name of their format.

    Those of a tensor made of others are its largest part, such as the integers beside which scales lie.

    >>> numbers_of(torch.zeros(2))[1]
    'float32'
    """
    if is_plain(tensor):
        return as_plain(tensor), str(tensor.dtype).removeprefix("torch.")
    parts = [part for _, part in parts_of(tensor)[1] if isinstance(part, Tensor)]
    if not parts:
        raise NotVisibleError(f"a {type(tensor).__name__} that is made of no tensor")
    return numbers_of(max(parts, key=lambda part: part.numel()))


def count_nonzero(numbers: Tensor) -> int:
    """Return how many numbers of a plain tensor are not zero, of a dtype too in which torch does not count.

    >>> count_nonzero(torch.tensor([0.0, -0.0, 2.0]).to(torch.float8_e4m3fn))
    1
    """
    # torch counts in some dtypes, converts some others, such as those of eight bits, and of the rest it has the bytes
    with contextlib.suppress(RuntimeError, NotImplementedError):
        return int(numbers.count_nonzero())
    with contextlib.suppress(RuntimeError, NotImplementedError):
        return int(numbers.float().count_nonzero())
    return int(numbers.contiguous().view(torch.uint8).count_nonzero())


def value_of(tensor: Tensor) -> Tensor:
    """Return the numbers that a tensor stands for, as a plain tensor where it can be dequantised."""
    if is_plain(tensor):
        return as_plain(tensor)
    for turn in ("dequantize", "to_dense"):
        try:
            value = getattr(tensor.detach(), turn)()
        except Exception:  # what a library's tensor does not implement, it refuses in ways of its own
            continue
        if isinstance(value, Tensor) and is_plain(value):
            return as_plain(value)
    return tensor


def geometry(tensor: Tensor) -> tuple[Any, ...]:
    """Return what two plain tensors have in common that are the same view of one storage."""
    storage = tensor.untyped_storage()
    place = (storage.data_ptr(), str(tensor.device)) if storage.nbytes() else ("empty", id(tensor))
    return (*place, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype)


def told(value: object) -> str:
    """Return a text of a value that is the same in another process: no addresses, no sets in their own order."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {told(part)}" for key, part in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({', '.join(map(told, value))})"
    if isinstance(value, (set, frozenset)):
        return f"{type(value).__name__}({', '.join(sorted(map(told, value)))})"
    if isinstance(value, (bytes, bytearray)):
        return f"bytes {hashlib.sha256(value).hexdigest()}"
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)} {value.dtype}"
    text = repr(value)
    return type(value).__qualname__ if " at 0x" in text or "object at" in text else text


def _has_storage(tensor: Tensor) -> bool:
    try:
        return tensor.untyped_storage().data_ptr() != 0
    except (RuntimeError, NotImplementedError):  # a tensor without a storage says so by one of these
        return False
