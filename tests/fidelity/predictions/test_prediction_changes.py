"""What level A measures beside agreement: against brute force, torch and published definitions."""

import numpy as np
import pytest
import torch
from torch import nn

from cp_compress.base.errors import InvalidArgumentError, ObservationError
from cp_compress.fidelity import (
    Measurement,
    Requirement,
    compare_predictions,
    expected_calibration_error,
    judge,
    observe,
)
from cp_compress.fidelity.judging.measurement import LONGEST_TABLE
from cp_compress.fidelity.predictions.output_changes import kind_of_outputs
from cp_compress.inputs.tasks import TaskDataset


def pair(count=400, classes=6, noise=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    before = 2 * torch.randn(count, classes, generator=generator)
    after = before + noise * torch.randn(count, classes, generator=generator)
    labels = torch.where(torch.rand(count, generator=generator) < 0.7, before.argmax(1), torch.arange(count) % classes)
    inputs = torch.arange(count).float()[:, None]

    def table(values):
        return lambda rows: values[rows[:, 0].long()]

    return observe(table(after), (inputs, labels)), observe(table(before), (inputs, labels))


def test_flips_beside_truth_by_brute_force():
    candidate, reference = pair()
    found = compare_predictions(candidate, reference)
    rows = zip(reference.predictions.tolist(), candidate.predictions.tolist(), reference.labels.tolist(), strict=True)
    expected = {}
    for before, after, label in rows:
        if before != after:
            entry = expected.setdefault((str(before), str(after)), [0, 0, 0])
            entry[0 if label == before else 1 if label == after else 2] += 1
    flips = {(flip["before"], flip["after"]): flip for flip in found.details["flips"]}
    assert flips.keys() == expected.keys()
    for pair_of_classes, counts in expected.items():
        flip = flips[pair_of_classes]
        assert [flip["was_right"], flip["is_right"], flip["never_right"]] == counts
        assert flip["count"] == sum(counts)
    rows = zip(reference.predictions.tolist(), candidate.predictions.tolist(), reference.labels.tolist(), strict=True)
    wrong = [index for index, (before, after, label) in enumerate(rows) if before == label != after]
    assert found.details["newly_wrong"] == wrong
    assert found.metrics["newly_wrong"] == len(wrong) / 400
    assert found.metrics["accuracy_drop"] == pytest.approx(
        found.metrics["newly_wrong"] - found.metrics["newly_right"], abs=1e-12
    )


def test_output_distances_are_those_of_torch():
    candidate, reference = pair()
    metrics = compare_predictions(candidate, reference).metrics
    mine, theirs = (nn.functional.log_softmax(seen.logits.double(), 1) for seen in (candidate, reference))
    expected = nn.functional.kl_div(mine, theirs, reduction="batchmean", log_target=True)
    assert metrics["mean_kl"] == pytest.approx(float(expected))
    moved = (candidate.logits - reference.logits).double()
    assert metrics["mean_logit_distance"] == pytest.approx(
        float((moved - moved.mean(1, keepdim=True)).norm(dim=1).mean())
    )


def test_top_k_by_sets():
    candidate, reference = pair()
    for count in (1, 3, 50):
        k = min(count, 5)
        before, after = (seen.logits.argsort(1, descending=True)[:, :k].tolist() for seen in (reference, candidate))
        expected = np.mean([len(set(a) & set(b)) / k for a, b in zip(before, after, strict=True)])
        found = compare_predictions(candidate, reference, top_k=count)
        assert found.metrics["top_k_agreement"] == pytest.approx(expected)
        assert found.details["top_k"] == k
    one = compare_predictions(candidate, reference, top_k=1).metrics
    assert one["top_k_agreement"] == pytest.approx(one["agreement"])


def test_calibration_error_by_brute_force():
    candidate, reference = pair()
    errors = []
    for seen in (reference, candidate):
        probabilities = torch.softmax(seen.logits.double(), 1).numpy()
        confidence, right = probabilities.max(1), probabilities.argmax(1) == seen.labels.numpy()
        total = 0.0
        for low in range(15):
            inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
            if inside.any():
                total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
        errors.append(total)
        assert expected_calibration_error(seen.logits, seen.labels) == pytest.approx(total)
    found = compare_predictions(candidate, reference)
    assert found.metrics["ece_change"] == pytest.approx(errors[1] - errors[0])


@pytest.mark.parametrize("bins", [0, -1, 1.5])
def test_calibration_needs_a_bin(bins):
    with pytest.raises(InvalidArgumentError, match=r"expected_calibration_error\(bins=.*1 or more"):
        expected_calibration_error(torch.eye(2), torch.arange(2), bins)


def test_slices_by_mask_and_by_index():
    candidate, reference = pair()
    mask = reference.labels < 2
    found = compare_predictions(
        candidate, reference, slices={"first": mask, "last": torch.arange(300, 400), "listed": [3, 5, 8]}
    )
    same = (candidate.predictions == reference.predictions).double()
    rows = {row["slice"]: row for row in found.details["slices"]}
    assert rows["first"]["agreement"] == pytest.approx(float(same[mask].mean()))
    assert rows["last"]["count"] == 100
    assert found.metrics["min_slice_agreement"] == min(row["agreement"] for row in rows.values())
    assert found.metrics["max_slice_accuracy_drop"] == max(row["drop"] for row in rows.values())
    lowest = min(rows.values(), key=lambda row: (row["agreement"], row["count"]))
    largest = min(rows.values(), key=lambda row: (-row["drop"], row["count"]))
    assert found.counts["min_slice_agreement"] == lowest["count"] < 400
    assert found.counts["max_slice_accuracy_drop"] == largest["count"] < 400
    check = judge(found, [Requirement("min_slice_agreement", "min", 0.999, confidence=0.95)])
    assert [group.group for group in check.results[0].groups] == ["first", "last", "listed"]


@pytest.mark.parametrize(
    "slices",
    [{}, {"none": torch.zeros(400, dtype=torch.bool)}, {"short": torch.ones(3, dtype=torch.bool)}, {"far": [400]}, [1]],
)
def test_slices_that_hold_nothing_are_refused(slices):
    candidate, reference = pair()
    with pytest.raises(InvalidArgumentError):
        compare_predictions(candidate, reference, slices=slices)


@pytest.mark.parametrize("top_k", [0, -1, 1.5, True])
def test_top_k_is_a_whole_number(top_k):
    candidate, reference = pair()
    with pytest.raises(InvalidArgumentError, match="top_k"):
        compare_predictions(candidate, reference, top_k=top_k)


@pytest.fixture
def linear_pair():
    torch.manual_seed(0)
    reference, data = torch.nn.Linear(6, 4), (torch.randn(300, 6), torch.arange(300) % 4)
    candidate = torch.nn.Linear(6, 4)
    candidate.weight.data = reference.weight.data + 0.05 * torch.randn(4, 6)
    candidate.bias.data = reference.bias.data.clone()
    return candidate, reference, data


def test_probabilities_are_compared_by_their_logarithms(linear_pair):
    candidate, reference, data = linear_pair
    ended = [torch.nn.Sequential(model, torch.nn.Softmax(1)) for model in (candidate, reference)]
    plain = compare_predictions(observe(candidate, data), observe(reference, data))
    found = compare_predictions(*(observe(model, data) for model in ended))
    for name in ("mean_kl", "mean_logit_distance", "ece_change", "agreement"):
        assert found.metrics[name] == pytest.approx(plain.metrics[name], rel=1e-4, abs=1e-7)
    assert "probabilities" in found.notes[0]
    assert not plain.notes
    for pair in ((ended[0], reference), (candidate, ended[1])):
        with pytest.raises(ObservationError, match=r"gives probabilities .* gives logits"):
            compare_predictions(*(observe(model, data) for model in pair))


def test_logits_that_sum_to_one_in_most_rows_are_logits():
    rows = torch.softmax(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    assert kind_of_outputs(rows) == "probabilities"
    assert kind_of_outputs(rows.half().float()) == "probabilities"
    assert kind_of_outputs(torch.eye(3)) == "either"
    rows[7, 0] += 0.5
    assert kind_of_outputs(rows) == "logits"


def test_labels_with_probabilities_in_the_place_of_logits_are_refused():
    generator = torch.Generator().manual_seed(0)
    data = TaskDataset((torch.randn(40, 3, generator=generator), torch.ones(40, 3, dtype=torch.long)), "multi_label")
    seen = [observe(torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Sigmoid()), data) for _ in range(2)]
    with pytest.raises(ObservationError, match="leave out the sigmoid"):
        compare_predictions(*seen)


def test_memory_grows_with_the_classes_and_not_with_their_square():
    classes = 30_000
    inputs = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    data = (inputs, torch.arange(20))
    models = [torch.nn.Linear(2, classes) for _ in range(2)]
    seen = [observe(model, data) for model in models]
    with torch.profiler.profile(profile_memory=True) as profile:
        found = compare_predictions(*seen)
    assert max(event.cpu_memory_usage for event in profile.events()) < 20 * 20 * classes * 8
    assert found.metrics["cost"] == pytest.approx(1 - found.metrics["agreement"])


def test_records_of_many_classes_hold_the_worst_of_them():
    rows = [{"class": str(index), "drop": index / 1000} for index in range(1000)]
    told = Measurement("predictions", {}, {}, details={"classes": rows}).to_json()["details"]
    assert len(told["classes"]) == LONGEST_TABLE
    assert told["classes"][0]["class"] == "999"
    assert told["left_out"] == {"classes": 1000 - LONGEST_TABLE}


def test_small_classes_have_no_part_in_the_worst_class_where_that_is_asked(linear_pair):
    candidate, reference, (inputs, _) = linear_pair
    data = (inputs, torch.tensor([0] * 3 + [1] * 97 + [2] * 200))
    seen = [observe(model, data) for model in (candidate, reference)]
    found = compare_predictions(*seen, min_class_examples=10)
    assert found.evidence["max_class_accuracy_drop"].names == ("1", "2")
    assert "no part in max_class_accuracy_drop: 0" in found.notes[0]
    with pytest.raises(InvalidArgumentError, match="the largest class has 200"):
        compare_predictions(*seen, min_class_examples=1000)
