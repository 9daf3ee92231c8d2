"""The archive of an exported program, rebuilt from the members that were checked: nothing else reaches torch.

`torch.export.load` unpickles sample inputs, tensor subclasses and constants without restriction. The archive rebuilt
here has none: tensors are bytes with a shape, and sample inputs are left out.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import tempfile
import zipfile
from typing import Any, BinaryIO, NoReturn

from cp_compress.artifacts.archives import open_archive, read_member
from cp_compress.artifacts.exported_programs.checks import clean_program, is_path, read_json
from cp_compress.base.error_reasons import reason_of, shortened
from cp_compress.base.errors import ArtifactError

_PROGRAM = "models/model.json"
_TABLES = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_SMALL_MEMBERS = ("archive_format", "archive_version", "byteorder", ".data/version")
_SAMPLES = "data/sample_inputs/model.pt"
_LARGEST_TEXT = 256 << 20
_IN_MEMORY = 256 << 20
_TENSOR = re.compile(r"(weight|tensor)_\d{1,9}", re.ASCII)
_LARGEST_SIZE = 1 << 48
_ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 9: 4, 10: 8, 11: 16, 12: 1, 13: 2}
_UNKNOWN_ITEM_BYTES = 16


def clean_archive(file: BinaryIO, path: str | os.PathLike[str], max_bytes: int) -> BinaryIO:
    """Return a new archive of the program in an open `.pt2` file, checked, without pickles and compiled code.

    Raises ArtifactError for archives that hold compiled code, more than one program, or whose tensors are pickled or
    would take more than `max_bytes` bytes, and for what `clean_program` refuses.
    """
    archive = open_archive(file, path, max_bytes)
    members = _by_inner_name(archive, path)
    _refuse_code(list(members), path)
    small = sum(each.file_size for each in members.values()) < _IN_MEMORY
    made: Any = io.BytesIO() if small else tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as new:
        for name in _SMALL_MEMBERS:
            if name in members:
                new.writestr(f"archive/{name}", _text(archive, members, name, path))
        new.writestr(f"archive/{_PROGRAM}", clean_program(_text(archive, members, _PROGRAM, path), path))
        new.writestr(f"archive/{_SAMPLES}", b"")
        for table in _TABLES:
            _copy_tensors(archive, members, table, new, path, max_bytes)
    made.seek(0)
    return made  # type: ignore[no-any-return]


def _by_inner_name(archive: zipfile.ZipFile, path: str | os.PathLike[str]) -> dict[str, zipfile.ZipInfo]:
    """Return the members by their names below the archive's one folder."""
    members = {each.filename.partition("/")[2]: each for each in archive.infolist() if not each.is_dir()}
    if len({each.filename.partition("/")[0] for each in archive.infolist()}) != 1:
        raise ArtifactError(path, "is not an archive of an exported program: its members are in several folders")
    return members


def _refuse_code(names: list[str], path: str | os.PathLike[str]) -> None:
    programs = [name for name in names if name.startswith("models/")]
    if programs != [_PROGRAM]:
        raise ArtifactError(path, f"holds {len(programs)} programs; expected one, {_PROGRAM}")
    for name in names:
        compiled = name.startswith(("data/aotinductor/", "data/executorch/", "code/"))
        if compiled or name.endswith((".so", ".dll", ".dylib", ".pyd", ".o", ".cubin")):
            raise ArtifactError(path, f"holds compiled code ({shortened(name, 120)}), which is refused")


def _text(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], name: str, path: str | os.PathLike[str]
) -> bytes:
    if name not in members:
        raise ArtifactError(path, f"holds no {name}")
    if members[name].file_size > _LARGEST_TEXT:
        raise ArtifactError(path, f"holds a {name} of {members[name].file_size:,} bytes")
    return read_member(archive, members[name].filename, path)


