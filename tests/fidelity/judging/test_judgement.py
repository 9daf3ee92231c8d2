"""Outcomes follow from metric, bound and interval."""

import math

import pytest

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.fidelity import Measurement, Requirement, judge
from cp_compress.fidelity.judging.intervals import Proportion


def measured(successes: int, total: int, **metrics: float) -> Measurement:
    metrics = {"agreement": successes / total, **metrics}
    return Measurement(
        "predictions", metrics, dict.fromkeys(metrics, total), {"agreement": Proportion(successes, total)}
    )


@pytest.mark.parametrize(
    ("requirement", "outcome"),
    [
        (Requirement("agreement", "min", 0.98), "pass"),
        (Requirement("agreement", "min", 0.98000001), "fail"),
        (Requirement("agreement", "max", 0.98), "pass"),
        (Requirement("agreement", "max", 0.97), "fail"),
        (Requirement("agreement", "min", 0.90, confidence=0.95), "pass"),
        (Requirement("agreement", "min", 0.97, confidence=0.95), "inconclusive"),
        (Requirement("agreement", "min", 0.9999, confidence=0.95), "fail"),
        (Requirement("agreement", "max", 0.999, confidence=0.95), "pass"),
        (Requirement("agreement", "max", 0.98, confidence=0.95), "inconclusive"),
        (Requirement("agreement", "max", 0.90, confidence=0.95), "fail"),
    ],
)
def test_outcome(requirement, outcome):
    check = judge(measured(196, 200), [requirement])
    assert check.outcome == outcome
    assert check.passed == (outcome == "pass")


def test_inconclusive_says_how_many_more_examples_decide():
    (result,) = judge(measured(196, 200), [Requirement("agreement", "min", 0.97, 0.95)]).results
    enough = Proportion(0.98 * (200 + result.examples_needed), 200 + result.examples_needed)
    assert enough.interval(0.95).low >= 0.97


def test_worst_outcome_decides():
    check = judge(
        measured(196, 200, cost=0.5),
        [Requirement("agreement", "min", 0.5), Requirement("cost", "max", 0.1), Requirement("cost", "max", 0.4)],
    )
    assert check.outcome == "fail"
    assert check.worst.requirement.bound == 0.1
    assert check.worst.margin == pytest.approx(-0.4)


@pytest.mark.parametrize("bound", [0.5, 0.99])
def test_a_check_is_neither_true_nor_false(bound):
    """`assert check_…(…)` must not hold because every object is true."""
    check = judge(
        Measurement("predictions", {"agreement": 0.9}, {"agreement": 10}), [Requirement("agreement", "min", bound)]
    )
    with pytest.raises(TypeError, match=rf"ask for its \.passed \(here {bound <= 0.9}\)"):
        assert check


def test_not_a_number_is_an_error_and_no_sample_too():
    assert judge(measured(1, 2, psnr=math.nan), [Requirement("psnr", "min", 1.0)]).outcome == "error"
    empty = Measurement("boundaries", {"median_change": 0.0}, {"median_change": 0})
    assert judge(empty, [Requirement("median_change", "max", 1.0)]).outcome == "error"


def test_refusals():
    with pytest.raises(InvalidArgumentError, match="without requirements"):
        judge(measured(1, 2), [])
    with pytest.raises(InvalidArgumentError, match="measured only agreement"):
        judge(measured(1, 2), [Requirement("iou", "min", 0.1)])
    with pytest.raises(InvalidArgumentError, match="value on the given data only"):
        judge(measured(1, 2, psnr=20.0), [Requirement("psnr", "min", 0.1, confidence=0.9)])
    with pytest.raises(InvalidArgumentError, match="confidence"):
        Requirement("agreement", "min", 0.1, confidence=1.0)
    with pytest.raises(InvalidArgumentError, match="bound"):
        Requirement("agreement", "min", math.nan)
