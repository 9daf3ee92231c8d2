"""Exemplars, abstention and the noise floor."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.examples import digits, digits_cnn
from cp_compress.fidelity import (
    abstention_threshold,
    compare_boundaries,
    compare_predictions,
    compression_identified_exemplars,
    noise_floor,
    observe,
    risk_coverage,
)
from cp_compress.model import parse_scheme


def table(logits, labels):
    rows = torch.arange(len(logits)).float()[:, None]
    return observe(lambda inputs: logits[inputs[:, 0].long()], (rows, labels))


def one_hot(classes, labels):
    return table(5 * torch.nn.functional.one_hot(torch.tensor(classes), 3).float(), torch.tensor(labels))


def test_exemplars_by_hand():
    labels = [0, 1, 2, 0]
    reference = one_hot([0, 1, 2, 0], labels)
    candidates = [one_hot(classes, labels) for classes in ([0, 2, 1, 1], [0, 2, 1, 0], [1, 2, 2, 0])]
    found = compression_identified_exemplars(candidates, reference)
    assert found.indices.tolist() == [1, 2]  # unanimous before two of three
    assert found.candidate_classes.tolist() == [2, 1]
    assert found.votes.tolist() == pytest.approx([1, 2 / 3])
    assert found.reference_classes.tolist() == [1, 2]
    assert len(compression_identified_exemplars([reference], reference)) == 0


def test_exemplars_of_several_references():
    labels = [0, 1]
    references = [one_hot(classes, labels) for classes in ([0, 1], [0, 2], [1, 1])]
    found = compression_identified_exemplars([one_hot([0, 2], labels)], references)
    assert found.indices.tolist() == [1]
    assert found.reference_classes.tolist() == [1]


def test_exemplars_need_observations():
    with pytest.raises(InvalidArgumentError, match="candidates"):
        compression_identified_exemplars([], one_hot([0], [0]))
    with pytest.raises(InvalidArgumentError, match=r"candidates=3\): give one observation or more"):
        compression_identified_exemplars(3, one_hot([0], [0]))
    with pytest.raises(InvalidArgumentError, match=r"references=.*give two observations or more"):
        noise_floor(one_hot([0], [0]), compare_predictions)


def test_one_candidate_may_be_given_by_itself():
    labels = [0, 1, 2]
    candidate, reference = one_hot([0, 2, 2], labels), one_hot([0, 1, 2], labels)
    assert compression_identified_exemplars(candidate, reference).indices.tolist() == [1]


def noisy(count=500, seed=0, noise=1.5):
    generator = torch.Generator().manual_seed(seed)
    before = 2 * torch.randn(count, 5, generator=generator)
    labels = before.argmax(1)
    return table(before + noise * torch.randn(count, 5, generator=generator), labels), table(before, labels)


def test_risk_and_coverage_by_brute_force():
    candidate, reference = noisy()
    curve = risk_coverage(candidate, reference)
    confidence = torch.softmax(candidate.logits.double(), 1).amax(1).numpy()
    wrong = (candidate.predictions != reference.predictions).numpy()
    for place in (0, 20, len(curve.thresholds) - 1):
        answered = confidence >= float(curve.thresholds[place])
        assert float(curve.coverage[place]) == pytest.approx(answered.mean())
        assert float(curve.risk[place]) == pytest.approx(wrong[answered].mean())
    order = np.argsort(-confidence, kind="stable")
    assert curve.area == pytest.approx(np.mean(np.cumsum(wrong[order]) / np.arange(1, 501)))
    assert float(curve.risk[-1]) == pytest.approx(1 - accuracy_score(reference.predictions, candidate.predictions))


def test_area_is_the_mean_over_orders_of_equal_confidences():
    sure = [3.0, 2.0, 2.0, 2.0, 1.0, 1.0]
    wrong = [0, 1, 0, 0, 1, 0]
    orders = [(0, *middle, *last) for middle in itertools.permutations((1, 2, 3)) for last in ((4, 5), (5, 4))]
    ranks = np.arange(1, 7)
    expected = np.mean([np.mean(np.cumsum(np.array(wrong)[list(order)]) / ranks) for order in orders])
    for order in orders:
        before = torch.zeros(6, dtype=torch.int64)
        after = torch.tensor([wrong[place] for place in order])
        logits = torch.tensor([sure[place] for place in order])[:, None] * torch.nn.functional.one_hot(after, 3)
        candidate, reference = table(logits, before), table(torch.eye(3)[before], before)
        assert risk_coverage(candidate, reference).area == pytest.approx(expected, abs=1e-12)


def test_threshold_on_the_given_data_is_the_mildest_that_holds():
    candidate, reference = noisy()
    found = abstention_threshold(candidate, reference, min_agreement=0.95, confidence=None)
    curve = risk_coverage(candidate, reference)
    holding = [float(c) for c, r in zip(curve.coverage, curve.risk, strict=True) if 1 - float(r) >= 0.95]
    assert found.coverage == pytest.approx(max(holding))
    assert found.agreement >= 0.95
    assert abstention_threshold(candidate, reference, min_agreement=0.5, confidence=None).coverage == 1


def test_a_target_that_nothing_holds_means_never():
    candidate, reference = noisy(noise=30.0)
    found = abstention_threshold(candidate, reference, min_agreement=0.999, confidence=0.95)
    assert found.threshold == math.inf
    assert (found.coverage, found.answered, found.bound) == (0, 0, None)


def test_thresholds_keep_their_promise_on_the_population():
    candidate, reference = noisy(40_000, seed=99, noise=0.7)
    confidence = torch.softmax(candidate.logits.double(), 1).amax(1)
    right = candidate.predictions == reference.predictions
    broken, answered = 0, []
    for run in range(300):
        rows = torch.randperm(40_000, generator=torch.Generator().manual_seed(run))[:400]
        sample = [table(seen.logits[rows], seen.labels[rows]) for seen in (candidate, reference)]
        found = abstention_threshold(*sample, min_agreement=0.9, confidence=0.9)
        above = confidence >= found.threshold
        answered.append(found.coverage)
        broken += bool(above.any()) and float(right[above].double().mean()) < 0.9
    assert broken / 300 <= 0.1 + 3 * math.sqrt(0.09 / 300)
    assert np.mean(answered) > 0.2  # and it does answer


def test_noise_floor_covers_all_ordered_pairs():
    model, data = digits_cnn(), digits()
    seen = [observe(model, data)] + [
        observe(parse_scheme(scheme).compress(model), data) for scheme in ("quantize(int8)", "quantize(int4)")
    ]
    floor = noise_floor(seen, compare_predictions)
    expected = [
        compare_predictions(one, other).metrics["mean_kl"] for one in seen for other in seen if one is not other
    ]
    assert sorted(floor.values["mean_kl"]) == pytest.approx(sorted(expected))
    shown = floor.beside(compare_predictions(seen[1], seen[0])).details["noise_floor"]["mean_kl"]
    assert shown["pairs"] == 6
    assert shown["smallest"] <= shown["mean"] <= shown["largest"]


def test_noise_floor_serves_every_comparison():
    model, data = digits_cnn(), digits()
    seen = [observe(model, data), observe(parse_scheme("quantize(int8)").compress(model), data)]
    floor = noise_floor(seen, compare_boundaries, directions=torch.randn(4, 1, 8, 8), examples=6)
    assert floor.comparison == "boundaries"
    with pytest.raises(InvalidArgumentError, match="boundaries"):
        floor.beside(compare_predictions(*seen))
    with pytest.raises(InvalidArgumentError, match="references"):
        noise_floor(seen[:1], compare_predictions)


@pytest.mark.parametrize(("count", "right", "target"), [(50, 33, 0.66), (50, 41, 0.82), (100, 93, 0.93)])
def test_a_target_that_is_met_exactly_is_met(count, right, target):
    candidate = torch.stack([torch.linspace(3, 1, count), torch.zeros(count)], dim=1)
    reference = candidate.clone()
    reference[right:] = reference[right:].flip(1)
    labels = torch.zeros(count, dtype=torch.int64)
    subjects = (table(logits, labels) for logits in (candidate, reference))
    found = abstention_threshold(*subjects, min_agreement=target, confidence=None)
    assert (found.coverage, found.agreement) == (1, target)
