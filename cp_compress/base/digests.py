"""Digests of content: of a model, a tensor or a data set, independent of the object that holds it."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Callable, Iterable
from typing import BinaryIO

import torch
from torch import Tensor, nn


def start_digest() -> hashlib._Hash:
    """Return an empty running digest; every digest of the project is made by this one algorithm."""
    return hashlib.sha256()


def update_with_tensor(digest: hashlib._Hash, tensor: Tensor) -> None:
    """Add a tensor's dtype, shape and bytes to a running digest; the device does not matter."""
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    update_with_bytes(digest, tensor)


def update_with_bytes(digest: hashlib._Hash, tensor: Tensor) -> None:
    """Add a tensor's bytes alone to a running digest, in row-major order."""
    flat = tensor.detach().contiguous().cpu().reshape(-1)
    if flat.numel():
        digest.update(flat.view(torch.uint8).numpy().data)


def digest_tensors(tensors: Iterable[Tensor]) -> str:
    """Return the hex digest of tensors in their order: dtypes, shapes and values, not devices.

    >>> import torch
    >>> digest_tensors([torch.zeros(2)]) == digest_tensors([torch.zeros(2)])
    True
    >>> digest_tensors([torch.zeros(2)]) == digest_tensors([-torch.zeros(2)])
    False
    """
    digest = start_digest()
    for tensor in tensors:
        update_with_tensor(digest, tensor)
    return digest.hexdigest()


def digest_text(*parts: str) -> str:
    """Return the hex digest of texts in their order."""
    digest = start_digest()
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()


class Digested(abc.ABC):
    """A value that says by a method `digest()` what its content is."""

    @abc.abstractmethod
    def digest(self) -> str:
        """Return the hex digest of the content."""


def digest_file(file: BinaryIO) -> str:
    """Return the hex digest of a file's bytes, from where it stands to its end, read piece by piece."""
    digest = start_digest()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def digest_model(model: Callable[..., object]) -> str | None:
    """Return the hex digest of what a model computes with, or None for a callable that does not tell.

    Anything but an `nn.Module` tells by an attribute `content_digest`, a text: the adapters of `cp_compress.artifacts`
    have it, from the content of the files that they were read from. Of a module, covered are the modules' paths, types,
    settings (`extra_repr` and public attributes that are numbers, texts, tensors, or lists and mappings of them) and
    hooks, and every parameter and buffer; the device and the train/eval state are not. Equal digests mean the same
    computation up to private attributes and other objects.
    """
    if not isinstance(model, nn.Module):
        told = getattr(model, "content_digest", None)
        return digest_text("content", told) if isinstance(told, str) else None
    digest = start_digest()
    for path, module in model.named_modules(remove_duplicate=False):
        kind = type(module)
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        names = [getattr(hook, "__qualname__", type(hook).__qualname__) for hook in hooks]
        settings = _plain_attributes(module)
        text = f"{path}\n{kind.__module__}.{kind.__qualname__}\n{module.extra_repr()}\n{names}\n{settings}\n"
        digest.update(text.encode())
    for path, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]:
        digest.update(path.encode())
        update_with_tensor(digest, tensor)
    return digest.hexdigest()


def _plain_attributes(module: nn.Module) -> str:
    attributes = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    attributes.pop("training", None)
    return repr([(name, _plain(attributes[name])) for name in sorted(attributes)])


def _plain(value: object) -> object:
    """Return what can be told of an attribute: its content where that is plain, else no more than its type."""
    if isinstance(value, (bool, int, float, str, torch.dtype, type(None))):
        return value
    if isinstance(value, torch.Tensor):
        return digest_tensors([value])
    if isinstance(value, dict):
        return [(str(key), _plain(part)) for key, part in value.items()]
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return getattr(value, "__qualname__", type(value).__qualname__)
