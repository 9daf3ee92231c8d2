"""A model from the user's own factory, filled with the tensors of a file: names and shapes must all fit."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from cp_compress.artifacts.guards import told
from cp_compress.base.arguments import reject
from cp_compress.base.error_reasons import shortened
from cp_compress.base.errors import ArtifactError, InvalidArgumentError
from cp_compress.base.factories import make_from

Factory = Callable[[], nn.Module] | str
DTYPES = ("equal", "model", "file")
_SHOWN = 5


def make_model(owner: str, factory: Factory | None, path: str | os.PathLike[str]) -> nn.Module:
    """Return the module that a factory makes, to be filled from a file.

    Raises InvalidArgumentError for a factory that makes something else, ArtifactError, naming the file, for a module
    whose tensors have no memory (meta device) or no shape (lazy layers) yet.
    """
    if factory is None:
        reject(owner, "factory", None, "the file holds only tensors: give the factory of their architecture")
    if isinstance(factory, nn.Module) or not (isinstance(factory, str) or callable(factory)):
        kind = type(factory).__name__
        reject(owner, "factory", kind, 'must be a function without arguments, or "package.module:factory"')
    model = make_from(factory, f"{owner}(factory)") if isinstance(factory, str) else factory()
    if not isinstance(model, nn.Module):
        raise InvalidArgumentError(f"{owner}: the factory made a {type(model).__name__}; expected a torch.nn.Module")
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor):
            rule = "has no shape yet: let the factory run a batch through its lazy layers"
        elif tensor.is_meta:
            rule = "is on the meta device: let the factory make it on a device with memory"
        else:
            continue
        raise ArtifactError(path, f"cannot be filled into the factory's model, whose {shortened(name, 80)} {rule}")
    return model


def fill(
    model: nn.Module,
    tensors: Mapping[str, Any],
    dtype: str,
    path: str | os.PathLike[str],
    versions: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Give a model the tensors of a file, in evaluation mode; raises ArtifactError where one does not fit.

    The model's own `load_state_dict` takes them, with all its hooks, which may bring older layouts up to date by
    `versions` (the `_metadata` of a state dict). Names must be those that it takes, but that of several names of one
    tied tensor one is enough, and shapes must be equal. So must dtypes with `dtype="equal"`; with "model"
    floating-point values are converted to the model's dtypes, with "file" the model takes the file's, and computes in
    them.
    """
    places: dict[str, Any] = model.state_dict(keep_vars=True)
    odd = [name for name, value in [*tensors.items(), *places.items()] if not isinstance(value, Tensor)]
    if odd:
        raise ArtifactError(path, f"{shortened(odd[0])} is not a tensor, and other state of modules cannot be read")
    known = [name for name in tensors if name in places]
    for name in known:
        _require_fit(name, tensors[name], places[name], dtype, path)
    # tensors without the attributes that a file may give them, which no hook expects
    given: OrderedDict[str, Any] = OrderedDict((name, value.detach()) for name, value in tensors.items())
    first: dict[int, str] = {}
    for name in known:
        other = first.setdefault(id(places[name]), name)
        if other != name:
            target = places[name].dtype if dtype == "model" else None
            if not _same(tensors[name], tensors[other], target):
                raise ArtifactError(path, f"{name} and {other} are one tensor in the model, and differ")
    for name, place in places.items():
        if name not in given and id(place) in first:
            given[name] = given[first[id(place)]]
    if dtype == "file":
        _take_dtypes(model, {name: tensors[name].dtype for name in known}, path)
    if versions is not None:
        given._metadata = versions  # type: ignore[attr-defined]  # where load_state_dict looks for it
    with told(path, "filling the model with it"):  # the hooks of a model can raise anything
        found = model.load_state_dict(given, strict=False)
    _require_names(found.missing_keys, found.unexpected_keys, path)
    return model.eval()


def _take_dtypes(model: nn.Module, dtypes: Mapping[str, torch.dtype], path: str | os.PathLike[str]) -> None:
    """Let the tensors of a model have other dtypes; what is in them is not kept."""
    places = model.state_dict(keep_vars=True)
    for name, dtype in dtypes.items():
        if places[name].dtype != dtype:
            places[name].data = torch.empty_like(places[name], dtype=dtype)
    for name, place in model.state_dict(keep_vars=True).items():
        if place.dtype != dtypes.get(name, place.dtype):  # a hook gave a copy in its place
            raise ArtifactError(
                path, f"{name} cannot be given the file's {dtypes[name]}: the model keeps {place.dtype}"
            )


def _require_names(missing: list[str], unknown: list[str], path: str | os.PathLike[str]) -> None:
    if not missing and not unknown:
        return
    parts = []
    if missing:
        parts.append(f"{len(missing)} tensors of the model are not in the file ({_listed(missing)})")
    if unknown:
        parts.append(f"{len(unknown)} tensors of the file are not in the model ({_listed(unknown)})")
    raise ArtifactError(path, f"does not fit the factory's model: {'; '.join(parts)}")


def _require_fit(name: str, value: Tensor, place: Tensor, dtype: str, path: str | os.PathLike[str]) -> None:
    if value.layout != torch.strided or value.device.type == "meta":
        raise ArtifactError(path, f"{name} is a {value.layout} tensor on {value.device}; expected a dense one")
    if value.shape != place.shape:
        held, expected = tuple(value.shape), tuple(place.shape)
        raise ArtifactError(path, f"{name} has shape {held} in the file and {expected} in the model")
    if value.dtype == place.dtype:
        return
    both = f"{name} is {value.dtype} in the file and {place.dtype} in the model"
    if not (value.dtype.is_floating_point and place.dtype.is_floating_point):
        raise ArtifactError(path, both)
    if dtype == "equal":
        choice = 'dtype="model" converts the values, dtype="file" lets the model compute in the file\'s'
        raise ArtifactError(path, f"{both}: {choice}")


def _same(first: Tensor, second: Tensor, dtype: torch.dtype | None) -> bool:
    """Tell whether two tensors are equal, after a conversion where there is one."""
    made, other = (tensor if dtype is None else tensor.to(dtype) for tensor in (first, second))
    return made.dtype == other.dtype and torch.equal(made, other)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(shortened(name, 80) for name in names[:_SHOWN]) + more
