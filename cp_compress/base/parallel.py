"""Work spread over processes, or over the machines of a Dask cluster, by joblib."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from cp_compress.base.arguments import check_choice, check_integer, reject
from cp_compress.base.errors import MissingExtraError

BACKENDS = ("loky", "dask")
Result = TypeVar("Result")


def check_parallel(owner: str, jobs: int, backend: str | None) -> None:
    """Reject a number of processes or a backend that there is not, before any work."""
    check_integer(owner, "jobs", jobs, "must be a whole number of 1 or more", at_least=1)
    if backend is None:
        return
    check_choice(owner, "backend", backend, BACKENDS)
    if backend == "dask":
        if importlib.util.find_spec("distributed") is None:
            raise MissingExtraError(f"{owner} on a Dask cluster", "cluster")
        _require_client(owner)


def run_parallel(
    function: Callable[..., Result], calls: Iterable[tuple[Any, ...]], jobs: int, backend: str | None = None
) -> Iterator[Result]:
    """Yield what a function returns for each tuple of arguments, as they are ready, in no order.

    With one job and no backend the calls are made here, in order. Raises what the first failing call raises, a
    RuntimeError in place of an exception that cannot be sent between processes, and
    `concurrent.futures.BrokenExecutor` when a process dies.
    """
    if backend is None and jobs == 1:
        for arguments in calls:
            yield function(*arguments)
        return
    from joblib import Parallel, delayed, parallel_config

    with parallel_config(backend or "loky", n_jobs=jobs):
        parallel = Parallel(return_as="generator_unordered")
        yield from parallel(delayed(_call)(function, arguments) for arguments in calls)


def _call(function: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
    try:
        return function(*arguments)
    except Exception as error:
        if _can_be_sent(error):
            raise
        raise RuntimeError(f"{type(error).__name__}: {error}") from None


def _can_be_sent(error: Exception) -> bool:
    """Tell whether an exception can be made again from its arguments; some with a constructor of their own cannot."""
    import cloudpickle

    try:
        cloudpickle.loads(cloudpickle.dumps(error))
    except Exception:
        return False
    return True


def _require_client(owner: str) -> None:
    from distributed import get_client

    try:
        get_client()
    except ValueError:
        reject(owner, "backend", "dask", "it needs an active distributed.Client; create one first")
