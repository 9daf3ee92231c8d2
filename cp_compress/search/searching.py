"""Search for the smallest candidate that still meets every constraint."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cp_compress.base.arguments import explains_keywords, reject
from cp_compress.base.showing.describing import describe, describe_point
from cp_compress.fidelity.judging.judgement import Check
from cp_compress.inputs.seen import mark_as_searched
from cp_compress.search.constraints import Constraint
from cp_compress.search.evaluation import Evaluated, Finish, Task, evaluate, judge_candidate
from cp_compress.search.objectives import Objective, as_objective
from cp_compress.search.preparation import (
    as_batch,
    as_constraints,
    as_strategy,
    check_arguments,
    identify_search,
    measure_reference,
    prepare_gate,
    read_search_data,
    rehearse,
)
from cp_compress.search.results import SearchResult, trial_table
from cp_compress.search.spaces import Point, SchemeSpace
from cp_compress.search.state import State, locked
from cp_compress.search.strategy import Strategy, StrategyRun, note_direction
from cp_compress.search.trials import NoFeasibleCandidateError, Trial
from cp_compress.search.workers import Workers

if TYPE_CHECKING:
    from torch import nn

_OWNER = "search"


@explains_keywords
def search(
    model: nn.Module,
    space: SchemeSpace,
    *,
    objective: Objective | str,
    constraints: Constraint | Sequence[Constraint],
    strategy: Strategy | str | None = None,
    trials: int = 12,
    seed: int = 0,
    example_input: Any = None,
    finish: Finish | None = None,
    gate_data: Any = None,
    allow_shared_examples: bool = False,
    state: str | os.PathLike[str] | None = None,
    jobs: int = 1,
    batch: int | None = None,
    backend: str | None = None,
    progress: bool = False,
) -> SearchResult:
    """Return the feasible candidate with the smallest objective among `trials` points of a space.

    A candidate is feasible if every constraint passes; "inconclusive" does not count as passed. Judge on data that the
    model was not trained on, because candidates agree with it more on training examples than on others.

    Args:
        model: The network to compress, which is not changed.
        space: The parameters of a compression scheme.

    Args: What is required
        objective: What to minimise, as a value or an expression such as "artifact_bytes".
        constraints: One or more callables (candidate, reference) to a check, such as `Preserved`.
        example_input: One batch of inputs, for objectives that run the model.
        finish: A function (candidate, scheme) that returns the candidate to judge, for example after training.

    Args: Strategy
        strategy: How points are chosen, as a value or an expression; by default `Bisection` for a single number and
            `Bayesian` otherwise.
        trials: The number of points to try.
        seed: The seed of everything random, 0…2³⁰.
        batch: The number of points that are chosen at a time; by default `jobs`. The result depends on it.

    Args: Fresh data
        gate_data: Labelled data on which the best candidate is judged once more, by all `Preserved` constraints; the
            verdict is part of the result.
        allow_shared_examples: Whether `gate_data` may hold examples on which candidates are judged.

    Args: The run
        state: A file that is written after each trial. An interrupted search continues from it with the same result; a
            finished one can continue with more `trials`, unless its strategy plans by their number.
        jobs: The number of processes; the result does not depend on it if `batch` is given.
        backend: "loky" for processes on this machine, or "dask" for the cluster of the active `distributed.Client`.
        progress: Whether to show a progress bar.

    Returns:
        The best feasible candidate with all trials and the verdict on fresh data.

    Raises:
        NoFeasibleCandidateError: If no feasible trial has a smaller objective than the reference; it holds all trials.
        InvalidArgumentError: If an argument is not as described, examples are shared, the state file belongs to another
            search, or the reference itself does not meet a constraint on this data.
        TrialError: If a trial ends with an error that is not due to the candidate; the point is named.
    """
    check_arguments(model, space, finish, trials, seed, jobs)
    at_a_time = as_batch(batch, jobs, backend)
    chosen_objective = as_objective(_OWNER, objective, example_input)
    chosen_strategy = as_strategy(strategy, space)
    run = chosen_strategy.start(space, trials, seed)
    judges = as_constraints(constraints)
    task = Task(model, space, chosen_objective, judges, finish, example_input, seed)
    workers = Workers(task, jobs, backend)
    with locked(state):
        kept = State(state, {} if state is None else identify_search(task, chosen_strategy, at_a_time))
        digests, notes = read_search_data(judges)
        gates, gate_notes = prepare_gate(judges, gate_data, digests, allow_shared_examples)
        rehearse(model, (*judges, *gates))
        reference_objective = measure_reference(task)
        found = _run(task, run, trials, at_a_time, kept, workers, progress)
    if len(found.trials) < trials:
        notes.append(f"the strategy had no further point to try after {len(found.trials)} of {trials} trials")
    notes += note_direction(space, chosen_strategy, found.trials)
    best, trial = _choose(task, run, found, reference_objective, notes, digests)
    mark_as_searched(best, digests)
    gate = tuple(judge_candidate(dataclasses.replace(task, constraints=gates), best)) if gates else None
    return SearchResult(
        best=best,
        scheme=space.scheme(trial.point),
        trial=trial,
        trials=tuple(found.trials),
        objective=str(chosen_objective),
        reference_objective=reference_objective,
        constraints=tuple(map(describe, judges)),
        strategy=str(chosen_strategy),
        gate=gate,
        search_digests=digests,
        notes=(*notes, *gate_notes, *_describe_verdict(gate)),
        objective_unit=str(getattr(chosen_objective, "unit", "")),
    )


@dataclass
class _Found:
    """Trials in order, and of the feasible candidates the one with the smallest objective so far."""

    trials: list[Trial] = field(default_factory=list)
    best: Evaluated | None = None

    def keep(self, evaluated: Evaluated) -> None:
        if evaluated.candidate is not None and (self.best is None or _rank(evaluated.trial) < _rank(self.best.trial)):
            self.best = evaluated


def _run(
    task: Task, run: StrategyRun, trials: int, batch: int, state: State, workers: Workers, progress: bool
) -> _Found:
    found = _Found()
    with _progress_bar(trials, progress) as advance:
        while len(found.trials) < trials:
            points = run.ask(min(batch, trials - len(found.trials)))
            if not points:
                break
            numbered = [(len(found.trials) + offset, point) for offset, point in enumerate(points, 1)]
            missing = [
                (number, point)
                for number, point in numbered
                if not _is_made(task.space, state, number, point) and not _is_known(task, found, state, number, point)
            ]
            for _ in range(len(numbered) - len(missing)):
                advance()
            for evaluated in workers.evaluate(missing):
                state.add(evaluated.trial)
                found.keep(evaluated)
                advance()
            for number, point in numbered:
                trial = state.find(number)
                assert trial is not None
                found.trials.append(trial)
                run.tell(point, trial)
    return found


def _is_made(space: SchemeSpace, state: State, number: int, point: Point) -> bool:
    trial = state.find(number)
    if trial is None:
        return False
    made = f"{describe_point(trial.point)} with {trial.scheme}"
    asked = f"{describe_point(point)} with {space.scheme(point)}"
    if made != asked:
        rule = (
            f"trial {number} was made at {made} and would now be at {asked}: the space, the number of trials "
            "(by which the strategy plans), or library versions have changed"
        )
        reject(_OWNER, "state", str(state.path), rule)
    return True


def _is_known(task: Task, found: _Found, state: State, number: int, point: Point) -> bool:
    """Take the result of an earlier trial for another point of the same scheme, where it can be no other."""
    if task.finish is not None or getattr(task.objective, "measured", False):
        return False
    scheme = str(task.space.scheme(point))
    for trial in found.trials:
        if trial.scheme == scheme:
            state.add(dataclasses.replace(trial, number=number, point=dict(point), seconds=0.0))
            return True
    return False


def _choose(
    task: Task,
    run: StrategyRun,
    found: _Found,
    reference_objective: float,
    notes: list[str],
    digests: frozenset[str],
) -> tuple[nn.Module, Trial]:
    passed = sorted((trial for trial in found.trials if trial.feasible), key=_rank)
    feasible = [trial for trial in passed if _rank(trial)[0] < reference_objective]
    if len(feasible) < len(passed):
        count = len(passed) - len(feasible)
        notes.append(f"{count} trials passed without being below the reference's {reference_objective:.6g}")
    trusted = [trial for trial in feasible if run.trusts(trial.point)]
    if len(trusted) < len(feasible):
        notes.append(f"{len(feasible) - len(trusted)} feasible trials were not accepted: other trials contradict them")
    for trial in trusted:
        if found.best is not None and found.best.trial.number == trial.number:
            assert found.best.candidate is not None
            return found.best.candidate, trial
        # made in an earlier run, so it is made again
        again = evaluate(task, trial.number, trial.point)
        same = again.trial.digest == trial.digest
        if not same:
            notes.append(f"trial {trial.number} was repeated with another outcome: {again.trial.outcome}")
        if again.candidate is not None and _rank(again.trial)[0] < reference_objective:
            return again.candidate, trial if same else again.trial
    reason = "no trial was feasible"
    if passed:
        reason = f"no trial that passed could be accepted with less {task.objective} than the reference"
    shown = "\n".join([trial_table(found.trials), *(f"note: {note}" for note in notes)])
    raise NoFeasibleCandidateError(f"{reason} in {len(found.trials)} trials:\n{shown}", tuple(found.trials), digests)


def _rank(trial: Trial) -> tuple[float, int]:
    assert trial.objective is not None
    return trial.objective, trial.number


def _describe_verdict(gate: tuple[Check, ...] | None) -> tuple[str, ...]:
    if gate is None:
        return (
            "the candidate was chosen on the data that it was judged on and has not been judged on fresh data: "
            "its margins are those of the luckiest trial and too optimistic",
        )
    outcomes = {check.outcome for check in gate}
    if outcomes == {"pass"}:
        return ()
    return (
        "the candidate fails on fresh data"
        if outcomes & {"fail", "error"}
        else "the check on fresh data is inconclusive",
    )


@contextlib.contextmanager
def _progress_bar(trials: int, shown: bool) -> Iterator[Callable[[], object]]:
    if not shown:
        yield lambda: None
        return
    from tqdm import tqdm

    with tqdm(total=trials, desc="search", unit="trial") as bar:
        yield bar.update
