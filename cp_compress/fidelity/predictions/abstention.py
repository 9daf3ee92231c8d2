"""When a compressed model must abstain, so that the predictions it gives are still the reference's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cp_compress.base.arguments import check_choice, check_real, explains_keywords
from cp_compress.base.showing.brief import Brief
from cp_compress.fidelity.judging.intervals import Proportion
from cp_compress.fidelity.observing.observation import Observation, require_observations
from cp_compress.fidelity.observing.pairing import check_comparable
from cp_compress.fidelity.predictions.output_changes import kind_of_outputs, largest_probability

Against = Literal["reference", "truth"]
_THRESHOLDS = 16


@dataclass(frozen=True, eq=False, repr=False)
class RiskCoverage(Brief):
    """The risk of a model that predicts only where it is most confident.

    `thresholds`, `coverage` and `risk` (k,), float64, have one entry for each different confidence, the highest first:
    with predictions only where the confidence is at least the threshold, `coverage` is the fraction of examples
    predicted and `risk` the fraction of these that is wrong. `area` is the mean risk over all coverages of 1/n, 2/n, …,
    1 (AURC), averaged over the orders of examples of equal confidence.
    """

    thresholds: Tensor
    coverage: Tensor
    risk: Tensor
    area: float


@explains_keywords
def risk_coverage(candidate: Observation, reference: Observation, *, against: Against = "reference") -> RiskCoverage:
    """Return how the candidate's risk grows with the fraction of examples that it predicts.

    The confidence is its largest probability. A prediction is wrong if it is not the reference's, or with
    `against="truth"` not the true class. El-Yaniv and Wiener 2010, "On the foundations of noise-free selective
    classification"; the area after Geifman, Uziel and El-Yaniv 2019.

    >>> from cp_compress.fidelity import observe
    >>> data = (torch.eye(3)[:, :2] * 4, torch.tensor([0, 1, 0]))
    >>> swapped = observe(lambda inputs: inputs.flip(1) * torch.tensor([[1.0], [-1.0], [1.0]]), data)
    >>> risk_coverage(swapped, observe(torch.nn.Identity(), data)).coverage.tolist()
    [0.666..., 1.0]
    """
    require_observations("risk_coverage", candidate=candidate, reference=reference)
    confidence, wrong = _answers(candidate, reference, against)
    thresholds, answered, errors = _by_threshold(confidence, wrong)
    sizes, found = (torch.diff(counts, prepend=torch.zeros(1, dtype=counts.dtype)) for counts in (answered, errors))
    # among equal confidences each is wrong with the share of errors there, so that the order of the data does not count
    each = (found / sizes).repeat_interleave(sizes.long()).cumsum(0)
    area = float((each / torch.arange(1, len(wrong) + 1)).mean())
    return RiskCoverage(thresholds, answered / len(wrong), errors / answered, area)


@dataclass(frozen=True, repr=False)
class Abstention(Brief):
    """Where to abstain: predict only where the largest probability is at least `threshold`, inf for never.

    `coverage` is the fraction of the examples then predicted, `agreement` the fraction of these predictions that agree
    (NaN without any), `answered` their number, `bound` the lower confidence bound of the agreement, None without one.
    """

    threshold: float
    coverage: float
    agreement: float
    answered: int
    bound: float | None


@explains_keywords
def abstention_threshold(
    candidate: Observation,
    reference: Observation,
    *,
    min_agreement: float,
    confidence: float | None = 0.95,
    against: Against = "reference",
) -> Abstention:
    """Return the smallest confidence threshold at which the candidate's predictions reach a target agreement.

    With `confidence` the agreement of the population's predictions at the threshold is at least `min_agreement` with
    that probability: the exact binomial bounds of 16 thresholds, fixed before the errors are seen (quantiles of the
    confidences), share the error equally (Bonferroni), and the lowest threshold whose bound holds is taken. Geifman and
    El-Yaniv 2017, "Selective classification for deep neural networks"; Angelopoulos et al. 2021, "Learn then test".

    Args:
        candidate: The observation of the model that abstains.
        reference: The observation of the reference on the same examples.
        min_agreement: The target agreement of the predictions given, in (0, 1).
        confidence: The confidence in [0.5, 1) of a claim about the population; None to reach the target on the given
            examples, at the largest coverage that does.
        against: "reference" for agreement with the reference's predictions, "truth" for the true classes.

    Returns:
        The threshold, with coverage and agreement on the given examples.

    Raises:
        InvalidArgumentError: If an argument is out of its range.
        ObservationError: If the observations are not of the same examples.
    """
    require_observations("abstention_threshold", candidate=candidate, reference=reference)
    owner = "abstention_threshold"
    rule = "must be a share in (0, 1)"
    target = check_real(owner, "min_agreement", min_agreement, rule, above=0, below=1)
    sure, wrong = _answers(candidate, reference, against)
    if confidence is None:
        thresholds, answers, errors = _by_threshold(sure, wrong)
        # 1 − risk would miss some targets by its rounding
        holding = ((answers - errors) / answers >= target).nonzero().flatten()
        chosen = float(thresholds[holding[-1]]) if len(holding) else math.inf
        return _abstention(chosen, sure, wrong, None)
    level = check_real(owner, "confidence", confidence, "must lie in [0.5, 1)", at_least=0.5, below=1)
    shares = torch.arange(1, _THRESHOLDS + 1, dtype=torch.float64) / _THRESHOLDS
    chosen, bound = math.inf, None
    for threshold in torch.quantile(sure, 1 - shares).tolist():  # from the strictest to the mildest
        answered = sure >= threshold
        total = int(answered.sum())
        low = Proportion(total - int(wrong[answered].sum()), total).interval(1 - (1 - level) / _THRESHOLDS).low
        if low >= target:
            chosen, bound = threshold, low
    return _abstention(chosen, sure, wrong, bound)


def _by_threshold(confidence: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the different confidences from the surest on, and the numbers of answers and errors from there up."""
    order = confidence.argsort(descending=True, stable=True)
    sure, errors = confidence[order], wrong[order].double().cumsum(0)
    last = torch.cat([sure[1:] != sure[:-1], torch.tensor([True])])  # equal confidences are answered together
    return sure[last], torch.arange(1, len(sure) + 1, dtype=torch.float64)[last], errors[last]


def _answers(candidate: Observation, reference: Observation, against: str) -> tuple[Tensor, Tensor]:
    check_choice("risk_coverage", "against", against, ("reference", "truth"))
    check_comparable(candidate, reference)
    truth = reference.predictions if against == "reference" else reference.labels
    probabilities = kind_of_outputs(candidate.logits) == "probabilities"
    return largest_probability(candidate.logits, probabilities=probabilities), candidate.predictions != truth


def _abstention(threshold: float, sure: Tensor, wrong: Tensor, bound: float | None) -> Abstention:
    answered = sure >= threshold
    total = int(answered.sum())
    agreement = (total - int(wrong[answered].sum())) / total if total else math.nan
    return Abstention(threshold, total / len(sure), agreement, total, bound)
