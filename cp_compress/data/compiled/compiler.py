"""Functions compiled by numba at their first call, once on a machine: what they are stored as, and who runs them.

numba is optional. Modules of this folder that import it are asked for by `find_compiled`, which gives None where it is
absent; their callers then compute the same by steps.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

_LONGEST_WAIT = 120  # seconds for another process that compiles; then both do
_PARTS_A_THREAD = 4  # so that no thread waits long for the last one
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
_changing = threading.Lock()


@cache
def find_compiled(name: str) -> Any:
    """Return a module of this folder, or None where its functions cannot be compiled.

    Warns where numba is installed and cannot be imported, since all is slower then.
    """
    if sys.byteorder != "little":  # words of streams are read as the machine's own
        return None
    try:
        numba = importlib.import_module("numba")
    except Exception as error:  # an installation that does not fit the NumPy at hand raises errors of several kinds
        if not (isinstance(error, ModuleNotFoundError) and error.name == "numba"):
            told = f"numba cannot be imported, so that codecs compute by steps, which is slower: {error}"
            warnings.warn(told, RuntimeWarning, stacklevel=2)
        return None
    if numba.config.DISABLE_JIT:
        return None
    return importlib.import_module(f"cp_compress.data.compiled.{name}")


def inlined(function: Callable[..., Any]) -> Any:
    """Make a function part of the compiled functions that call it; nothing else can, which spares its wrappers."""
    import numba

    return numba.njit(function, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)


class Compiled:
    """A function that is compiled when it is first called with arrays of certain dtypes, and releases the lock.

    Machine code is kept in the user's cache, in a folder named by the sources of all compiled functions, so that no
    process runs that of other sources. Where it cannot be kept, each process compiles its own.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._kept: Any = None
        self._ready: dict[str, Callable[..., Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        dtypes = "".join([argument.dtype.char for argument in arguments if hasattr(argument, "dtype")])
        ready = self._ready.get(dtypes)
        return self._first_call(dtypes, arguments) if ready is None else ready(*arguments)

    def _first_call(self, dtypes: str, arguments: tuple[Any, ...]) -> Any:
        """Compile or load, one process at a time: numba's cache holds one entry for two that are written at once."""
        with _changing:
            if self._kept is None:
                self._kept = _jit(self._function, code_folder())
            try:
                with _one_process(code_folder()):
                    result = self._kept(*arguments)
                self._ready[dtypes] = self._kept
            except Exception:  # of a damaged cache or a full disk, if not of the function itself
                self._ready[dtypes] = _jit(self._function, None)
                result = self._ready[dtypes](*arguments)
        return result


def code_folder() -> Path | None:
    """Return the folder of machine code, made if need be; None where there can be none."""
    try:
        folder = _cache_root() / "cp_compress" / f"compiled-{_digest_of_sources()}"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # a read-only disk; a user without a home
        return None
    return folder if os.access(folder, os.W_OK) else None


def _cache_root() -> Path:
    """Return where numba was told to keep its code, or else where programs of this system keep such files."""
    if os.environ.get("NUMBA_CACHE_DIR"):
        return Path(os.environ["NUMBA_CACHE_DIR"])
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


@cache
def _digest_of_sources() -> str:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]


def _jit(function: Callable[..., Any], folder: Path | None) -> Any:
    """Return numba's function, cached in a folder; numba has a setting for all functions only, which is put back."""
    import numba

    if folder is None:
        return numba.njit(function, **_OPTIONS)
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder)
    try:
        return numba.njit(function, **_OPTIONS, cache=True)
    except RuntimeError:  # numba finds no folder that it can write
        return numba.njit(function, **_OPTIONS)
    finally:
        numba.config.CACHE_DIR = before


class _one_process:
    """A lock between processes, without which work goes on where it cannot be had."""

    def __init__(self, folder: Path | None) -> None:
        self._lock = None if folder is None else FileLock(folder / "lock", timeout=_LONGEST_WAIT)

    def __enter__(self) -> None:
        if self._lock is not None:
            try:
                self._lock.acquire()
            except (Timeout, OSError, NotImplementedError):
                self._lock = None

    def __exit__(self, *error: object) -> None:
        if self._lock is not None:
            self._lock.release()


def in_threads(work: Callable[[int, int], object], count: int, least: int) -> None:
    """Call `work(first, last)` for parts that cover `range(count)`, in as many threads as torch has.

    A part has at least `least` items, for which a thread is worth its start. `torch.set_num_threads`, OMP_NUM_THREADS
    and the workers of a `DataLoader`, which have one thread each, are honoured.
    """
    threads = min(torch.get_num_threads(), count // max(1, least))
    if threads <= 1:
        work(0, count)
        return
    parts = min(_PARTS_A_THREAD * threads, count // max(1, least))
    bounds = [count * part // parts for part in range(parts + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, bounds[:-1], bounds[1:]))
