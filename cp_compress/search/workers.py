"""Trials in parallel: a batch of points spread over processes, or over the machines of a Dask cluster, by joblib."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor

from cp_compress.base.arguments import reject
from cp_compress.base.errors import MissingExtraError
from cp_compress.search.evaluation import Evaluated, Task, evaluate, evaluate_packed, pack
from cp_compress.search.spaces import Point
from cp_compress.search.texts import describe_point
from cp_compress.search.trials import TrialError

BACKENDS = ("loky", "dask")
Numbered = tuple[int, Point]


class Workers:
    """Evaluates batches of numbered points, here (`jobs=1` and no backend) or through joblib."""

    def __init__(self, task: Task, jobs: int, backend: str | None) -> None:
        if backend == "dask" and importlib.util.find_spec("distributed") is None:
            raise MissingExtraError("searching on a Dask cluster", "cluster")
        if backend == "dask":
            _require_client()
        self._task, self._jobs, self._backend = task, jobs, backend
        self._packed: tuple[str, bytes] | None = None

    def evaluate(self, points: Sequence[Numbered]) -> Iterator[Evaluated]:
        """Yield the evaluated points as they are ready; raises TrialError for the first that fails."""
        if not points:
            return
        if self._backend is None and (self._jobs == 1 or len(points) == 1):
            for number, point in points:
                yield evaluate(self._task, number, point)
            return
        from joblib import Parallel, delayed, parallel_config

        if self._packed is None:
            self._packed = pack(self._task)
        key, content = self._packed
        try:
            with parallel_config(self._backend or "loky", n_jobs=self._jobs):
                parallel = Parallel(return_as="generator_unordered")
                yield from parallel(delayed(evaluate_packed)(key, content, number, point) for number, point in points)
        except BrokenExecutor as error:  # killed, perhaps for memory
            texts = "; ".join(f"trial {number} at {describe_point(point)}" for number, point in points)
            raise TrialError(f"a worker process died during one of these: {texts}: {error}") from error


def _require_client() -> None:
    from distributed import get_client

    try:
        get_client()
    except ValueError:
        reject("search", "backend", "dask", "it needs an active distributed.Client: make one first")
