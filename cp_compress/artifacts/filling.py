"""A model from the user's own factory, filled with tensors that a file holds: names and shapes must all fit."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.arguments import reject
from cp_compress.base.errors import ArtifactError, InvalidArgumentError
from cp_compress.base.factories import make_from
from cp_compress.base.reasons import shortened

Factory = Callable[[], nn.Module] | str
DTYPES = ("equal", "model", "file")
_SHOWN = 5


def make_model(owner: str, factory: Factory | None) -> nn.Module:
    """Return the module that a factory makes; raises InvalidArgumentError for one that makes something else."""
    if factory is None:
        reject(owner, "factory", None, "the file holds tensors alone: give the factory of their architecture")
    if isinstance(factory, nn.Module) or not (isinstance(factory, str) or callable(factory)):
        kind = type(factory).__name__
        reject(owner, "factory", kind, 'must be a function without arguments, or "package.module:factory"')
    model = make_from(factory, f"{owner}(factory)") if isinstance(factory, str) else factory()
    if not isinstance(model, nn.Module):
        raise InvalidArgumentError(f"{owner}: the factory gives a {type(model).__name__}; expected a torch.nn.Module")
    return model


def fill(model: nn.Module, tensors: Mapping[str, Any], dtype: str, path: str | os.PathLike[str]) -> nn.Module:
    """Give a model the tensors of a file, in evaluation mode; raises ArtifactError where one does not fit.

    Names must be those of the model's `state_dict`, but that of several names of one tied tensor one is enough, and
    shapes must be equal. So must dtypes with `dtype="equal"`; with "model" floating-point values are converted to the
    model's dtypes, with "file" the model takes the file's, and computes in them.
    """
    places: dict[str, Any] = model.state_dict(keep_vars=True)
    odd = [name for name, value in [*tensors.items(), *places.items()] if not isinstance(value, Tensor)]
    if odd:
        raise ArtifactError(path, f"{shortened(odd[0])} is no tensor: what modules store beside tensors cannot be read")
    _require_names(places, tensors, path)
    for name, value in tensors.items():
        _require_fit(name, value, places[name], dtype, path)
    filled: dict[int, str] = {}
    with torch.no_grad():
        for name, value in tensors.items():
            place = places[name]
            target = place.dtype if dtype == "model" else value.dtype
            made = value.detach().to(place.device, target, copy=True).contiguous()
            if id(place) in filled and not _same(place.detach(), made):
                raise ArtifactError(path, f"{name} and {filled[id(place)]} are one tensor in the model, and differ")
            place.data = made
            filled[id(place)] = name
    return model.eval()


def _require_names(places: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    held = {id(places[name]) for name in tensors if name in places}
    missing = [name for name, tensor in places.items() if name not in tensors and id(tensor) not in held]
    unknown = [name for name in tensors if name not in places]
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


def _same(first: Tensor, second: Tensor) -> bool:
    return first.dtype == second.dtype and torch.equal(first, second)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(shortened(name, 80) for name in names[:_SHOWN]) + more
