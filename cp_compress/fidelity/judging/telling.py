"""Whether data can tell a good candidate from a ruined one: what requirements rest on, held against the reference.

A requirement on accuracy says nothing where the reference itself is right by chance only, and one on agreement nothing
where the reference gives one answer to everything. Where that is certain, judging is refused; where there are too few
examples to be certain, a note says what is doubtful.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from cp_compress.base.error_reasons import shortened
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.judging.metrics import known_metric
from cp_compress.fidelity.judging.requirement import Requirement
from cp_compress.fidelity.judging.skill import FEWEST, skill_of
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.inputs.trees import leaves_of
from cp_compress.inputs.wrapping import said_by

_FEWEST_ALIKE = 50
# with 50 examples, one answer to all has a probability below 0.9 ** 50 < 0.006 where no answer has more than this share
_RARE = 0.9
_LARGEST_TWICE_SCALED = 1.5 / 255
_SAMPLED = 64
_LISTED = 8
_ROUNDING = 8


def require_telling(reference: Observation, requirements: Sequence[Requirement]) -> tuple[str, ...]:
    """Return notes on what requirements cannot tell on the reference's data, where that is doubtful.

    Looked at is what each metric rests on, by its declaration (`Metric.rests_on`):

    - "labels", "classes": data without labels is refused;
    - any: logits that do not depend on the example, as where all inputs are the same, are refused;
    - "answers", "labels", "classes": one answer to all of 50 examples or more is refused, unless nine in ten labels are
      of one class too;
    - "labels", "classes": a reference that is not shown to be better than chance, of which a skill of a tenth is
      refuted (see `Skill`), is refused, which happens to one of at least that skill on one data set of a hundred at
      most. Refused is also one that takes six in ten examples for another class, one for each label, and class names of
      another number than the model's, unless the reference is shown to be better than chance and no folder is named.
      A requirement that only a candidate better than chance meets, such as accuracy ≥ 0.9, tells by itself.

    With fewer than 20 examples there are only notes. Raises ObservationError for what is refused.
    """
    bases = {metric.rests_on for one in requirements if (metric := known_metric(one.metric)) is not None}
    named = {name: _named(requirements, name) for name in ("answers", "labels", "classes")}
    if named["labels"] or named["classes"]:
        reference.data.require_labels(", ".join(part for part in (named["labels"], named["classes"]) if part))
    judged_by_answers = ", ".join(part for part in named.values() if part)
    judged_by_labels = ", ".join(part for part in (named["labels"], named["classes"]) if part)
    notes = [*_scale_notes(reference), *_alike_notes(reference)]
    if judged_by_answers:
        notes += _answer_notes(reference, judged_by_answers)
    if judged_by_labels:
        notes += _name_notes(reference, judged_by_labels)
        relative = [one for one in requirements if not _tells_by_itself(reference, one)]
        told = ", ".join(part for part in (_named(relative, basis) for basis in ("labels", "classes")) if part)
        notes += _skill_notes(reference, told) if told else []
    if "classes" in bases:
        notes += _class_notes(reference, named["classes"])
    return tuple(notes)


def _named(requirements: Iterable[Requirement], basis: str) -> str:
    found = [one for one in requirements if getattr(known_metric(one.metric), "rests_on", None) == basis]
    return ", ".join(f"{one.metric} {'≥' if one.direction == 'min' else '≤'} {one.bound:g}" for one in found)


def _tells_by_itself(reference: Observation, requirement: Requirement) -> bool:
    """Tell whether a requirement, such as accuracy ≥ 0.9, is met by no candidate without skill of its own."""
    metric, skill = known_metric(requirement.metric), skill_of(reference)
    if metric is None or skill is None or metric.unchanged is not None or requirement.direction == "max":
        return False
    return requirement.bound >= skill.chance


def _alike_notes(reference: Observation) -> list[str]:
    count = len(reference)
    if count < 2 or not reference.gives_logits or not gives_one_output(reference):
        return []
    same = reference.remember(("same inputs",), lambda: _have_same_inputs(reference))
    cause = "all inputs are the same" if same else "its inputs do not reach them: check how they are scaled"
    told = f"the reference's logits are the same on all {count} examples ({cause})"
    if count < FEWEST:
        return [f"{told}: one example is compared, whatever it is"]
    raise ObservationError(f"{told}, so that no example can tell two models apart; give different examples")


def gives_one_output(reference: Observation) -> bool:
    """Tell whether a model's logits are the same on all examples, up to rounding; found once."""
    return reference.remember(("alike",), lambda: _are_alike(reference.logits))


def _are_alike(logits: Tensor) -> bool:
    """Tell whether rows (n, ...) of logits differ by no more than the rounding of their dtype."""
    spread = (logits.amax(0) - logits.amin(0)).max()
    return bool(spread <= _ROUNDING * torch.finfo(logits.dtype).eps * logits.abs().max())


def _have_same_inputs(reference: Observation) -> bool:
    first = leaves_of(reference.data.read([0])[0])
    # stops at the first batch that differs
    return all(
        all(bool((one == other).all()) for one, other in zip(leaves_of(inputs), first, strict=True))
        for inputs, _ in reference.data.parts(256)
    )