def _copy_tensors(
    archive: zipfile.ZipFile,
    members: dict[str, zipfile.ZipInfo],
    table: str,
    new: zipfile.ZipFile,
    path: str | os.PathLike[str],
    max_bytes: int,
) -> None:
    content = read_json(_text(archive, members, table, path), path, table)
    entries = content.get("config")
    if not isinstance(entries, dict):
        raise ArtifactError(path, f"{table} lists no tensors")
    folder, names, total = table.rpartition("/")[0], set(), 0
    for tensor, entry in entries.items():
        if not is_path(tensor) or not isinstance(entry, dict):
            raise ArtifactError(path, f"{table} has an entry {shortened(tensor, 120)} that is not a tensor")
        name = entry.get("path_name")
        if not isinstance(name, str) or not _TENSOR.fullmatch(name) or entry.get("use_pickle") is not False:
            rule = "the program must hold plain tensors; allow_pickle=True trusts the file and may run code in it"
            raise ArtifactError(path, f"{shortened(tensor, 120)} is stored as a pickle, which is refused: {rule}")
        if f"{folder}/{name}" not in members:
            raise ArtifactError(path, f"holds no {folder}/{name}")
        stored = members[f"{folder}/{name}"].file_size
        total += _checked_bytes(tensor, entry.get("tensor_meta"), stored, path)
        entry["tensor_meta"]["device"] = {"type": "cpu", "index": None}
        names.add(name)
    if total > max_bytes:
        raise ArtifactError(path, f"has tensors of {total:,} bytes; at most {max_bytes:,} are allowed (max_bytes=)")
    new.writestr(f"archive/{table}", json.dumps({"config": entries}))
    for name in sorted(names):
        _copy(archive, members[f"{folder}/{name}"], new, f"archive/{folder}/{name}", path)


def _copy(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, new: zipfile.ZipFile, name: str, path: str | os.PathLike[str]
) -> None:
    try:
        with archive.open(member) as source, new.open(name, "w", force_zip64=True) as target:
            shutil.copyfileobj(source, target, 1 << 20)
    except Exception as error:
        raise ArtifactError(path, f"{shortened(member.filename, 120)} is damaged: {reason_of(error)}") from error


def _checked_bytes(name: str, meta: Any, stored: int, path: str | os.PathLike[str]) -> int:
    """Return the bytes that a tensor takes when it is written out; what it views must be there."""
    if not isinstance(meta, dict):
        _refuse_meta(name, path)
    sizes, strides = _whole(meta.get("sizes")), _whole(meta.get("strides"))
    (offset,) = _whole([meta.get("storage_offset")]) or [-1]
    dtype = meta.get("dtype")
    if sizes is None or strides is None or len(sizes) != len(strides) or offset < 0 or not isinstance(dtype, int):
        _refuse_meta(name, path)
    if set(meta) - _META_KEYS:
        _refuse_meta(name, path)
    count = math.prod(sizes)
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)) + 1
    if count and last * _ITEM_BYTES.get(dtype, 1) > stored:
        raise ArtifactError(path, f"{shortened(name, 120)} reaches beyond the {stored:,} bytes that are stored for it")
    return count * _ITEM_BYTES.get(dtype, _UNKNOWN_ITEM_BYTES)


_META_KEYS = {"dtype", "sizes", "requires_grad", "device", "strides", "storage_offset", "layout"}


def _whole(values: Any) -> list[int] | None:
    """Return the whole numbers of sizes and strides as the format writes them, or None for anything else."""
    if not isinstance(values, list):
        return None
    found = [value.get("as_int") if isinstance(value, dict) and len(value) == 1 else None for value in values]
    good = all(type(number) is int and 0 <= number < _LARGEST_SIZE for number in found)
    return found if good else None  # type: ignore[return-value]


def _refuse_meta(name: str, path: str | os.PathLike[str]) -> NoReturn:
    raise ArtifactError(path, f"does not state dtype, shape and strides of the tensor {shortened(name, 120)}")
