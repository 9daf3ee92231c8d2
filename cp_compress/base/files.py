"""Files that are written completely or not at all, and read only if they are regular files."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cp_compress.base.arguments import did_you_mean

_MOST_NAMES = 10_000


def write_atomically(path: str | os.PathLike[str], content: bytes | str, *, replace: bool = True) -> None:
    """Make or replace the file at `path` with `content` in one step, as `replacing` does. Text is written as UTF-8."""
    with replacing(path, replace=replace) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], *, replace: bool = True) -> Iterator[BinaryIO]:
    """Make or replace the file at `path` in one step with what is written to the file that is given.

    A reader, or a process killed at any moment, finds the old file or the new one, never a part. Raises OSError when
    the folder is missing or cannot be written, and without `replace` FileExistsError where there is a file; the old
    file then stays, as it does when what is inside raises.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target} cannot be written: there is no folder {str(target.parent)!r}")
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; a report or an artefact has the permissions of an ordinary new file
        Path(name).chmod(0o666 & ~_current_umask())
        if replace or not _linked(Path(name), target):
            Path(name).replace(target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Let one process at a time make the file or folder at `target`; a hidden file beside it stays.

    Raises BlockingIOError while another process does, and OSError where nothing can be written beside it.
    """
    from filelock import FileLock, Timeout

    place = target.with_name(f".{target.name}.lock")
    lock = FileLock(place, timeout=0)
    if not os.access(target.parent, os.W_OK):
        number = errno.EACCES if target.parent.is_dir() else errno.ENOENT
        raise OSError(number, f"nothing can be written in {target.parent}: {os.strerror(number)}")
    try:
        lock.acquire()
    except OSError as error:
        if isinstance(error, Timeout) and place.exists():
            raise BlockingIOError(errno.EAGAIN, f"another process is writing {target}") from None
        # some versions of filelock take a folder that cannot be written for a lock that is held
        number = errno.EACCES if isinstance(error, Timeout) or error.errno is None else error.errno
        raise OSError(number, f"nothing can be written in {target.parent}: {os.strerror(number)}") from None
    try:
        yield
    finally:
        lock.release()


def no_such_file(path: str | os.PathLike[str]) -> str:
    """Return that a path is not there, with what is: the nearest name in its folder, or the folder that is missing.

    >>> no_such_file("no/such/file.npz")
    "there is no such file, and no folder 'no'"
    """
    target = Path(path)
    if target.is_symlink():
        return f"there is no such file: it is a link to {str(target.readlink())!r}, which leads nowhere"
    missing = [folder for folder in reversed(target.parents) if not folder.is_dir()]
    if missing:
        return f"there is no such file, and no folder {str(missing[0])!r}"
    try:
        names = [entry.name for entry in itertools.islice(target.parent.iterdir(), _MOST_NAMES)]
    except OSError:
        names = []
    advice = did_you_mean(target.name, sorted(names))
    return f"there is no such file{advice and f'; {advice}'}"


def read_regular(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Return what a file holds, without ever waiting for a FIFO or reading a device.

    Raises OSError for one that cannot be opened, ValueError for what is no regular file or has more than `max_bytes`.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is a folder" if stat.S_ISDIR(found.st_mode) else "it is not a regular file")
        if found.st_size > max_bytes:
            raise ValueError(f"it has {found.st_size:,} bytes; at most {max_bytes:,} are allowed")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def read_regular_text(path: str | os.PathLike[str], max_bytes: int) -> str:
    """Return the text of a UTF-8 file; raises as `read_regular`, and ValueError for another encoding.

    A byte order mark, which no editor shows, is refused by name.
    """
    text = read_regular(path, max_bytes).decode("utf-8")
    if text.startswith("\ufeff"):
        raise ValueError("it begins with a byte order mark: save it as UTF-8 without one")
    return text


def _linked(source: Path, target: Path) -> bool:
    """Move a file where there is none; False where the file system has no links. Raises FileExistsError."""
    try:
        os.link(source, target)  # unlike a rename it never replaces what another process has just written
    except FileExistsError:
        raise
    except OSError:
        if target.exists():
            raise FileExistsError(f"{target} exists") from None
        return False
    source.unlink()
    return True


def _current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
