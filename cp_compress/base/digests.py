"""Digests of content: of a model, a tensor or a data set, independent of the object that holds it."""

from __future__ import annotations

import abc
import contextlib
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from cp_compress.base.holdings.found import Holdings
from cp_compress.base.holdings.tensors import NotVisibleError, as_plain, is_plain, parts_of
from cp_compress.base.holdings.walking import holdings_of

Value = TypeVar("Value")
_BIAS_OF_NORM = re.compile(r", bias=(True|False)")


def start_digest() -> hashlib._Hash:
    """Return an empty running digest; every digest of the project is made by this one algorithm."""
    return hashlib.sha256()


def update_with_tensor(digest: hashlib._Hash, tensor: Tensor) -> None:
    """Add a tensor's dtype, shape and bytes to a running digest; the device does not matter.

    Of one that is made of others, such as a quantised one, added are the parts. One without values adds that it has
    none.
    """
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    try:
        if is_plain(tensor):
            update_with_bytes(digest, as_plain(tensor))
            return
        facts, parts = parts_of(tensor)
    except NotVisibleError as reason:
        facts, parts = f"{type(tensor).__name__}: {reason}", []
    digest.update(facts.encode())
    for name, part in parts:
        digest.update(name.encode())
        if isinstance(part, Tensor):
            update_with_tensor(digest, part)


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
    hooks, every parameter and buffer, and all tensors, arrays, bytes and modules that `holdings_of` finds elsewhere;
    the device and the train/eval state are not. Equal digests mean the same computation up to numbers and texts in
    private attributes and other objects, and up to what `examine` names as uncovered.
    """
    return examine(model).digest


_known: ContextVar[dict[tuple[int, ...], tuple[object, Any]] | None] = ContextVar("cp_known_digests", default=None)


@contextlib.contextmanager
def examining_once() -> Iterator[None]:
    """Examine each model, and each data set, inside once, and again only after something has run.

    A large one takes seconds each time.
    """
    token = _known.set({})
    try:
        yield
    finally:
        _known.reset(token)


def forget_examined() -> None:
    """Examine models anew that are examined from now on: what has run may have changed any."""
    known = _known.get()
    if known is not None:
        known.clear()


@dataclass(frozen=True)
class Examined:
    """What `examine` found.

    Attributes:
        digest: As `digest_model` returns it: the same in another process, for records and files.
        state: The digest of everything that can be seen, private numbers and code included; to be compared within one
            process only, to tell whether a model is still what it was.
        uncovered: What may hold content that no digest sees, by path and type; of a model whose file says by
            `content_digest` what it is, nothing.
    """

    digest: str | None
    state: str
    uncovered: tuple[str, ...]


def examine(model: Callable[..., object]) -> Examined:
    """Return the digests of a model, or of another callable, and the names of what they do not cover.

    >>> examine(nn.Linear(2, 1)).uncovered, examine(lambda batch: batch).digest
    ((), None)
    """
    return once(lambda: _examine(model), model)


def once(compute: Callable[[], Value], *subjects: object) -> Value:
    """Return what `compute` says of some objects; within `examining_once` what it said the first time.

    It is asked one thing of an object: a key is nothing but its objects.
    """
    known = _known.get()
    if known is None:
        return compute()
    key = tuple(map(id, subjects))
    if key not in known:
        known[key] = subjects, compute()  # the objects too, so that no others get their ids
    value: Value = known[key][1]
    return value


def _examine(model: Callable[..., object]) -> Examined:
    known = getattr(model, "examined", None)
    if isinstance(known, Examined):  # what is known of a model that is not at hand
        return known
    told = getattr(model, "content_digest", None)
    if not isinstance(model, nn.Module) and isinstance(told, str):
        digest = digest_text("content", told)
        return Examined(digest, digest, ())
    found = holdings_of(model)
    running = start_digest()
    if isinstance(model, nn.Module):
        _update_with_module(running, model)
    _update_with_hidden(running, found)
    digest = running.hexdigest()
    state = digest_text(digest, *found.settings)
    return Examined(digest if isinstance(model, nn.Module) else None, state, tuple(map(str, found.unseen)))


def uncovered(model: Callable[..., object]) -> tuple[str, ...]:
    """Return what of a model no digest covers, by path and type; empty where digests cover everything."""
    told = getattr(model, "content_digest", None)
    whole = not isinstance(model, nn.Module) and (isinstance(told, str) or hasattr(model, "examined"))
    return () if whole else tuple(map(str, holdings_of(model).unseen))


def _update_with_module(digest: hashlib._Hash, model: nn.Module) -> None:
    for path, module in model.named_modules(remove_duplicate=False):
        digest.update(_module_text(path, module).encode())
    for path, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]:
        digest.update(path.encode())
        update_with_tensor(digest, tensor)


def _update_with_hidden(digest: hashlib._Hash, found: Holdings) -> None:
    """Add what is neither parameter nor buffer; nothing for a model that has no more than those."""
    for path, module in found.modules:
        digest.update(_module_text(path, module).encode())
    for held in found.hidden():
        digest.update(held.path.encode())
        update_with_tensor(digest, held.tensor)
    for content in found.content:
        digest.update(f"{content.path}\n{content.digest}\n".encode())
    for fact in found.facts:
        digest.update(f"{fact}\n".encode())


def _module_text(path: str, module: nn.Module) -> str:
    kind = type(module)
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    names = [getattr(hook, "__qualname__", type(hook).__qualname__) for hook in hooks]
    settings = _plain_attributes(module)
    return f"{path}\n{kind.__module__}.{kind.__qualname__}\n{described(module)}\n{names}\n{settings}\n"


def described(module: nn.Module) -> str:
    """Return the settings that a module tells of itself, in one form for all versions of torch."""
    told = module.extra_repr()
    # newer versions of torch add what the parameters show; a model has one digest in all of them
    return _BIAS_OF_NORM.sub("", told) if isinstance(module, _NormBase) else told


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
