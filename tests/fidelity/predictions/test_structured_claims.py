"""Many answers an example: claims about the worst class or slice, flips beside the truth, the origin of damage."""

import collections
import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from structured_subjects import SUBJECTS, answers
from torch import nn
from torch.utils.data import DataLoader

from cp_compress import TaskDataset
from cp_compress.base.errors import InvalidArgumentError, ObservationError
from cp_compress.data import CorruptedDataset
from cp_compress.fidelity import Requirement, compare_predictions, find_origin, judge, observe
from cp_compress.fidelity.judging.intervals import BoundedMean, PairedDrop
from cp_compress.fidelity.origin.stages import find_stages
from cp_compress.model import parse_scheme


@settings(max_examples=12)
@given(
    st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), min_size=1, max_size=60),
    st.floats(-0.95, 0.95),
    st.sampled_from([0.5, 0.8, 0.95]),
)
def test_a_mean_is_proven_exactly_where_its_bound_is(values, bound, confidence):
    sample = BoundedMean.of(np.array(values), -1.0, 1.0)
    interval = sample.interval(confidence)
    more, less = sample.p_values(bound)
    for side, p_value, end in ((1, more, interval.high), (-1, less, interval.low)):
        if abs(end - bound) > 1e-9:
            assert (p_value <= 1 - confidence) == (side * end <= side * bound)


@pytest.mark.parametrize("task", list(SUBJECTS))
def test_claims_about_slices_and_classes(task):
    candidate, reference = answers(task)
    slices = {"first": range(20), "rest": range(20, 60)}
    found = compare_predictions(candidate, reference, slices=slices)
    same, before, after = (found.per_example[name] for name in ("same", "reference_accuracy", "accuracy"))
    for name, members in slices.items():
        kept = [index for index in members if not same[index].isnan()]
        place = list(slices).index(name)
        drop = found.evidence["max_slice_accuracy_drop"].drops[place]
        assert drop.interval(0.9) == BoundedMean.of((before - after)[kept].numpy(), -1.0, 1.0).interval(0.9)
        share = found.evidence["min_slice_agreement"].shares[place]
        assert share.interval(0.9) == BoundedMean.of(same[kept].numpy()).interval(0.9)
    classes = found.evidence["max_class_accuracy_drop"]
    assert classes.names == tuple(row["class"] for row in found.details["classes"])
    assert [drop.value for drop in classes.drops] == pytest.approx([row["drop"] for row in found.details["classes"]])
    claims = [
        Requirement("max_class_accuracy_drop", "max", 0.9, confidence=0.9),
        Requirement("max_slice_accuracy_drop", "max", 0.9, confidence=0.9),
        Requirement("min_slice_agreement", "min", 0.01, confidence=0.9),
    ]
    check = judge(found, claims)
    assert check.passed
    assert [group.group for group in check.results[2].groups] == ["first", "rest"]
    for result, (low, high) in zip(check.results, [(-1, 1), (-1, 1), (0, 1)], strict=True):
        assert low <= result.interval.low <= result.value <= result.interval.high <= high
    refuted = judge(found, [Requirement("max_class_accuracy_drop", "max", -0.9, confidence=0.9)]).results[0]
    assert refuted.outcome == "fail"


def test_classes_of_several_labels_are_paired_drops():
    candidate, reference = answers("multi_label")
    was, now = (seen.predictions == reference.labels for seen in (reference, candidate))
    expected = [
        PairedDrop(int((was & ~now)[:, label].sum()), int((~was & now)[:, label].sum()), len(was)) for label in range(5)
    ]
    found = compare_predictions(candidate, reference)
    assert list(found.evidence["max_class_accuracy_drop"].drops) == expected


def test_claims_about_examples_rarely_err_though_places_go_together():
    # in a share of the images all places of a class turn wrong together: many places, few independent units
    generator = torch.Generator().manual_seed(0)
    errors = 0
    for _ in range(20):
        turned = torch.rand(60, generator=generator) < 0.3
        wrong = turned[:, None, None].expand(60, 3, 3)
        logits = torch.stack([torch.ones(60, 3, 3), 2.0 * wrong], dim=1)
        data = TaskDataset((logits, torch.zeros(60, 3, 3).long()), "dense")
        flat = observe(lambda batch: torch.stack([batch[:, 0], torch.zeros_like(batch[:, 0])], 1), data)
        found = compare_predictions(observe(lambda batch: batch, data), flat)
        errors += found.evidence["max_class_accuracy_drop"].interval(0.9).high < 0.3
    assert errors <= 5  # more than 5 of 20 has a probability of 0.01 at an error of 0.1


