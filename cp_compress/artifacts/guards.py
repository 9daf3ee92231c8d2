"""Checks of every file before it is read: a regular file, not empty, not too large."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO

from cp_compress.base.arguments import check_integer
from cp_compress.base.error_reasons import reason_of, shortened
from cp_compress.base.errors import ArtifactError, CompressionError, CorruptStreamError, MissingExtraError
from cp_compress.base.files import no_such_file

MAX_BYTES = 16 << 30
_HUGE_RULE = "must be the largest size in bytes to read, a whole number of 1 or more"


def check_max_bytes(owner: str, max_bytes: int) -> int:
    """Return `max_bytes` when it is a whole number of 1 or more, else reject it in the name of `owner`."""
    return check_integer(owner, "max_bytes", max_bytes, _HUGE_RULE, at_least=1)


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], max_bytes: int) -> Iterator[BinaryIO]:
    """Open a file to be read; raises ArtifactError unless it is a regular one of 1 to `max_bytes` bytes.

    What is opened is what is checked, and opening a FIFO or a device neither waits nor acts.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:  # the second for a zero byte in the path
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        if isinstance(error, OSError) and error.errno == errno.ENXIO:
            reason = "it is not a regular file"
        if isinstance(error, FileNotFoundError):
            raise ArtifactError(path, no_such_file(path)) from error
        raise ArtifactError(path, f"cannot be opened: {reason}") from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise ArtifactError(path, "is a folder" if stat.S_ISDIR(found.st_mode) else "is not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        if found.st_size == 0:
            raise ArtifactError(path, "is empty")
        if found.st_size > max_bytes:
            raise ArtifactError(path, f"has {found.st_size:,} bytes; at most {max_bytes:,} are allowed (max_bytes=)")
        yield file


def size_of(file: BinaryIO) -> int:
    """Return the size of an open file in bytes."""
    return os.fstat(file.fileno()).st_size


@contextlib.contextmanager
def told(path: str | os.PathLike[str], doing: str) -> Iterator[None]:
    """Turn whatever a library raises while it is `doing` something with a file into an ArtifactError that names it.

    Readers of damaged files fail in every way there is; a missing extra, and what Python itself is stopped by, are
    let through.
    """
    try:
        yield
    except (ArtifactError, MissingExtraError):
        raise
    except (CompressionError, CorruptStreamError) as error:
        raise ArtifactError(path, shortened(error).removeprefix(os.fspath(path)).lstrip(": ")) from error
    except Exception as error:
        raise ArtifactError(path, f"{doing} failed: {reason_of(error)}") from error
