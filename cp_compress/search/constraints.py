"""What a candidate must keep: the specification that gates a release, as a constraint of a search."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cp_compress.base.arguments import check_integer, explains_keywords, reject
from cp_compress.base.digests import digest_tensors, digest_text
from cp_compress.base.showing.describing import describe
from cp_compress.fidelity.comparisons import Comparison, comparisons_of_models
from cp_compress.fidelity.judging.judgement import Check, Result, judge
from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.judging.measuring import measure_for
from cp_compress.fidelity.judging.requirement import Requirement
from cp_compress.fidelity.observing.observation import observe
from cp_compress.fidelity.observing.outputs import Output, check_output
from cp_compress.inputs.reading import LabeledData

if TYPE_CHECKING:
    from torch import nn

Constraint = Callable[["nn.Module", "nn.Module"], Check]
"""Anything that judges a candidate against its reference."""


@explains_keywords
@dataclass(frozen=True, eq=False)
class Preserved:
    """A comparison of candidate and reference on a data set, and what it must show.

    Args:
        comparison: The name of a comparison of models, such as "predictions" or "footprint", a `Comparison`, or a
            callable (candidate observation, reference observation, **options) -> Measurement.
        dataset: The labelled examples that both models read.
        requirements: What is required of its metrics, each with its own confidence or none.
        options: Options of the comparison.
        device: Where the models run; by default where they are.
        batch_size: The largest number of examples in one call.
        deployed_batch_size: The batch size of the deployed model, at most `batch_size`, where answers depend on it.
        output: The part of what the models give that is compared, as `observe` takes it; None for their logits.

    Raises:
        InvalidArgumentError: If the comparison or an option is unknown, or nothing is required.
        ObservationError: If the data set is empty.

    >>> from cp_compress.examples import digits
    >>> print(Preserved("predictions", digits(), [Requirement("agreement", "min", 0.98, confidence=0.95)]))
    predictions on 600 examples: agreement ≥ 0.98 at 95% confidence
    """

    comparison: str | Comparison | Callable[..., Measurement]
    dataset: Any
    requirements: Sequence[Requirement]
    options: Mapping[str, Any] = field(default_factory=dict)
    device: torch.device | str | None = None
    batch_size: int = 256
    deployed_batch_size: int | None = None
    output: Output = None

    def __post_init__(self) -> None:
        requirements = (self.requirements,) if isinstance(self.requirements, Requirement) else tuple(self.requirements)
        if not requirements or not all(isinstance(requirement, Requirement) for requirement in requirements):
            reject("Preserved", "requirements", self.requirements, "give at least one Requirement; nothing else counts")
        object.__setattr__(self, "requirements", requirements)
        object.__setattr__(self, "options", dict(self.options))
        rule = "must be a whole number of 1 or more"
        check_integer("Preserved", "batch_size", self.batch_size, rule, at_least=1)
        if self.deployed_batch_size is not None:
            rule = f"must be a whole number in 1..{self.batch_size}, the largest batch of a forward call (batch_size)"
            deployed, limit = self.deployed_batch_size, self.batch_size
            check_integer("Preserved", "deployed_batch_size", deployed, rule, at_least=1, at_most=limit)
        check_output("Preserved", self.output)
        _check_options(self._compare, self._all_options)
        missing = [] if callable(self.comparison) else [one for one in self._declared.required if one in self.options]
        if not callable(self.comparison) and self._declared.required and not missing:
            reject("Preserved", "options", sorted(self.options), f"give {' or '.join(self._declared.required)}")
        if not isinstance(self.dataset, LabeledData):
            object.__setattr__(self, "dataset", LabeledData(self.dataset))

    def __call__(self, candidate: nn.Module, reference: nn.Module) -> Check:
        """Compare and judge; raises ObservationError for a candidate that cannot be compared, as for NaN logits.

        It is raised too where answers depend on batches and no deployed batch size is given, and where the data cannot
        tell a good candidate from a ruined one.
        """
        ours, theirs = (
            observe(
                model,
                self.dataset,
                device=self.device,
                batch_size=self.batch_size,
                deployed_batch_size=self.deployed_batch_size,
                output=self.output,
            )
            for model in (candidate, reference)
        )
        compare = functools.partial(self._compare, **self._all_options)
        if callable(self.comparison) or self._declared.kind != "size":
            return judge(measure_for(self.requirements, ours, theirs, compare), self.requirements)
        return judge(compare(ours, theirs), self.requirements)

    def __str__(self) -> str:
        named = isinstance(self.comparison, (str, Comparison))
        name = self._declared.name if named else describe(self.comparison)
        options = "".join(f", {key}={_describe_option(value)}" for key, value in self.options.items())
        size = self.deployed_batch_size
        batches = "" if size is None else f" in batches of {size}"
        part = "" if self.output is None else f" of output {describe(self.output)}"
        return (
            f"{name}{part} on {len(self.dataset)} examples{batches}{options}: {', '.join(map(str, self.requirements))}"
        )

    def on(self, dataset: Any) -> Preserved:
        """Return the same specification on other data."""
        return replace(self, dataset=dataset)

    @property
    def _compare(self) -> Callable[..., Measurement]:
        if callable(self.comparison):
            return self.comparison
        return self._declared.compare

    @property
    def _declared(self) -> Comparison:
        known = comparisons_of_models()
        if isinstance(self.comparison, Comparison):
            return self.comparison
        if not isinstance(self.comparison, str) or self.comparison not in known:
            rule = f"no comparison of that name; known are {', '.join(sorted(known))}"
            reject("Preserved", "comparison", self.comparison, rule)
        return known[self.comparison]

    @property
    def _all_options(self) -> dict[str, Any]:
        """The options of the comparison, those that follow from the requirements included."""
        if callable(self.comparison):
            return dict(self.options)
        implied = self._declared.implied([requirement.metric for requirement in self.requirements])
        return {**implied, **self.options}


def conservative_margin(check: Check) -> float:
    """Return how far a check is from being violated, negative when it is, NaN when a value is.

    Each requirement counts with the confidence bound that it was judged by, or with the value where it asks for no
    confidence; the least margin of all is returned, in the units of its metric.

    >>> from cp_compress.fidelity.judging.intervals import Proportion
    >>> found = Measurement("predictions", {"agreement": 1.0}, {"agreement": 100}, {"agreement": Proportion(100, 100)})
    >>> round(conservative_margin(judge(found, [Requirement("agreement", "min", 0.98, confidence=0.95)])), 4)
    -0.0095
    """
    margins = [_margin(result) for result in check.results]
    return float("nan") if any(margin != margin for margin in margins) else min(margins)


def _margin(result: Result) -> float:
    if result.interval is None:
        return result.margin if result.outcome != "error" else float("nan")
    bound = result.interval.low if result.requirement.direction == "min" else result.interval.high
    return result.requirement.margin(bound)


def _check_options(compare: Callable[..., Measurement], options: Mapping[str, Any]) -> None:
    try:
        inspect.signature(compare).bind(None, None, **options)
    except TypeError as error:
        rule = f"the comparison does not take two observations with these options: {error}"
        reject("Preserved", "options", sorted(options), rule)


def _describe_option(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"tensor {digest_tensors([value])[:12]}"
    text = describe(value)
    # a digest, not a part: a state file of other options must not be taken for this one's
    return text if len(text) <= 60 else f"{type(value).__name__} {digest_text(text)[:12]}"