@pytest.mark.parametrize("task", list(SUBJECTS))
def test_flips_beside_the_truth_by_counting(task):
    candidate, reference = answers(task)
    found = compare_predictions(candidate, reference)
    truth, before, after = (one.numpy() for one in (reference.labels, reference.predictions, candidate.predictions))
    names = reference.class_names
    expected = collections.defaultdict(lambda: [0, 0, 0])
    lost, gained = set(), set()
    for place in np.ndindex(truth.shape):
        true, old, new = int(truth[place]), int(before[place]), int(after[place])
        if true == -100 or old == new:
            continue
        pair = (names[old], names[new])
        if task == "multi_label":
            name = names[place[1]]
            pair = (name, f"not {name}") if old else (f"not {name}", name)
        expected[pair][0 if true == old else 1 if true == new else 2] += 1
        if true == old:
            lost.add(place[0])
        if true == new:
            gained.add(place[0])
    rows = {
        (row["before"], row["after"]): [row["was_right"], row["is_right"], row["never_right"]]
        for row in found.details["flips"]
    }
    assert rows == dict(expected)
    assert all(row["count"] == sum(rows[row["before"], row["after"]]) for row in found.details["flips"])
    assert found.details["newly_wrong"] == sorted(lost)
    assert found.details["newly_right"] == sorted(gained)


@pytest.mark.parametrize("task", list(SUBJECTS))
def test_origin_counts_answers_that_come_back(task):
    model, data = SUBJECTS[task]()
    broken = copy.deepcopy(model)
    head = broken[2] if task == "multi_label" else broken.head
    reference = observe(model, data)
    usual = 0 if task == "multi_label" else int(reference.predictions.flatten().mode().values)
    head.bias.data[usual] -= 10
    candidate = observe(broken, data)
    found = find_origin(candidate, reference, flips=10_000)
    changed = (candidate.predictions != reference.predictions) & (reference.labels != -100)
    assert found.flips == found.asked == int(changed.sum()) > 0
    assert found.layers[0].name == ("2" if task == "multi_label" else "head")
    assert found.layers[0].restored == found.flips
    few = find_origin(candidate, reference, flips=2)
    rows = changed.flatten(1).sum(1)
    rows = rows[rows > 0]
    assert few.asked == int(rows[0] + rows[-1])  # of the first and the last example with changes


def test_stages_count_answers_too():
    model, data = SUBJECTS["dense"]()
    candidate = parse_scheme("prune(density=0.4) | quantize(int8)").compress(model)
    seen = [observe(one, data) for one in (model, parse_scheme("prune(density=0.4)").compress(model), candidate)]
    stages = find_stages(seen[2], seen[0])
    changed = (seen[2].predictions != seen[0].predictions) & (seen[0].labels != -100)
    second = changed & (seen[1].predictions == seen[0].predictions)
    assert [stage.introduced for stage in stages] == [int((changed & ~second).sum()), int(second.sum())]


@pytest.mark.parametrize("side", ["right", "left"])
def test_origin_of_batches_padded_to_lengths_of_their_own(side):
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(1, 20, (length,), generator=generator) for length in (3, 9, 4, 5, 8, 3, 7, 6)]

    def padded(batch):
        pad = nn.utils.rnn.pad_sequence
        inputs, targets = zip(*batch, strict=True)
        return pad(inputs, True, 0, side), pad(targets, True, -100, side)

    data = TaskDataset(DataLoader([(row, row % 3) for row in rows], collate_fn=padded), "sequence")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 3)).eval()
    broken = copy.deepcopy(model)
    broken[2].weight.data[0] += 2
    found = find_origin(observe(broken, data, batch_size=2), observe(model, data, batch_size=2))
    with torch.no_grad():
        flips = sum(int((model(row).argmax(1) != broken(row).argmax(1)).sum()) for row in rows)
    assert found.flips == found.asked == flips > 0
    assert (found.layers[0].name, found.layers[0].restored) == ("2", flips)


def test_the_usual_ignored_target_is_no_class_where_another_is_given():
    model, data = SUBJECTS["dense"]()
    images, targets = data.dataset.tensors
    targets = targets.clone()
    targets[5, 2] = -100
    for wrap in (lambda one: one, DataLoader):
        with pytest.raises(ObservationError, match=r"contain -100, .*, 255"):
            observe(model, wrap(TaskDataset((images, targets), "dense", ignore_index=255))).labels  # noqa: B018
    spoilt = CorruptedDataset(data, "fog", 1)
    assert torch.equal(spoilt[5][1], data[5][1])
    assert torch.equal(observe(model, spoilt).labels, observe(model, data).labels)


def test_top_k_is_a_whole_number_whatever_the_task():
    with pytest.raises(InvalidArgumentError, match=r"top_k=-3\): must be a whole number of 1 or more"):
        compare_predictions(*answers("multi_label"), top_k=-3)
