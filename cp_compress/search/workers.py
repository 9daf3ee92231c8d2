"""Trials in parallel: a batch of points spread over processes, or over the machines of a Dask cluster, by joblib."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor

from cp_compress.base.parallel import check_parallel, run_parallel
from cp_compress.base.showing.describing import describe_point
from cp_compress.search.evaluation import Evaluated, Task, evaluate, evaluate_packed, pack
from cp_compress.search.spaces import Point
from cp_compress.search.trials import TrialError

Numbered = tuple[int, Point]


class Workers:
    """Evaluates batches of numbered points, here (`jobs=1` and no backend) or through joblib."""

    def __init__(self, task: Task, jobs: int, backend: str | None) -> None:
        check_parallel("search", jobs, backend)
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
        if self._packed is None:
            self._packed = pack(self._task)
        key, content = self._packed
        try:
            calls = [(key, content, number, point) for number, point in points]
            yield from run_parallel(evaluate_packed, calls, self._jobs, self._backend or "loky")
        except BrokenExecutor as error:  # killed, perhaps for memory
            texts = "; ".join(f"trial {number} at {describe_point(point)}" for number, point in points)
            raise TrialError(f"a worker process died during one of these: {texts}: {error}") from error
