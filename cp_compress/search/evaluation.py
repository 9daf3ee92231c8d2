"""One trial: make the candidate of a point, measure it and judge it, in this process or in a worker."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cp_compress.base.devices import keeping_random_state
from cp_compress.base.digests import digest_model, start_digest
from cp_compress.base.errors import CompressionError, NoEffectError, ObservationError
from cp_compress.base.outcomes import SEVERITY
from cp_compress.base.showing.describing import describe_point
from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.observing.observation import forget_observations
from cp_compress.model.scheme import apply_scheme
from cp_compress.search.constraints import Constraint, conservative_margin
from cp_compress.search.objectives import Objective
from cp_compress.search.spaces import Point, SchemeSpace
from cp_compress.search.trials import Trial, TrialError, finite_or_none

if TYPE_CHECKING:
    from torch import nn

    from cp_compress.model.scheme import Scheme

Finish = Callable[["nn.Module", "Scheme"], "nn.Module"]
_one_at_a_time = threading.RLock()
_unpacked: dict[str, Task] = {}


@dataclass(frozen=True, eq=False)
class Task:
    """All that a trial needs beside its point."""

    model: nn.Module
    space: SchemeSpace
    objective: Objective
    constraints: tuple[Constraint, ...]
    finish: Finish | None
    example_input: Any
    seed: int


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A trial, and its candidate where it is feasible."""

    trial: Trial
    candidate: nn.Module | None


def evaluate(task: Task, number: int, point: Point) -> Evaluated:
    """Make and judge the candidate of a point.

    A scheme, a measurement or a comparison that says that it cannot be done (CompressionError, ObservationError) makes
    an infeasible trial with that reason. Any other exception becomes a TrialError that names the point.
    """
    start = time.perf_counter()
    text = describe_point(point)
    try:
        # one at a time, because evaluation sets models' modes and random states of the whole process
        with _one_at_a_time:
            scheme = task.space.scheme(point)
            text = f"{text} ({scheme})"
            found = _try(task, number, point, scheme)
    except Exception as error:
        message = f"trial {number} at {text} ended with {type(error).__name__}: {error}"
        raise TrialError(message) from error
    seconds = time.perf_counter() - start
    return dataclasses.replace(found, trial=dataclasses.replace(found.trial, seconds=seconds))


def evaluate_packed(key: str, content: bytes, number: int, point: Point) -> Evaluated:
    """Evaluate in a worker, which keeps the task of its search, and with it the reference's results."""
    import cloudpickle

    with _one_at_a_time:
        if key not in _unpacked:
            _unpacked.clear()
            forget_observations()
            _unpacked[key] = cloudpickle.loads(content)
        task = _unpacked[key]
    return evaluate(task, number, point)


def pack(task: Task) -> tuple[str, bytes]:
    """Return a task as bytes with a key for them."""
    import cloudpickle

    content: bytes = cloudpickle.dumps(task)
    digest = start_digest()
    digest.update(content)
    return digest.hexdigest(), content


def make_candidate(task: Task, number: int, scheme: Scheme) -> nn.Module:
    """Return the candidate of a scheme, finished; random numbers depend on the search's seed and the trial only."""
    with _seeded(task.seed, number):
        candidate = apply_scheme(scheme, task.model)
        if task.finish is None:
            return candidate
        finished = task.finish(candidate, scheme)
    if not isinstance(finished, torch.nn.Module):
        raise TypeError(f"finish returned {type(finished).__name__}; it must return a torch.nn.Module, the candidate")
    return finished


def _try(task: Task, number: int, point: Point, scheme: Scheme) -> Evaluated:
    def infeasible(reason: Exception | str) -> Evaluated:
        error = reason if isinstance(reason, str) else f"{type(reason).__name__}: {reason}"
        unknown, mild = (None,) * len(task.constraints), isinstance(reason, NoEffectError)
        trial = Trial(number, dict(point), str(scheme), "error", margins=unknown, error=error, too_mild=mild)
        return Evaluated(trial, None)

    try:
        candidate = make_candidate(task, number, scheme)
        objective = float(task.objective.measure(candidate, task.model, task.example_input))
        if not math.isfinite(objective):
            return infeasible(f"objective {task.objective} is {objective}")
        checks = judge_candidate(task, candidate)
    except (CompressionError, ObservationError) as error:
        return infeasible(error)
    trial = Trial(
        number,
        dict(point),
        str(scheme),
        max((check.outcome for check in checks), key=SEVERITY.index),
        objective,
        tuple(finite_or_none(conservative_margin(check)) for check in checks),
        tuple(_values(check) for check in checks),
        digest=digest_model(candidate),
    )
    return Evaluated(trial, candidate if trial.feasible else None)


def _values(check: Check) -> dict[str, float | None]:
    return {result.requirement.metric: finite_or_none(result.value) for result in check.results}


def judge_candidate(task: Task, candidate: nn.Module) -> list[Check]:
    """Return the checks of a candidate, one a constraint, keeping none of its observations in memory."""
    try:
        return [constraint(candidate, task.model) for constraint in task.constraints]
    finally:
        if candidate is not task.model:
            forget_observations(candidate)


@contextlib.contextmanager
def _seeded(seed: int, number: int) -> Iterator[None]:
    mixed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    python, numpy = random.getstate(), np.random.get_state()
    with keeping_random_state():
        torch.manual_seed(mixed)
        random.seed(mixed)
        np.random.seed(mixed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
