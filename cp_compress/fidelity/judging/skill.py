"""How far a reference is better than chance on its labels: what requirements on accuracy rest on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cp_compress.base.error_reasons import shortened
from cp_compress.base.lazy import LazyModule
from cp_compress.fidelity.judging.exact import hypergeometric_tails
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.inputs.tasks import IGNORED

if TYPE_CHECKING:
    from scipy import special
else:
    special = LazyModule("scipy.special")  # scipy.stats takes a second to import, in every session

FEWEST = 20
"""With fewer examples nothing is refused."""

_LEAST_SKILL = 0.1
_ERROR = 0.01
_STANDARD_ERRORS = 3.0
_MOSTLY = 0.6


@dataclass(frozen=True)
class Skill:
    """How far a reference is better than chance on its labels.

    `accuracy` is that of the reference on `count` examples, `chance` what answers as frequent as its own would have if
    they had nothing to do with the labels (of Cohen's kappa; 1 / classes where all labels or all answers are one
    class). `shown` tells whether the reference is better than chance at an error of 1 %, `refuted` whether its accuracy
    is less than a tenth of the way from chance to 1, at the same error. `renamed` says which other class the reference
    answers for each label, where six in ten examples are answered so.
    """

    accuracy: float
    chance: float
    count: int
    shown: bool
    refuted: bool
    renamed: str = ""


def skill_of(reference: Observation) -> Skill | None:
    """Return how far a reference is better than chance on its labels; None where no label counts."""
    measure = _single_skill if reference.task == "single_label" else _structured_skill
    return reference.remember(("skill",), lambda: measure(reference))


def _single_skill(reference: Observation) -> Skill:
    answers, labels, classes = reference.predictions, reference.labels, reference.classes
    count, right = len(labels), answers == labels
    hits = torch.bincount(labels[right], minlength=classes).double().numpy()
    answered = torch.bincount(answers, minlength=classes).double().numpy()
    labelled = torch.bincount(labels, minlength=classes).double().numpy()
    one_kind = max(labelled.max(), answered.max()) == count
    chance = 1 / classes if one_kind else float((answered @ labelled) / count**2)
    # exact tests that answers have nothing to do with labels: of all examples, and of each class by its margins
    held = labelled > 0
    by_class = hypergeometric_tails(hits[held], labelled[held], answered[held], count)
    p_values = [float(special.bdtrc(hits.sum() - 1, count, chance)), *([] if one_kind else by_class)]
    return Skill(
        accuracy=float(hits.sum()) / count,
        chance=chance,
        count=count,
        shown=min(p_values) * len(p_values) <= _ERROR,
        refuted=_is_refuted(float(hits.sum()), count, chance),
        renamed=_renamed(reference),
    )


def _structured_skill(reference: Observation) -> Skill | None:
    answers, labels = reference.predictions.flatten(1), reference.labels.flatten(1)
    counts = labels != IGNORED
    judged = counts.any(dim=1)
    number = int(judged.sum())
    if not number:
        return None
    right = ((answers == labels) & counts).sum(dim=1).double()[judged] / counts.sum(dim=1)[judged]
    chance = _structured_chance(reference, answers, labels, counts)
    accuracy = float(right.mean())
    # examples are what is independent; the answers of one are not, so that no exact test is there
    error = float(right.std()) / number**0.5 if number > 1 else float("inf")
    return Skill(
        accuracy=accuracy,
        chance=chance,
        count=number,
        shown=accuracy - chance > _STANDARD_ERRORS * error,
        refuted=_is_refuted(accuracy * number, number, chance),
    )


def _structured_chance(reference: Observation, answers: Tensor, labels: Tensor, counts: Tensor) -> float:
    if reference.task == "multi_label":
        places = counts.sum(dim=0).double().clamp(min=1)
        said, true = (((part == 1) & counts).sum(dim=0) / places for part in (answers, labels))
        return float(((said * true + (1 - said) * (1 - true)) * places).sum() / places.sum())
    shares = [torch.bincount(part[counts], minlength=reference.classes).double() for part in (answers, labels)]
    total = shares[0].sum()
    if max(float(part.max()) for part in shares) == total:
        return 1 / reference.classes
    return float((shares[0] @ shares[1]) / total**2)


def _is_refuted(hits: float, count: int, chance: float) -> bool:
    """Tell whether a skill of a tenth is refuted by so many hits, by the exact binomial test at the error of 1 %."""
    if count < FEWEST:
        return False
    highest = float(special.betaincinv(hits + 1, count - hits, 1 - _ERROR)) if hits < count else 1.0
    return highest < chance + _LEAST_SKILL * (1 - chance)


def _renamed(reference: Observation) -> str:
    """Return a sentence on what the reference answers for a label, where for most examples it is one other class."""
    labels, answers, classes = reference.labels, reference.predictions, reference.classes
    pairs, numbers = torch.unique(labels * classes + answers, return_counts=True)
    order = numbers.argsort(descending=True, stable=True)
    other: dict[int, int] = {}  # one to one: a reference that answers one class to everything renames nothing
    seen, covered = set[int](), 0
    for pair, number in zip(pairs[order].tolist(), numbers[order].tolist(), strict=True):
        label, answer = divmod(pair, classes)
        if label not in seen and answer not in other.values():
            seen.add(label)
            if label != answer:
                other[label] = answer
                covered += number if number > 1 else 0  # one mistake of a class names no other
    if covered < _MOSTLY * len(labels):
        return ""
    names = [shortened(name, 40) for name in reference.class_names]
    listed = ", ".join(f"{names[label]!r} by {names[answer]!r}" for label, answer in list(other.items())[:3])
    return f"{covered} of {len(labels)} examples are answered by one other class for each label ({listed}). "
