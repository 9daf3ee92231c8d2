"""Files of `torch.save`: state dicts, read without running what a pickle may hold; whole models only when allowed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any, BinaryIO

import torch
from torch import nn

from cp_compress.artifacts.archives import ZIP_MAGIC, open_archive
from cp_compress.artifacts.filling import DTYPES, Factory, fill, make_model
from cp_compress.artifacts.guards import MAX_BYTES, check_max_bytes, opened, shortened, told
from cp_compress.base.arguments import check_choice, reject
from cp_compress.base.errors import ArtifactError

_OWNER = "load_torch"


def load_torch(
    path: str | os.PathLike[str],
    factory: Factory | None = None,
    *,
    key: str | None = None,
    dtype: str | None = None,
    allow_pickle: bool = False,
    max_bytes: int = MAX_BYTES,
) -> nn.Module:
    """Return the model of a `.pt` or `.pth` file that `torch.save` wrote, in evaluation mode.

    The file holds a state dict, `key` names the entry of a checkpoint that does; `factory` and `dtype` ("equal" by
    default) are as for `load_safetensors`. It is read by torch with `weights_only=True`: tensors and plain containers
    are all that is made of it. A whole model is a pickle that can run any code when it is read: it is refused, unless
    `allow_pickle=True` says that whoever made the file is trusted; then no `factory` is needed.

    Raises ArtifactError, naming the file, for one that is damaged, larger than `max_bytes` (also when unpacked),
    holds anything else, or does not fit.
    """
    check_choice(_OWNER, "dtype", dtype or "equal", DTYPES)
    if type(allow_pickle) is not bool:
        reject(_OWNER, "allow_pickle", allow_pickle, "must be True or False")
    limit = check_max_bytes(_OWNER, max_bytes)
    with opened(path, limit) as file:
        if file.read(len(ZIP_MAGIC)) == ZIP_MAGIC:
            open_archive(file, path, limit)
        content = _read(file, path, allow_pickle)
    if key is not None:
        content = _entry(content, key, path)
    if isinstance(content, nn.Module):  # no reading without pickles makes one
        for name, value in (("factory", factory), ("dtype", dtype)):
            if value is not None:
                reject(_OWNER, name, value, f"{os.fspath(path)} holds a whole model, which takes no such option")
        return content.eval()
    return fill(make_model(_OWNER, factory), _state_dict(content, path), dtype or "equal", path)


def _read(file: BinaryIO, path: str | os.PathLike[str], allow_pickle: bool) -> Any:
    file.seek(0)
    with told(path, "torch's reading it"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about formats that it no longer writes
        try:
            return torch.load(file, map_location="cpu", weights_only=not allow_pickle)
        except Exception as error:
            if allow_pickle or "weights_only" not in str(error).lower():
                raise
            reason = shortened(str(error).partition("WeightsUnpickler error: ")[2] or error, 200)
            rule = "a whole model, or objects: pickles, which can run any code, and are refused"
            remedy = "Save its state_dict, or trust the file with allow_pickle=True"
            raise ArtifactError(path, f"holds {rule} ({reason}). {remedy}") from error


def _entry(content: Any, key: str, path: str | os.PathLike[str]) -> Any:
    if not isinstance(content, Mapping) or key not in content:
        found = _listed(content) if isinstance(content, Mapping) else type(content).__name__
        raise ArtifactError(path, f"has no entry {key!r}; it holds {found}")
    return content[key]


def _state_dict(content: Any, path: str | os.PathLike[str]) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        raise ArtifactError(path, f"holds a {type(content).__name__}; expected a state dict")
    inner = [name for name, value in content.items() if isinstance(value, Mapping)]
    if inner or not all(isinstance(name, str) for name in content):
        raise ArtifactError(path, f"holds {_listed(content)}; name the entry that is the state dict with key=")
    return dict(content)


def _listed(content: Mapping[Any, Any]) -> str:
    return shortened(", ".join(shortened(repr(name), 60) for name in list(content)[:10]), 300) or "nothing"
