"""Outcomes follow from metric, bound and interval."""

import math

import pytest

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.fidelity import Measurement, Requirement, judge
from cp_compress.fidelity.judging.intervals import Proportion
from cp_compress.fidelity.judging.metrics import METRICS


def measured(successes: int, total: int, **metrics: float) -> Measurement:
    """A measurement of agreement, and of a share of the user's own that may be required from either side."""
    share = successes / total
    metrics = {"agreement": share, "share": share, **metrics}
    evidence = dict.fromkeys(("agreement", "share"), Proportion(successes, total))
    return Measurement("predictions", metrics, dict.fromkeys(metrics, total), evidence)


@pytest.mark.parametrize(
    ("requirement", "outcome"),
    [
        (Requirement("agreement", "min", 0.98), "pass"),
        (Requirement("agreement", "min", 0.98000001), "fail"),
        (Requirement("share", "max", 0.98), "pass"),
        (Requirement("share", "max", 0.97), "fail"),
        (Requirement("agreement", "min", 0.90, confidence=0.95), "pass"),
        (Requirement("agreement", "min", 0.97, confidence=0.95), "inconclusive"),
        (Requirement("agreement", "min", 0.9999, confidence=0.95), "fail"),
        (Requirement("share", "max", 0.999, confidence=0.95), "pass"),
        (Requirement("share", "max", 0.98, confidence=0.95), "inconclusive"),
        (Requirement("share", "max", 0.90, confidence=0.95), "fail"),
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


@pytest.mark.parametrize("metric", [metric for table in METRICS.values() for metric in table.values()])
def test_no_requirement_can_be_met_by_being_worse(metric):
    """`agreement <= 0.97` would pass a ruined model: a metric is required on the side where a bound can be missed."""
    name = f"{metric.name}_0.1" if metric.leveled else metric.name
    bound = 0.5
    sides = {"min": ">=", "max": "<="}
    for side, sign in sides.items():
        if side == metric.direction:
            assert Requirement.parse(f"{name} {sign} {bound}") == Requirement(name, side, bound)
            continue
        for make in (lambda: Requirement(name, side, bound), lambda: Requirement.parse(f"{name} {sign} {bound}")):  # noqa: B023
            with pytest.raises(InvalidArgumentError, match=metric.name) as refused:
                make()
            if metric.direction is None:
                assert "reported only" in str(refused.value)
            else:
                assert f"{name} {'≥' if metric.direction == 'min' else '≤'} 0.5" in str(refused.value)


@pytest.mark.parametrize("metric", [metric for table in METRICS.values() for metric in table.values()])
def test_an_unchanged_value_lies_within_its_range_and_keeps_its_own_bound(metric):
    if metric.unchanged is None:
        return
    assert metric.low <= metric.unchanged <= metric.high
    if metric.direction is not None:
        name = f"{metric.name}_0.1" if metric.leveled else metric.name
        assert Requirement(name, metric.direction, min(metric.unchanged, 1e9)).holds(metric.unchanged)


def test_a_claim_is_refused_where_none_can_be_made_before_anything_is_measured():
    with pytest.raises(InvalidArgumentError, match="value on the given data only"):
        Requirement.parse("mean_kl <= 0.1", confidence=0.95)


@pytest.mark.parametrize("metric", ["iou_quantile", "iou_quantile_7", "iou_quantile_abc", 3, None, ""])
def test_a_requirement_names_a_metric(metric):
    with pytest.raises(InvalidArgumentError, match="metric"):
        Requirement(metric, "min", 0.5)


def test_the_level_of_a_quantile_stands_in_what_is_advised():
    with pytest.raises(InvalidArgumentError, match=r"as in 'iou_quantile_0.1 ≥ 0.4'"):
        Requirement.parse("iou_quantile_0.1 <= 0.4")


@pytest.mark.parametrize(
    ("requirement", "value", "headroom"),
    [
        ("agreement >= 0.9", 0.95, 0.5),
        ("agreement >= 0.9", 1.0, 1.0),
        ("agreement >= 0.9", 0.9, 0.0),
        ("agreement >= 0.9", 0.8, -1.0),
        ("accuracy_drop <= 0.02", -0.02, 2.0),
        ("accuracy_drop <= 0.02", 0.03, -0.5),
        ("agreement >= 1", 0.99, None),  # an unchanged model lies on the bound
        ("accuracy_drop <= -0.01", -0.02, None),  # an unchanged model does not meet it
        ("compression >= 2", 4.0, None),
        ("compression >= 0.5", 0.75, 0.5),
        ("accuracy >= 0.9", 0.95, None),  # no value of an unchanged model
        ("psnr >= 30", 40.0, None),  # an infinite one
        ("mean_kl <= 0.1", math.inf, None),
        ("median_distance_ratio >= 0.5", 0.75, 0.5),
    ],
)
def test_headroom(requirement, value, headroom):
    required = Requirement.parse(requirement)
    check = judge(Measurement("any", {required.metric: value}, {required.metric: 10}), [required])
    (result,) = check.results
    assert result.headroom == pytest.approx(headroom)
    assert result.to_json()["headroom"] == result.headroom
    if result.outcome == "fail":
        assert result.headroom is None or result.headroom < 0


def test_the_least_headroom_decides_whatever_the_units():
    measurement = Measurement(
        "any",
        {"agreement": 0.99, "mean_logit_distance": 9.9, "compression": 2.01},
        dict.fromkeys(("agreement", "mean_logit_distance", "compression"), 10),
    )
    required = [Requirement.parse(one) for one in ("agreement >= 0.9", "mean_logit_distance <= 10", "compression >= 2")]
    assert judge(measurement, required).worst.requirement.metric == "mean_logit_distance"
