"""Checks before the first trial: the arguments, shared examples, and whether the reference meets the constraints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from cp_compress.base.arguments import check_choice, check_integer, reject
from cp_compress.base.digests import digest_model, digest_tensors
from cp_compress.base.errors import InvalidArgumentError
from cp_compress.base.parallel import BACKENDS
from cp_compress.base.showing.describing import describe, describe_content, describe_point
from cp_compress.base.showing.mistaken import reject_kind
from cp_compress.inputs.seen import known_digests, shared_examples
from cp_compress.search.constraints import Constraint, Preserved
from cp_compress.search.results import describe_check
from cp_compress.search.spaces import Categorical, SchemeSpace
from cp_compress.search.strategies.bayesian import Bayesian
from cp_compress.search.strategies.bisection import Bisection
from cp_compress.search.strategies.registry import parse_strategy
from cp_compress.search.strategy import Strategy

if TYPE_CHECKING:
    from cp_compress.search.evaluation import Task

_OWNER = "search"


def check_arguments(model: object, space: object, finish: object, trials: int, seed: int, jobs: int) -> None:
    """Reject arguments that are not what they must be, and a space with schemes at its ends that cannot be."""
    if not isinstance(model, nn.Module):
        reject_kind(_OWNER, "model", model, "must be a torch.nn.Module", "model")
    if next(model.parameters(), None) is None:
        reject(_OWNER, "model", type(model).__name__, "it has no parameters, so there is nothing to compress")
    if not isinstance(space, SchemeSpace):
        reject(
            _OWNER, "space", space, 'must be a SchemeSpace, such as SchemeSpace("prune(density={d})", d=Real(0.1, 1))'
        )
    if finish is not None and not callable(finish):
        reject(_OWNER, "finish", finish, "must be a callable (candidate, scheme) -> candidate")
    for name, number in (("trials", trials), ("jobs", jobs)):
        check_integer(_OWNER, name, number, "must be a whole number of 1 or more", at_least=1)
    check_integer(_OWNER, "seed", seed, "must be a whole number in 0…2³⁰", at_least=0, at_most=2**30)
    for point in space.ends():
        try:
            space.scheme(point)
        except Exception as error:  # a template of the user's own may raise anything
            told = str(error) if isinstance(error, InvalidArgumentError) else f"{type(error).__name__}: {error}"
            reject(_OWNER, "space", str(space), f"no scheme can be made at {describe_point(point)}: {told}")


def as_batch(batch: int | None, jobs: int, backend: str | None) -> int:
    """Return how many points are asked for at a time."""
    if backend is not None:
        check_choice(_OWNER, "backend", backend, BACKENDS)
    rule = "must be a whole number of 1 or more, the points that are chosen at a time"
    return jobs if batch is None else check_integer(_OWNER, "batch", batch, rule, at_least=1)


def as_strategy(strategy: Strategy | str | None, space: SchemeSpace) -> Strategy:
    """Return the strategy that was given, or the default for the space."""
    if strategy is None:
        single = len(space.parameters) == 1 and not isinstance(space.parameters[0][1], Categorical)
        return Bisection() if single else Bayesian()
    if isinstance(strategy, str):
        return parse_strategy(strategy)
    if isinstance(strategy, type) or not callable(getattr(strategy, "start", None)):
        reject(
            _OWNER, "strategy", strategy, "give a value with a method `start`, such as Bisection(), or an expression"
        )
    return strategy


def as_constraints(constraints: Constraint | Sequence[Constraint]) -> tuple[Constraint, ...]:
    """Return constraints as a tuple, or reject them."""
    listed = constraints if isinstance(constraints, Sequence) else ()
    found = (constraints,) if callable(constraints) else tuple(listed)
    if not found or not all(callable(constraint) for constraint in found):
        rule = "give at least one callable (candidate, reference) -> Check; without one the smallest model would win"
        reject(_OWNER, "constraints", constraints, rule)
    return found


def read_search_data(constraints: Sequence[Constraint]) -> tuple[frozenset[str], list[str]]:
    """Return the digests of all examples that the constraints judge on, and notes on constraints that tell of none."""
    digests: set[str] = set()
    notes = []
    for data in _datasets(constraints):
        digests.update(*known_digests(data))
    for constraint in constraints:
        if not isinstance(constraint, Preserved):
            notes.append(f"{describe(constraint)} is a callable, so the examples that it has seen are not known")
    return frozenset(digests), notes


def prepare_gate(
    constraints: Sequence[Constraint], gate_data: Any, digests: frozenset[str], allow_shared_examples: bool
) -> tuple[tuple[Preserved, ...], list[str]]:
    """Return the constraints on the gate's data, with notes; reject data of which the search sees an example."""
    if gate_data is None:
        return (), []
    specifications = [constraint for constraint in constraints if isinstance(constraint, Preserved)]
    if not specifications:
        rule = "no constraint can be judged on other data: none of them is a Preserved"
        reject(_OWNER, "gate_data", type(gate_data).__name__, rule)
    shared = shared_examples(gate_data, digests)
    if shared and not allow_shared_examples:
        first = ", ".join(f"#{index}" for index in shared[:5])
        rule = (
            f"{len(shared)} of its examples ({first}{', …' if len(shared) > 5 else ''}) are among those searched on, "
            "so a verdict on them would be too optimistic; remove them, or set allow_shared_examples=True"
        )
        reject(_OWNER, "gate_data", type(gate_data).__name__, rule)
    gates = tuple(specification.on(gate_data) for specification in specifications)
    count = len(shared)
    return gates, [f"{count} examples of the gate data were used by the search: it is not fresh"] if shared else []


def measure_reference(task: Task) -> float:
    """Return the objective of the reference itself; raises CompressionError where it cannot be measured."""
    value = float(task.objective.measure(task.model, task.model, task.example_input))
    if not math.isfinite(value):
        reject(_OWNER, "objective", str(task.objective), f"it is {value} for the reference")
    return value


def rehearse(model: nn.Module, constraints: Sequence[Constraint]) -> None:
    """Reject a specification that the reference itself does not pass, before any time is spent on candidates."""
    for constraint in constraints:
        if isinstance(constraint, Preserved):
            check = constraint(model, model)
            # the reference has its own size by definition, and is no smaller than itself
            if not check.passed and check.measurement.comparison != "footprint":
                rule = f"the reference itself does not meet this ({describe_check(check)}), so no candidate can"
                reject(_OWNER, "constraints", str(constraint), rule)


def identify_search(task: Task, strategy: Strategy, batch: int) -> dict[str, str]:
    """Return what makes this search another than the next, as texts; more trials make it a longer one."""
    leaves = pytree.tree_leaves(task.example_input)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    return {
        "model": str(digest_model(task.model)),
        "space": str(task.space) if isinstance(task.space.template, str) else describe_content(task.space),
        "objective": describe_content(task.objective),
        "constraints": "; ".join(map(describe_content, task.constraints)),
        "data": ", ".join(data.digest() for data in _datasets(task.constraints)),
        "finish": "none" if task.finish is None else describe_content(task.finish),
        "example_input": digest_tensors(tensors) if tensors else "none",
        "strategy": describe_content(strategy),
        "batch": str(batch),
        "seed": str(task.seed),
    }


def _datasets(constraints: Sequence[Constraint]) -> list[Any]:
    found: list[Any] = []
    for constraint in constraints:
        if isinstance(constraint, Preserved) and not any(constraint.dataset.source is data.source for data in found):
            found.append(constraint.dataset)
    return found
