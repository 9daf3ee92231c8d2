"""Untrusted `.npy` arrays: the header is checked against the size of the file before memory is allocated."""

from __future__ import annotations

import io
import math
import os
import warnings
import zipfile
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from cp_compress.artifacts.guards import told
from cp_compress.base.error_reasons import reason_of, shortened
from cp_compress.base.errors import ArtifactError

MAGIC = b"\x93NUMPY"


def read_array(
    file: IO[bytes], size: int, path: str | os.PathLike[str], member: str = "", kinds: str = "biufc"
) -> NDArray[Any]:
    """Return the array of an open `.npy` file of `size` bytes; `member` names it within an archive.

    `kinds` are the kinds of dtypes, as NumPy has them in a letter, that are read.

    Raises ArtifactError for others, objects among them (which would be pickles), structured dtypes, and for a header
    that does not account for every byte of the file.
    """
    name = f"{member}: " if member else ""
    counted = _Counting(file)
    shape, fortran, dtype = _header(counted, path, name)
    if dtype.hasobject or dtype.kind not in kinds:
        wanted = "texts" if kinds == "U" else "numbers"
        raise ArtifactError(path, f"{name}holds {dtype} values; expected {wanted}, and no pickled objects")
    if any(type(part) is not int or part < 0 for part in shape):
        raise ArtifactError(path, f"{name}has shape {shortened(shape)}")
    held, expected = size - counted.position, math.prod(shape) * dtype.itemsize
    if held != expected:
        raise ArtifactError(path, f"{name}states {expected:,} bytes of values, but {held:,} are present")
    content = counted.read(expected)
    if len(content) != expected:
        raise ArtifactError(path, f"{name}is truncated")
    try:
        array = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
    except ValueError as error:  # such as a shape (0, 2**60)
        raise ArtifactError(path, f"{name}has shape {shortened(shape)}: {error}") from error
    return np.array(array, dtype=dtype.newbyteorder("="), order="C")


def read_array_header(
    file: IO[bytes], path: str | os.PathLike[str], member: str = ""
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype of an open `.npy` file, whose values are not read; raises as `read_array`."""
    shape, _, dtype = _header(_Counting(file), path, f"{member}: " if member else "")
    return shape, dtype


def _header(counted: _Counting, path: str | os.PathLike[str], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers written by Python 2
            version = npy.read_magic(counted)
            read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
            if read is None:
                raise ArtifactError(path, f"{name}version {version} of the .npy format is not supported")
            found: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(counted)
    except ArtifactError:
        raise
    except Exception as error:  # of a header, an expression of Python that NumPy parses
        raise ArtifactError(path, f"{name}is not a .npy array: {reason_of(error)}") from error
    return found


def member_names(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of the arrays of a `.npz` archive."""
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def read_member_array(
    archive: zipfile.ZipFile, name: str, path: str | os.PathLike[str], kinds: str = "biufc"
) -> NDArray[Any]:
    """Return an array of a `.npz` archive; raises ArtifactError as `read_array`, and where there is none such."""
    if f"{name}.npy" not in archive.namelist():
        held = shortened(", ".join(each.removesuffix(".npy") for each in archive.namelist()[:10]), 200)
        raise ArtifactError(path, f"holds no array {name!r}; it holds {held}")
    member = archive.getinfo(f"{name}.npy")
    with told(path, f"unpacking {name}"), archive.open(member) as stream:
        return read_array(stream, member.file_size, path, name, kinds)


class _Counting(io.RawIOBase):
    """A file that knows how much was read of it, for streams that cannot tell."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.position = file, 0

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self.position += len(content)
        return content
