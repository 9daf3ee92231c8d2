"""No input near the examples on which the compressed model says something else, as an assertion."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typing_extensions import Unpack

from cp_compress.base.arguments import reject
from cp_compress.fidelity.divergence.comparison import as_measurement, search_batch_size
from cp_compress.fidelity.divergence.files import load_divergence, replay_divergence, save_divergence
from cp_compress.fidelity.divergence.finding import find_divergence
from cp_compress.fidelity.divergence.labels import ClassesAsLogits, gives_classes
from cp_compress.fidelity.judging.judgement import Check, judge
from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.judging.metrics import METRICS
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.fidelity.observing.outputs import view_of
from cp_compress.fidelity.observing.runner import Model
from cp_compress.fidelity.observing.sampling import choose_examples
from pytest_cp.assertions.bounds import DivergenceBounds
from pytest_cp.checks.call_options import is_default, taking_bounds
from pytest_cp.checks.conclusion import Family, assert_pair, build_requirements, returning_twin
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
    family: Family | None = None,
    **limits: Unpack[DivergenceBounds],
) -> Check:
    """Assert that no input near the examples makes the two models disagree, within a budget.

    Examples on which the models disagree only by rounding, or only within a batch, and those around which nothing could
    be asked do not count. When the check fails, the inputs that were found are moved as near to their examples as they
    go on to disagree, and written to a file; the message names it.

    Args:
        compressed: The candidate; it may give logits (n, classes), or classes (n,) or (n, 1).
        reference: The model that it is compared with.
        dataset: The labelled examples around which to search.
        epsilon: The largest distance from an example by `norm`, in units of the inputs.
        norm: "linf" or "l2".
        lattice: "uint8" to search among images k/255 only; None for any values.
        guide: "gradient" to follow the reference's gradients, or "examples" to walk towards other examples.
        bounds: The range of inputs; None for any values.
        examples: A number of examples, spread evenly over the data set, or their indices; None for all.
        queries: How many inputs may be tried for each example.
        restarts: From how many starting points to search.
        save_to: A `.npz` file or a folder for the inputs that were found; by default the folder `divergences` beside
            the JSON report (`--cp-report-json`), and nowhere without one. A file of another candidate is kept.
        replay: A file of such inputs. Only these are checked again, and the options of the search are refused, which
            makes it a regression test.
        confidence: The confidence of claims about the population, in [0.5, 1); None compares the values on the given
            data with their bounds.
        family: "candidates" makes the confidence one of all candidates of the test together: each is judged with its
            share of the error (Bonferroni). None for each candidate by itself.
        **limits: The requirement.

    Returns:
        The check, whose `measurement` holds all metrics.

    Raises:
        DivergenceFoundError: If such inputs were found near more examples than allowed.
        NothingComparedError: If both models are the same, or fewer than half of the examples count.
        InvalidArgumentError: If no requirement is given, or an argument is not as described.
    """
    __tracebackhide__ = True
    requirements = build_requirements(_ASSERTION, METRICS["divergence"].values(), limits, confidence, family)
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
            candidate.compared_model,
            original.compared_model,
            original.data.inputs(chosen),
            epsilon=epsilon,
            norm=norm,
            lattice=lattice,
            guide=guide,
            bounds=bounds,
            restarts=restarts,
            queries=queries,
            minimise=True,
            batch_size=search_batch_size(candidate, original),
            seed=current_execution().seed,
            device=original.runner.device,
        )
        measurement = as_measurement(found, chosen, original)
        place = save_to if save_to is not None else current_execution().evidence_folder
        if place is None or not bool(found.found.any()) or judge(measurement, requirements).passed:
            return measurement
        path = save_divergence(place, found, chosen, original.targets[chosen])
        note = f"the inputs are in {path}; replay={str(path)!r} checks them again"
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
            rule = "replay= checks only the inputs in its file and searches nothing: leave this option out"
            reject(_ASSERTION, name, value, rule)


def _with_logits(compressed: Model, reference: Observation) -> Model:
    """Return the compressed model, or one with logits in the place of a black box that gives classes only."""
    reference.data.require_one_tensor("a search for divergence")
    inputs, compared = reference.data.inputs([0]), view_of(compressed, reference.output)
    if not gives_classes(compared, inputs, reference.runner.device):
        return compressed
    return ClassesAsLogits(compared, reference.runner.device, reference.classes)


check_no_divergence = returning_twin(assert_no_divergence)
