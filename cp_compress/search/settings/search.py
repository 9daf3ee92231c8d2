"""The smallest setting of a codec at which a model still meets the requirements on decoded data."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cp_compress.fidelity as fidelity
from cp_compress.base.arguments import check_integer, explains_keywords, reject
from cp_compress.base.devices import usable_device
from cp_compress.data.dataset import CompressedDataset
from cp_compress.fidelity.comparisons import comparison_of, known_comparisons
from cp_compress.fidelity.judging.judgement import Check, judge
from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.judging.measuring import measure_for, require_judgeable
from cp_compress.fidelity.judging.requirement import Requirement
from cp_compress.fidelity.observing.observation import forget_observations, observe
from cp_compress.fidelity.observing.outputs import Output, check_output
from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.seen import known_digests, mark_as_searched, shared_examples
from cp_compress.search.results import describe_check
from cp_compress.search.settings.results import SettingTrial, SmallestSetting
from cp_compress.search.settings.spaces import CodecSpace
from cp_compress.search.settings.trials import Repair, SettingSearch, find_axis

if TYPE_CHECKING:
    import torch

    from cp_compress.fidelity.observing.runner import Model

_OWNER = "find_smallest"


@explains_keywords
def find_smallest(
    codec_family: CodecSpace,
    model: Model,
    dataset: Any,
    requirements: Requirement | str | Sequence[Requirement | str],
    *,
    confidence: float | None = 0.95,
    reference: Model | None = None,
    options: Mapping[str, Any] | None = None,
    repair: Repair | None = None,
    trials: int = 12,
    neighbours: int = 2,
    gate_data: Any = None,
    allow_shared_examples: bool = False,
    batch_size: int = 256,
    deployed_batch_size: int | None = None,
    output: Output = None,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> SmallestSetting:
    """Return the setting of a codec with the fewest bytes at which the requirements hold on decoded data.

    At each setting `model` reads the decoded `dataset`, and the reference reads the original. "inconclusive" does not
    count as holding.

    One parameter of the family is bisected. Then the neighbours of the smallest setting that holds are tried, and again
    those of a smaller one that is found, because accuracy is not a smooth function of the setting. Sizes are those of
    streams without envelopes. A setting with as many bytes as the smallest that holds so far is assumed to hold, and
    without a repair a setting that decodes to the same data as an earlier one of as many bytes has its result; neither
    is a trial. A setting that the codec or the comparison refuses is a trial that ends in an error.

    Args:
        codec_family: The codec with one parameter to search.
        model: The model that reads decoded data.
        dataset: Labelled original data.
        requirements: One or more requirements on the metrics of one comparison, which is found by their names. A
            `Requirement` is judged as it is; a text such as "accuracy_drop <= 0.02" is a claim about the population at
            `confidence`.

    Args: Comparison
        confidence: The confidence of requirements given as text, in (0, 1): by a paired bound, because both models read
            the same examples. None to judge the measured value.
        reference: The model that reads the original data; by default `model`.
        options: Arguments of the comparison.
        repair: A function (model, codec) that returns the candidate of a setting, for example by `adapt` on training
            data stored by the codec. Each trial then records in `clean` what the candidate does on the original data.

    Args: Search
        trials: The number of settings that bisection tries at most, not counting the mildest, which is tried if no
            other holds.
        neighbours: The number of settings tried on either side of the smallest that holds (for a `Real` at the distance
            of the last bracket), at most max(trials, 2·neighbours) more.

    Args: Fresh data
        gate_data: Labelled data on which the result is judged once more. A setting is chosen on the data that it is
            judged on, so the check that chose it is too optimistic.
        allow_shared_examples: Whether `gate_data` may hold examples of `dataset`.

    Args: The run
        batch_size: The largest number of examples in one call.
        deployed_batch_size: The batch size of the deployed model, at most `batch_size`, where answers depend on it.
        output: The part of what the models give that is compared, as `observe` takes it; by default their logits.
        device: Where models run; by default where they are.
        progress: Whether to show a progress bar.

    Returns:
        The smallest setting that holds, with all trials and the verdict on fresh data.

    Raises:
        InvalidArgumentError: If an argument is not as described, examples are shared, or a requirement fails on the
            original data. If the codec refuses the data at both ends of its range, its own error is raised.
        ObservationError: If the data cannot tell a good candidate from a ruined one by these requirements, or the
            reference's answers depend on batches and no deployed batch size is given.

    >>> from cp_compress.examples import digits, digits_cnn
    >>> from cp_compress.search.spaces import Integer
    >>> family = CodecSpace("zfp(precision={planes})", planes=Integer(1, 12))
    >>> found = find_smallest(family, digits_cnn(), digits(), "accuracy_drop <= 0.02")
    >>> print(found.codec, found.outcome)
    zfp(precision=...) pass
    """
    judged = _as_requirements(requirements, confidence)
    if not isinstance(codec_family, CodecSpace):
        rule = 'must be a CodecSpace, such as CodecSpace("jpeg(quality={q})", q=Integer(1, 100))'
        reject(_OWNER, "codec_family", codec_family, rule)
    trials = check_integer(_OWNER, "trials", trials, "must be a whole number of 1 or more", at_least=1)
    neighbours = check_integer(_OWNER, "neighbours", neighbours, "must be a whole number of 0 or more", at_least=0)
    if repair is not None and not callable(repair):
        reject(_OWNER, "repair", repair, "must be a callable (model, codec) -> model")
    batch_size = check_integer(_OWNER, "batch_size", batch_size, "must be a whole number of 1 or more", at_least=1)
    check_output(_OWNER, output)
    if device is not None:
        usable_device(device, f"{_OWNER}(device={str(device)!r}): it")
    data = LabeledData(dataset)
    digests = frozenset().union(*known_digests(data))
    fresh = None if gate_data is None else LabeledData(gate_data)
    shared = [] if fresh is None else shared_examples(fresh, digests)
    if shared and not allow_shared_examples:
        rule = f"{len(shared)} of its examples were searched on, so a verdict on them would be too optimistic"
        reject(_OWNER, "gate_data", type(gate_data).__name__, f"{rule}; remove them, or set allow_shared_examples=True")
    axis = find_axis(codec_family, data)
    beside = model if reference is None else reference
    sizes = {"batch_size": batch_size, "deployed_batch_size": deployed_batch_size}
    judge_data = _Judge(model, beside, judged, dict(options or {}), {"device": device, "output": output, **sizes})
    judge_data.require_judgeable(data)
    if repair is None:
        judge_data.rehearse(data)
    run = SettingSearch(codec_family, axis, judge_data, model, batch_size, data, repair, progress)
    run.bisect(trials)
    run.look_around(neighbours, max(trials, 2 * neighbours))
    best = run.best
    gate = None
    if best is not None and best.codec is not None and run.model is not None and fresh is not None:
        gate = judge_data(run.model, CompressedDataset(fresh, best.codec, batch_size=batch_size), fresh)[0]
    if run.model is not None and run.model is not model:
        mark_as_searched(run.model, digests)
    return SmallestSetting(
        family=str(codec_family),
        requirements=tuple(map(str, judged)),
        best=best,
        trials=tuple(run.trials),
        model=run.model,  # type: ignore[arg-type]
        gate=gate,
        search_digests=digests,
        notes=(*run.notes(), *_gate_notes(best, gate, len(shared))),
    )


class _Judge:
    """Compares a candidate on decoded data with the reference on the original, and judges it."""

    def __init__(
        self,
        model: Model,
        reference: Model,
        requirements: tuple[Requirement, ...],
        options: dict[str, Any],
        settings: Mapping[str, Any],
    ) -> None:
        self.model, self.reference, self.requirements = model, reference, requirements
        self.settings = settings
        self.comparison = comparison_of(requirements[0].metric)
        self.options = {**self.comparison.implied([one.metric for one in requirements]), **options}
        try:
            inspect.signature(self.comparison.compare).bind(None, None, **self.options)
        except TypeError as error:
            name = self.comparison.name
            reject(_OWNER, "options", sorted(options), f"the comparison {name!r} does not take them: {error}")

    def __call__(self, candidate: Model, stored: Any, data: LabeledData) -> tuple[Check, Measurement | None]:
        """Return the check, and what a candidate that is not the model itself does on the original data."""
        try:
            check = judge(self._compare(candidate, stored, data), self.requirements)
            clean = None
            if candidate is not self.model:
                original = self._observe(self.reference, data)
                clean = fidelity.compare_predictions(self._observe(candidate, data), original)
            return check, clean
        finally:
            if candidate is not self.model:
                forget_observations(candidate)

    def require_judgeable(self, data: LabeledData) -> None:
        """Raise ObservationError where the reference and the original data show that nothing can be judged."""
        if self.comparison.kind != "data":
            require_judgeable(self._observe(self.reference, data), self.requirements)

    def rehearse(self, data: LabeledData) -> None:
        """Reject requirements that the model does not meet even on the original data."""
        if self.comparison.kind == "data":
            return
        check = judge(self._compare(self.model, data, data), self.requirements)
        if not check.passed:
            rule = f"the original data itself does not meet this ({describe_check(check)}), so no setting can"
            reject(_OWNER, "requirements", ", ".join(map(str, self.requirements)), rule)

    def _compare(self, candidate: Model, stored: Any, data: LabeledData) -> Measurement:
        compare = self.comparison.compare
        if self.comparison.kind == "data":
            return compare(stored, data, **self.options)
        ours, theirs = self._observe(candidate, stored), self._observe(self.reference, data)
        return measure_for(self.requirements, ours, theirs, functools.partial(compare, **self.options))

    def _observe(self, model: Model, data: Any) -> fidelity.Observation:
        return observe(model, data, **self.settings)


def _as_requirements(given: Any, confidence: float | None) -> tuple[Requirement, ...]:
    listed = list(given) if isinstance(given, (list, tuple)) else []
    several = [given] if isinstance(given, (Requirement, str)) else listed
    found = tuple(Requirement.parse(one, confidence) if isinstance(one, str) else one for one in several)
    if not found or not all(isinstance(one, Requirement) for one in found):
        rule = 'give at least one Requirement or text, such as "accuracy_drop <= 0.02"'
        reject(_OWNER, "requirements", given, rule)
    comparisons = {comparison_of(one.metric).name for one in found}
    if len(comparisons) > 1 or known_comparisons()[min(comparisons)].kind in ("size", "streamed"):
        rule = f"all must be on metrics of one comparison on data, not of {', '.join(sorted(comparisons))}"
        reject(_OWNER, "requirements", ", ".join(map(str, found)), rule)
    return found


def _gate_notes(best: SettingTrial | None, gate: Check | None, shared: int) -> tuple[str, ...]:
    if best is None:
        return ()
    notes = [f"{shared} examples of the gate data were used by the search: it is not fresh"] if shared else []
    if gate is None:
        notes.append("the setting was chosen on the data that it was judged on and was not judged on fresh data")
    elif not gate.passed:
        undecided = gate.outcome == "inconclusive"
        notes.append(
            "the check of the setting on fresh data is inconclusive" if undecided else "the setting fails on fresh data"
        )
    return tuple(notes)
