"""The digests of what a store was made from, in a file of their own beside the shards, which no size counts."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from cp_compress.base.digests import digest_tensors, digest_text
from cp_compress.base.error_reasons import reason_of
from cp_compress.base.errors import CorruptStreamError
from cp_compress.base.files import write_atomically
from cp_compress.data.store.unfinished import ORIGINALS, publish
from cp_compress.inputs.originals import DIGEST_BYTES, Originals

_DTYPES = {str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}


def write_originals(staging: Path, folder: Path, originals: tuple[Originals, ...]) -> None:
    """Write the digests of what each example was made from, and of what that was made from; nothing where they lie."""
    if not (folder / ORIGINALS).is_symlink() and (folder / ORIGINALS).is_file():
        try:
            if read_originals(folder, len(originals[0].digests) // DIGEST_BYTES) == originals:
                return
        except CorruptStreamError:  # it is replaced
            pass
    tensors = {f"{at}.{name}": content for at, one in enumerate(originals) for name, content in _tensors(one)}
    forms = json.dumps([[list(one.shape), str(one.dtype)] for one in originals])
    content = safetensors.torch.save(tensors, {"told": json.dumps([forms, _digest(forms, tensors)])})
    write_atomically(staging / ORIGINALS, content)
    publish(staging, folder, ORIGINALS)


def read_originals(folder: Path, count: int) -> tuple[Originals, ...]:
    """Return what `write_originals` wrote of `count` examples; nothing in a store of an older version.

    Raises CorruptStreamError for a file that is damaged or belongs to another store.
    """
    path = folder / ORIGINALS
    if not path.is_file():
        return ()
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no dict
            forms, digest = json.loads((opened.metadata() or {})["told"])
        if digest != _digest(forms, tensors):
            raise ValueError("its checksum is wrong")
        found = []
        for at, (shape, dtype) in enumerate(json.loads(forms)):
            rows, values = (tensors[f"{at}.{name}"].numpy().tobytes() for name in ("rows", "values"))
            if len(rows) != count * DIGEST_BYTES or len(values) != count * DIGEST_BYTES:
                raise ValueError(f"it is not about {count} examples")
            found.append(Originals(tuple(map(int, shape)), _DTYPES[dtype], rows, values))
        return tuple(found)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        rule = "write the store again to mend it"
        raise CorruptStreamError(f"{path} says nothing of originals ({reason_of(error)}): {rule}") from error


def _tensors(originals: Originals) -> list[tuple[str, Tensor]]:
    parts = (("rows", originals.digests), ("values", originals.values))
    return [(name, torch.frombuffer(bytearray(content), dtype=torch.uint8)) for name, content in parts]


def _digest(forms: str, tensors: dict[str, Tensor]) -> str:
    return digest_text(forms, digest_tensors(tensors[name] for name in sorted(tensors)))
