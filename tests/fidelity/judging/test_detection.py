"""What a passed claim would have found, what fresh data brings by chance, and claims about a family."""

import numpy as np
import pytest

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.fidelity import Measurement, Requirement, judge
from cp_compress.fidelity.judging.detection import detectable
from cp_compress.fidelity.judging.fresh_data import broken_by, fresh_limit
from cp_compress.fidelity.judging.groups import LargestDrop
from cp_compress.fidelity.judging.intervals import BoundedMean, PairedDrop, Proportion
from cp_compress.fidelity.judging.paired_tests import p_value


def measured(successes, total):
    evidence = {"agreement": Proportion(successes, total)}
    return Measurement("predictions", {"agreement": successes / total}, {"agreement": total}, evidence)


@pytest.mark.parametrize(("successes", "total", "bound"), [(500, 500, 0.99), (490, 500, 0.96)])
def test_four_fifths_of_samples_at_the_detectable_share_do_not_pass(successes, total, bound):
    requirement = Requirement("agreement", "min", bound, 0.95)
    result = judge(measured(successes, total), [requirement]).results[0]
    assert result.outcome == "pass"
    assert bound < result.detectable < 1
    assert result.to_json()["detectable"] == result.detectable
    draws, times = np.unique(np.random.default_rng(0).binomial(total, result.detectable, 4000), return_counts=True)
    passed = [judge(measured(int(one), total), [requirement]).passed for one in draws]
    assert np.average(passed, weights=times) == pytest.approx(0.2, abs=0.025)


def test_four_fifths_of_samples_at_the_detectable_drop_do_not_pass():
    drop = detectable(PairedDrop(5, 5, 500), "max", 0.03, 0.95, 0.0)
    counts = np.random.default_rng(1).multinomial(500, [0.01 + drop, 0.01, 0.98 - drop], 3000)
    rows, times = np.unique(counts[:, :2], axis=0, return_counts=True)
    passed = [p_value(int(lost), int(gained), 500, 0.03, 0.95) <= 0.05 for lost, gained in rows]
    assert np.average(passed, weights=times) == pytest.approx(0.2, abs=0.03)


def test_means_and_groups_say_what_they_would_have_found():
    mean = BoundedMean.of(np.random.default_rng(0).beta(9, 1, 300))
    assert 0.8 < detectable(mean, "min", 0.8, 0.95, mean.value) < mean.value
    groups = LargestDrop((PairedDrop(0, 0, 200), PairedDrop(1, 0, 300)), ("a", "b"))
    alone = [detectable(one, "max", 0.05, 0.95, one.value) for one in groups.drops]
    assert detectable(groups, "max", 0.05, 0.95, 0.0) == max(alone)


def test_what_does_not_pass_or_claims_nothing_says_nothing_of_it():
    assert judge(measured(480, 500), [Requirement("agreement", "min", 0.96, 0.95)]).results[0].detectable is None
    assert judge(measured(500, 500), [Requirement("agreement", "min", 0.96)]).results[0].detectable is None


def test_a_claim_of_a_family_has_its_share_of_the_error():
    alone = judge(measured(299, 300), [Requirement("agreement", "min", 0.98, 1 - 0.05 / 4)]).results[0]
    family = judge(measured(299, 300), [Requirement("agreement", "min", 0.98, 0.95, family=4)]).results[0]
    assert (family.outcome, family.interval) == (alone.outcome, alone.interval)
    assert str(family.requirement) == "agreement ≥ 0.98 at 95% confidence over 4 candidates"
    assert family.to_json()["family"] == 4
    for wrong in ({"family": 0, "confidence": 0.95}, {"family": 2}):
        with pytest.raises(InvalidArgumentError, match="family"):
            Requirement("agreement", "min", 0.98, **wrong)


@pytest.mark.parametrize(("total", "share"), [(200, 0.0), (1000, 0.003), (1000, 0.05)])
def test_fresh_data_breaks_a_limit_by_chance_no_more_often_than_stated_and_by_damage_as_often_as_named(total, share):
    generator, error, runs = np.random.default_rng(0), 0.05, 1500
    seen, fresh = generator.binomial(total, share, (2, runs))
    limits = {lost: fresh_limit(PairedDrop(lost, 0, total), "max", error) for lost in set(seen.tolist())}
    assert np.mean([new / total > limits[old] for old, new in zip(seen.tolist(), fresh, strict=True)]) <= error
    shares = {lost: fresh_limit(Proportion(total - lost, total), "min", error) for lost in set(seen.tolist())}
    assert np.mean([1 - new / total < shares[old] for old, new in zip(seen.tolist(), fresh, strict=True)]) <= error
    bound = shares[int(seen[0])]
    damaged = broken_by(Proportion(total - seen[0], total), "min", bound)
    broken = np.mean(generator.binomial(total, damaged, 4000) / total < bound)
    assert broken == pytest.approx(0.8, abs=0.03)


def test_a_small_class_does_not_set_the_limit_of_classes_that_lose_as_little():
    large = tuple(PairedDrop(0, 0, 100) for _ in range(10))
    names = tuple(map(str, range(11)))
    alone = fresh_limit(LargestDrop(large, names[:10]), "max", 0.01)
    assert alone < max(one.interval(1 - 0.01 / 10).high for one in large)
    assert fresh_limit(LargestDrop((*large, PairedDrop(0, 0, 5)), names), "max", 0.01) >= 1 / 5
