"""No input near the examples on which the compressed model says something else, as an assertion."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typing_extensions import Unpack

from cp_compress.base.arguments import reject
from cp_compress.fidelity.divergence.comparison import as_measurement, find_divergence
from cp_compress.fidelity.divergence.files import load_divergence, replay_divergence, save_divergence
from cp_compress.fidelity.divergence.labels import ClassesAsLogits, gives_classes
from cp_compress.fidelity.judging.judgement import Check, judge
from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.judging.metrics import METRICS
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.fidelity.observing.runner import Model
from cp_compress.fidelity.observing.sampling import choose_examples
from pytest_cp.assertions.bounds import DivergenceBounds
from pytest_cp.checks.call_options import is_default, taking_bounds
from pytest_cp.checks.conclusion import assert_pair, build_requirements, returning_twin
from pytest_cp.checks.execution import current_execution
from pytest_cp.errors import DivergenceFoundError

_ASSERTION = "assert_no_divergence"


@taking_bounds(METRICS["divergence"].values())
def assert_no_divergence(
    compressed: Model,
    reference: Model,
    dataset: Any,
    *,
    epsilon: float | None = None,
    norm: str = "linf",
    lattice: str | None = None,
    guide: str = "gradient",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    examples: int | Sequence[int] | None = 64,
    queries: int = 200,
    restarts: int = 8,
    save_to: str | Path | None = None,
    replay: str | Path | None = None,
    confidence: float | None = None,
    **limits: Unpack[DivergenceBounds],
) -> Check:
    """Assert that no input near the examples makes the two models disagree, within a budget.

    `compressed` may give logits (n, classes) or classes (n,) or (n, 1). `find_divergence` looks within `epsilon` (by
    `norm`, in units of the inputs) of so many `examples`, each with at most `queries` inputs; its other arguments have
    the same names here. `max_divergence_rate`, in [0, 1], bounds the share of examples near which such an input was
    found; examples on which the models disagree only by rounding, or only within a batch, and those around which
    nothing could be asked do not count.

    When the check fails, the inputs that were found, moved as near to their seeds as they go on to disagree, are
    written to `save_to`, a `.npz` file or a folder; by default to the folder `divergences` beside the JSON report
    (`--cp-report-json`), and nowhere without one. A file that holds something else, as of another candidate, stays; the
    message names the new one. `replay` names such a file: then its inputs alone are asked about, and the options of the
    search are refused, which makes it a regression test. Raises DivergenceFoundError, and
    NothingComparedError when both models are the same, or fewer than half of the examples count.
    """
    __tracebackhide__ = True
    requirements = build_requirements(_ASSERTION, METRICS["divergence"].values(), limits, confidence)
    if replay is not None:
        search = {"epsilon": epsilon, "norm": norm, "lattice": lattice, "guide": guide, "bounds": bounds}
        _refuse_with_replay(**search, examples=examples, queries=queries, restarts=restarts, save_to=save_to)
    if replay is None and epsilon is None and guide == "gradient":
        reject(_ASSERTION, "epsilon", epsilon, "say how far from the examples to look, in units of the inputs")

    def compare(candidate: Observation, original: Observation) -> Measurement:
        if replay is not None:
            saved = load_divergence(replay)
            found, chosen = replay_divergence(candidate, original, saved)
            return as_measurement(found, chosen, original, saved.labels)
        chosen = choose_examples(_ASSERTION, examples, len(original))
        found = find_divergence(
            candidate.model,
            original.model,
            original.data.select(chosen)[0],
            epsilon=epsilon,
            norm=norm,
            lattice=lattice,
            guide=guide,
            bounds=bounds,
            restarts=restarts,
            queries=queries,
            minimise=True,
            seed=current_execution().seed,
            device=original.runner.device,
        )
        measurement = as_measurement(found, chosen, original)
        place = save_to if save_to is not None else current_execution().evidence_folder
        if place is None or not bool(found.found.any()) or judge(measurement, requirements).passed:
            return measurement
        path = save_divergence(place, found, chosen, original.labels[chosen])
        note = f"the inputs are in {path}; replay={str(path)!r} asks about them again"
        return dataclasses.replace(measurement, notes=(*measurement.notes, note))

    return assert_pair(
        (compressed, reference, dataset, None),
        compare,
        requirements,
        _ASSERTION,
        DivergenceFoundError,
        view=_with_logits,
    )


def _refuse_with_replay(**given: Any) -> None:
    """Raise InvalidArgumentError for options of a search, which a replay is not."""
    parameters = inspect.signature(assert_no_divergence).parameters
    for name, value in given.items():
        if not is_default(value, parameters[name].default):
            rule = "replay= asks about the inputs in its file alone and searches nothing: leave this option out"
            reject(_ASSERTION, name, value, rule)


def _with_logits(compressed: Model, reference: Observation) -> Model:
    """Return the compressed model, or one with logits in the place of a black box that gives classes only."""
    inputs, _ = reference.data.select([0])
    if not gives_classes(compressed, inputs, reference.runner.device):
        return compressed
    return ClassesAsLogits(compressed, reference.runner.device, reference.classes)


check_no_divergence = returning_twin(assert_no_divergence)