def _answer_notes(reference: Observation, requirements: str) -> list[str]:
    count = len(reference)
    answers, labels = _counted(reference)
    if count < 2 or not len(answers):
        return []
    if bool((answers != answers[0]).any()):
        return _one_sided_notes(reference, answers, labels)
    answer = _answer_name(reference, int(answers[0]))
    told = f"the reference answers {answer} for all {count} examples"
    if not reference.labeled:
        # without labels nobody can say that the examples should be told apart
        return [f"{told}: a model that always does meets {requirements}"]
    kinds, numbers = torch.unique(labels, return_counts=True)
    share = float(numbers.max()) / len(labels)
    if count < _FEWEST_ALIKE or len(kinds) == 1 or share > _RARE:
        labelled = f"{share:.1%} of the labels are {_answer_name(reference, int(kinds[numbers.argmax()]))}"
        return [f"{told} ({labelled}): a model that always does meets {requirements}"]
    raise ObservationError(
        f"{told}, though their labels are of {len(kinds)} kinds: a model that always answers so would meet "
        f"{requirements}, so nothing can be told; check how inputs are scaled and in which form the model takes them"
    )


def _one_sided_notes(reference: Observation, answers: Tensor, labels: Tensor) -> list[str]:
    """Return a note where nearly all answers are one that far fewer labels are, as of inputs that hardly reach it."""
    kinds, numbers = torch.unique(answers, return_counts=True)
    answer, number = int(kinds[numbers.argmax()]), int(numbers.max())
    share = number / len(answers)
    if not reference.labeled:
        return []
    if reference.task == "multi_label" or share <= _RARE or float((labels == answer).double().mean()) > _RARE * share:
        return []
    answered = f"the reference answers {_answer_name(reference, answer)} {number} times of {len(answers)}"
    return [f"{answered}, more often than its labels: a model that always does has an agreement of {share:.3g}"]


def _answer_name(reference: Observation, answer: int) -> str:
    if reference.task == "multi_label":
        return "no label" if answer == 0 else "every label"
    return repr(shortened(reference.class_names[answer], 80))


def _counted(reference: Observation) -> tuple[Tensor, Tensor]:
    """Return the answers and labels that count, each (answers,)."""
    answers, labels = reference.predictions.flatten(), reference.targets.flatten()
    if reference.task == "single_label":
        return answers, labels
    counts = reference.counting.flatten()
    return answers[counts], labels[counts]


def _name_notes(reference: Observation, requirements: str) -> list[str]:
    names = said_by(reference.data, "classes")
    if not isinstance(names, Sequence) or isinstance(names, str) or len(names) == reference.classes:
        return []
    listed = shortened(", ".join(map(str, names[:_LISTED])), 200)
    told = f"the data names {len(names)} classes ({listed}), but the model has {reference.classes} logits"
    by_folder = said_by(reference.data, "numbered_by_folder") is True
    skill = skill_of(reference)
    if not by_folder and (len(reference) < FEWEST or (skill is not None and skill.shown)):
        return [f"{told}: names are left out"]
    remedy = (
        "folders are numbered in sorted order; say which of the model's classes each is by classes=, the names of all "
        "classes in the model's order"
        if by_folder
        else "give data whose labels are the model's own class numbers, and names for all of them"
    )
    raise ObservationError(f"{told}, and {requirements} needs labels that are numbered as the model's: {remedy}")


def _skill_notes(reference: Observation, requirements: str) -> list[str]:
    skill = skill_of(reference)
    if skill is None or (skill.shown and not skill.renamed):
        return []
    told = f"the reference is right on {skill.accuracy:.1%} of {skill.count} examples, where chance gives "
    told += f"{skill.chance:.1%}"
    if not skill.shown and not skill.refuted:
        return [f"{told}: too little to show that it is better than chance, so {requirements} may say nothing"]
    found = "is no better than chance on these labels" if skill.refuted else "takes labels for other classes"
    raise ObservationError(
        f"{told}: it {found}, so that a ruined model would meet {requirements} too. "
        f"{skill.renamed}Check that labels are numbered in the order of the model's classes"
    )


def _class_notes(reference: Observation, requirements: str) -> list[str]:
    names, notes = reference.class_names, []
    if reference.task == "multi_label":
        numbers = reference.counting.sum(dim=0)
        hits = numbers
    else:
        answers, labels = _counted(reference)
        numbers = torch.bincount(labels, minlength=reference.classes)
        hits = torch.bincount(labels[answers == labels], minlength=reference.classes)
    absent = (numbers == 0).nonzero().flatten().tolist()
    if absent:
        present = reference.classes - len(absent)
        listed = _listed([names[index] for index in absent])
        notes.append(
            f"only {present} of {reference.classes} classes have examples: {requirements} says nothing of {listed}"
        )
    wrong = ((hits == 0) & (numbers >= FEWEST)).nonzero().flatten().tolist()
    if wrong:
        listed = _listed([names[index] for index in wrong])
        notes.append(f"the reference is right on no example of {listed}, which can lose nothing")
    return notes


def _listed(names: Sequence[str]) -> str:
    listed = ", ".join(shortened(name, 40) for name in names[:_LISTED])
    return listed if len(names) <= _LISTED else f"{listed} and {len(names) - _LISTED} more"


def _scale_notes(reference: Observation) -> list[str]:
    largest = largest_input(reference)
    if largest is None or not 0 < largest <= _LARGEST_TWICE_SCALED:
        return []
    return [f"inputs lie in [0, {largest:.3g}]: they look scaled by 1/255 twice"]


def largest_input(reference: Observation) -> float | None:
    """Return the largest value of some inputs, None where they are no scaled numbers; found once."""
    return reference.remember(("largest input",), lambda: _largest_input(reference))


def _largest_input(reference: Observation) -> float | None:
    """Return the largest value of up to 64 examples spread over the data, or None where they are no scaled numbers."""
    spread = torch.linspace(0, len(reference) - 1, min(len(reference), _SAMPLED), dtype=torch.float64).round().long()
    inputs = reference.data.read(spread)[0]
    if (
        not isinstance(inputs, Tensor)
        or not inputs.is_floating_point()
        or not inputs.numel()
        or bool((inputs < 0).any())
    ):
        return None
    return float(inputs.max())
