"""The smallest part of a data set on which a network learns the behaviour that all of it teaches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cp_compress.base.arguments import check_integer, explains_keywords, reject
from cp_compress.base.devices import keeping_random_state
from cp_compress.base.digests import digest_model
from cp_compress.base.outcomes import SEVERITY, Outcome
from cp_compress.base.showing.brief import Brief
from cp_compress.data.selection.selection import Selection
from cp_compress.fidelity.judging.judgement import Check, judge
from cp_compress.fidelity.judging.measuring import measure_for, require_judgeable
from cp_compress.fidelity.judging.requirement import Requirement
from cp_compress.fidelity.observing.observation import Observation, observe
from cp_compress.fidelity.observing.outputs import Output, check_output, view_of
from cp_compress.fidelity.predictions.comparison import compare_predictions
from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.seen import known_digests, shared_examples
from cp_compress.search.results import describe_check
from cp_compress.training.fitting import MakeModel, MakeOptimizer, fit

_OWNER = "find_smallest_subset"


@explains_keywords
@dataclass(frozen=True, eq=False, repr=False)
class SubsetTrial(Brief):
    """One selection, and for each seed the check of a network trained on it against one trained on all examples."""

    selection: Selection
    checks: tuple[Check, ...]

    @property
    def outcome(self) -> Outcome:
        """The worst outcome of all seeds."""
        return max((check.outcome for check in self.checks), key=SEVERITY.index)

    def __str__(self) -> str:
        told = "; ".join(describe_check(check) for check in self.checks)
        return f"{len(self.selection)} of {self.selection.total}: {self.outcome} ({told})"


@explains_keywords
@dataclass(frozen=True, eq=False, repr=False)
class SmallestSubset(Brief):
    """What `find_smallest_subset` found: the smallest selection that passed, and all trials in order.

    `selection` is None if no smaller part than all examples passed.
    """

    selection: Selection | None
    trials: tuple[SubsetTrial, ...]

    def __str__(self) -> str:
        found = "no smaller part passed" if self.selection is None else str(self.selection)
        return "\n".join([found, *(f"  {trial}" for trial in self.trials)])


@explains_keywords
def find_smallest_subset(
    make_model: MakeModel,
    dataset: Any,
    choose: Callable[[int], Selection],
    judged_on: Any,
    requirements: Requirement | str | Sequence[Requirement | str],
    *,
    steps: int,
    confidence: float | None = 0.95,
    allow_shared_examples: bool = False,
    smallest: int | None = None,
    trials: int = 6,
    seeds: Sequence[int] = (0,),
    batch_size: int = 64,
    deployed_batch_size: int | None = None,
    output: Output = None,
    optimizer: MakeOptimizer | None = None,
    device: torch.device | str | None = None,
) -> SmallestSubset:
    """Return the smallest selection on which networks learn to behave like those trained on all examples.

    For each seed a network is trained on all of `dataset` and, from the same initial values, on the selection with its
    weights. `compare_predictions` compares the second, the candidate, with the first, the reference, on `judged_on`. A
    selection passes if the requirements hold for every seed; "inconclusive" does not count as holding. The number of
    examples is bisected on a logarithmic scale, which assumes that more examples are no worse; the result is the
    smallest selection that was tried and passed.

    Args:
        make_model: A function without arguments that returns a new network with random initial values.
        dataset: The labelled training data.
        choose: A function of a number of examples that returns a selection of that many, such as `lambda count:
            craig(gradients, count, labels=labels)`.
        judged_on: Labelled data for the comparison.
        requirements: One or more requirements on the metrics of `compare_predictions`. A `Requirement` is judged as it
            is; a text such as "agreement >= 0.98" is a claim about the population at `confidence`.

    Args: Comparison
        confidence: The confidence of requirements given as text, in (0, 1), or None to judge the measured value.
        allow_shared_examples: Whether `judged_on` may hold examples of `dataset`.

    Args: Search
        smallest: The smallest number of examples; by default one per class.
        trials: The largest number of selections to try.
        seeds: The seeds of the trainings, whole numbers in 0…2³⁰.

    Args: Training
        steps: The number of training steps.
        batch_size: The number of examples per step.
        deployed_batch_size: The batch size of the deployed model, at most 256, where answers depend on it.
        output: The part of what the networks give that is trained and compared, as `observe` takes it; by default their
            logits.
        optimizer: A function from parameters to a torch optimiser, as for `fit`.
        device: Where to train; by default the CPU.

    Returns:
        The smallest selection that passed, with all trials.

    Raises:
        InvalidArgumentError: If an argument is not as described, or examples are shared.
        ObservationError: If `judged_on` cannot tell a good network from a ruined one by these requirements, or answers
            depend on batches and no deployed batch size is given.

    The errors of `choose` are raised unchanged.
    """
    data = dataset if isinstance(dataset, LabeledData) else LabeledData(dataset)
    held = _as_requirements(requirements, confidence)
    if not callable(choose):
        reject(_OWNER, "choose", choose, "must be a function of a number of examples that returns a Selection")
    check_integer(_OWNER, "trials", trials, "must be a whole number of 1 or more", at_least=1)
    chosen = _as_seeds(seeds)
    least = len(torch.unique(data.read_labels())) if smallest is None else smallest
    rule = f"must be a whole number in 1…{len(data) - 1}"
    low = check_integer(_OWNER, "smallest", least, rule, at_least=1, at_most=len(data) - 1)
    options: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "optimizer": optimizer, "device": device}
    judged = judged_on if isinstance(judged_on, LabeledData) else LabeledData(judged_on)
    if not allow_shared_examples:
        _refuse_shared(judged, data)
    _require_new_networks(make_model, chosen[0])
    check_output(_OWNER, output)

    def make_part() -> nn.Module:
        made: Any = view_of(make_model(), output)  # of a module a module
        return made  # type: ignore[no-any-return]

    def look(model: nn.Module) -> Observation:
        return observe(model, judged, deployed_batch_size=deployed_batch_size)

    references = {seed: look(fit(make_part, data, seed=seed, **options).model) for seed in chosen}
    for reference in references.values():
        require_judgeable(reference, held)

    def attempt(count: int) -> SubsetTrial:
        selection = choose(count)
        if not isinstance(selection, Selection) or len(selection) != count:
            reject(_OWNER, "choose", selection, f"it must return a Selection of {count} examples")
        part = selection.subset(data)
        checks = []
        for seed, reference in references.items():
            model = fit(make_part, part, weights=selection.weights, seed=seed, **options).model
            checks.append(judge(measure_for(held, look(model), reference, compare_predictions), held))
        return SubsetTrial(selection, tuple(checks))

    made: list[SubsetTrial] = []
    failing, passing = low - 1, len(data)
    count = low
    while len(made) < trials and failing < count < passing:
        made.append(attempt(count))
        if made[-1].outcome == "pass":
            passing = count
        else:
            failing = count
        count = round(math.sqrt(max(failing, 1) * passing))
        count = min(max(count, failing + 1), passing - 1)
    passed = [trial.selection for trial in made if trial.outcome == "pass"]
    return SmallestSubset(min(passed, key=len, default=None), tuple(made))


def _as_requirements(given: Any, confidence: float | None) -> tuple[Requirement, ...]:
    several = given if isinstance(given, (list, tuple)) else [given]
    found = tuple(Requirement.parse(one, confidence) if isinstance(one, str) else one for one in several)
    if not found or not all(isinstance(one, Requirement) for one in found):
        rule = 'give at least one Requirement or text, such as "agreement >= 0.98"'
        reject(_OWNER, "requirements", given, rule)
    return found


def _as_seeds(seeds: object) -> list[int]:
    rule = "give at least one seed, whole numbers in 0…2³⁰, such as (0, 1)"
    if not isinstance(seeds, Iterable) or isinstance(seeds, str) or getattr(seeds, "ndim", 1) != 1:
        reject(_OWNER, "seeds", seeds, rule)
    found = [check_integer(_OWNER, "seeds", seed, rule, at_least=0, at_most=2**30) for seed in seeds]
    if not found:
        reject(_OWNER, "seeds", seeds, rule)
    return found


def _refuse_shared(judged: LabeledData, data: LabeledData) -> None:
    shared = shared_examples(judged, frozenset().union(*known_digests(data)))
    if shared:
        rule = f"{len(shared)} of its examples are trained on, so a verdict on them would be too optimistic"
        told = f"{rule}; remove them, or set allow_shared_examples=True"
        reject(_OWNER, "judged_on", type(judged.source).__name__, told)


def _require_new_networks(make_model: MakeModel, seed: int) -> None:
    """Reject a factory whose networks do not begin with random values: what was learned before would count."""
    digests = set()
    for other in (seed, seed + 1):
        with keeping_random_state():
            torch.manual_seed(other)
            digests.add(digest_model(make_model()))
    if len(digests) == 1:
        rule = "it returns the same values for every seed; it must return a new network, not a trained one"
        reject(_OWNER, "make_model", getattr(make_model, "__name__", make_model), rule)
