"""Files of `torch.save`: state dicts, read without running code of a pickle; whole models only with permission."""

from __future__ import annotations

import io
import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

import torch
from torch import nn

from cp_compress.artifacts.archives import ZIP_MAGIC, open_archive, read_member
from cp_compress.artifacts.guards import MAX_BYTES, check_max_bytes, opened, told
from cp_compress.artifacts.weights.filling import DTYPES, Factory, fill, make_model
from cp_compress.artifacts.weights.pickle_costs import check_pickle
from cp_compress.base.arguments import check_choice, explains_keywords, reject
from cp_compress.base.error_reasons import shortened
from cp_compress.base.errors import ArtifactError

_OWNER = "load_torch"
_PICKLES = 5  # of an older file: two marks, the machine, the content, the names of the storages


@explains_keywords
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

    The file is read by torch with `weights_only=True`, which makes only tensors and plain containers of it. A whole
    model is a pickle that can run any code when it is read, so it is refused unless `allow_pickle` is set.

    Args:
        path: The file.
        factory: A function without arguments, or "package.module:factory", that makes the architecture; not needed for
            a whole model.
        key: The entry of a checkpoint that holds the state dict; None if the file holds the state dict itself.
        dtype: As for `load_safetensors`; "equal" by default.
        allow_pickle: Whether the origin of the file is trusted, so that it may hold a whole model and run any code.
        max_bytes: The largest size of the file, also when unpacked.

    Returns:
        The model.

    Raises:
        ArtifactError: If the file is damaged, too large, holds anything else, or does not fit the model. The file is
            named.
        InvalidArgumentError: If an argument is not as described, or does not apply to a whole model.
    """
    check_choice(_OWNER, "dtype", dtype or "equal", DTYPES)
    if type(allow_pickle) is not bool:
        reject(_OWNER, "allow_pickle", allow_pickle, "must be True or False")
    limit = check_max_bytes(_OWNER, max_bytes)
    with opened(path, limit) as file:
        if file.read(len(ZIP_MAGIC)) == ZIP_MAGIC:
            _check_members(open_archive(file, path, limit), path)
        elif not allow_pickle:
            _check_pickles(file, path)
        content = _read(file, path, allow_pickle)
    if key is not None:
        content = _entry(content, key, path)
    if isinstance(content, nn.Module):  # no reading without pickles makes one
        for name, value in (("factory", factory), ("dtype", dtype)):
            if value is not None:
                reject(_OWNER, name, value, f"{os.fspath(path)} holds a whole model, which does not take this argument")
        return content.eval()
    tensors, versions = _state_dict(content, path), _versions(content, path)
    model = make_model(_OWNER, factory, path)
    with told(path, "filling the model with it"):  # tensors may have attributes in the place of their methods
        return fill(model, tensors, dtype or "equal", path, versions)


def read_plain(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> Any:
    """Return the tensors and plain containers of a file that `torch.save` wrote; no code in it is run.

    Raises ArtifactError for a damaged file, and for one that holds more than that.
    """
    with opened(path, max_bytes) as file:
        if file.read(len(ZIP_MAGIC)) == ZIP_MAGIC:
            _check_members(open_archive(file, path, max_bytes), path)
        else:
            _check_pickles(file, path)
        return _read(file, path, False)


def _read(file: BinaryIO, path: str | os.PathLike[str], allow_pickle: bool) -> Any:
    file.seek(0)
    with told(path, "torch's reading it"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about formats that it no longer writes
        try:
            return torch.load(file, map_location="cpu", weights_only=not allow_pickle)
        except Exception as error:
            if allow_pickle or "weights_only" not in str(error).lower():
                raise
            rule = f"{_asked_for(str(error))}: pickles, which can run any code, and are refused"
            remedy = "save its state_dict, or trust the file with allow_pickle=True"
            raise ArtifactError(path, f"holds {rule}; {remedy}") from error


def _asked_for(refusal: str) -> str:
    """Return what a pickle asks for besides tensors, by the words with which torch refuses it."""
    found = re.search(r"GLOBAL ([\w.]+) was not|(?:function|class|module) ([\w.]+) whose module", refusal)
    return (
        f"a whole model, or objects ({shortened(found[1] or found[2], 100)})" if found else "a whole model, or objects"
    )


def _check_members(archive: zipfile.ZipFile, path: str | os.PathLike[str]) -> None:
    """Raise ArtifactError for a member that is not what its checksum says, which torch does not look at."""
    for name in archive.namelist():
        if name.endswith("/data.pkl"):
            check_pickle(io.BytesIO(read_member(archive, name, path)), path)
    with told(path, "unpacking it"):
        damaged = archive.testzip()
    if damaged is not None:
        raise ArtifactError(path, f"{shortened(damaged, 120)} is damaged: its checksum is wrong")


def _check_pickles(file: BinaryIO, path: str | os.PathLike[str]) -> None:
    """Look through the pickles at the head of a file of older versions of torch."""
    file.seek(0)
    for _ in range(_PICKLES):
        check_pickle(file, path)


def _entry(content: Any, key: str, path: str | os.PathLike[str]) -> Any:
    if not isinstance(content, Mapping) or key not in content:
        found = _listed(content) if isinstance(content, Mapping) else type(content).__name__
        raise ArtifactError(path, f"has no entry {key!r}; it holds {found}")
    return content[key]


def _state_dict(content: Any, path: str | os.PathLike[str]) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        raise ArtifactError(path, f"holds a {type(content).__name__}; expected a state dict")
    # a pickle may give a dict attributes in the place of its methods
    entries = dict(dict.items(content) if isinstance(content, dict) else content)
    inner = [name for name, value in entries.items() if isinstance(value, Mapping)]
    if inner or not all(isinstance(name, str) for name in entries):
        raise ArtifactError(path, f"holds {_listed(entries)}; name the entry that is the state dict with key=")
    return entries


def _versions(content: Any, path: str | os.PathLike[str]) -> dict[str, dict[str, Any]] | None:
    """Return what a state dict says about the versions of the modules that wrote it, by their paths."""
    found = getattr(content, "_metadata", None)
    if found is None:
        return None
    if not isinstance(found, dict) or not all(isinstance(value, dict) for value in dict.values(found)):
        raise ArtifactError(path, "has a state dict whose _metadata is not a table of versions")
    return {name: dict(dict.items(value)) for name, value in dict.items(found)}


def _listed(content: Mapping[Any, Any]) -> str:
    return shortened(", ".join(shortened(repr(name), 60) for name in list(content)[:10]), 300) or "nothing"
