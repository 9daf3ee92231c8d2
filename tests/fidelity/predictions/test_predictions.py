"""Level A against counts made by hand and by scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import accuracy_score, confusion_matrix
from torch.utils.data import DataLoader, Subset

from cp_compress.base.errors import InvalidArgumentError, ObservationError
from cp_compress.data import JPEG, ZFP, CoefficientDataset, CompressedDataset
from cp_compress.examples import digits, digits_cnn
from cp_compress.fidelity import Requirement, compare_predictions, judge, observe
from cp_compress.search import PreserveCost

CLASSES = 4


def table(predictions):
    """Return a "model" that answers example i (whose input is i) with the i-th prediction."""
    logits = torch.nn.functional.one_hot(torch.as_tensor(predictions), CLASSES).float()
    return lambda inputs: logits[inputs[:, 0].long()]


def compare(before, after, labels, **options):
    data = (torch.arange(len(labels))[:, None].float(), torch.as_tensor(labels))
    return compare_predictions(observe(table(after), data), observe(table(before), data), **options)


triples = arrays.arrays(int, st.tuples(st.just(3), st.integers(1, 40)), elements=st.integers(0, CLASSES - 1))


@given(triples)
def test_metrics_are_those_of_scikit_learn(rows):
    before, after, labels = rows
    found = compare(before, after, labels)
    assert found.metrics["agreement"] == pytest.approx(accuracy_score(before, after))
    assert found.metrics["accuracy"] == pytest.approx(accuracy_score(labels, after))
    drop = accuracy_score(labels, before) - accuracy_score(labels, after)
    assert found.metrics["accuracy_drop"] == pytest.approx(drop)
    present = set(labels.tolist())
    drops = [
        accuracy_score(labels[labels == k], before[labels == k])
        - accuracy_score(labels[labels == k], after[labels == k])
        for k in present
    ]
    assert found.metrics["max_class_accuracy_drop"] == pytest.approx(max(drops))
    assert found.metrics["cost"] == pytest.approx(1 - found.metrics["agreement"])
    flips = {(int(f["before"]), int(f["after"])): f["count"] for f in found.details["flips"]}
    matrix = confusion_matrix(before, after, labels=range(CLASSES))
    expected = {(i, j): n for (i, j), n in zip(*_entries(matrix), strict=True) if i != j and n}
    assert flips == expected


def _entries(matrix):
    indices = [(i, j) for i in range(CLASSES) for j in range(CLASSES)]
    return indices, [int(matrix[index]) for index in indices]


def test_accuracy_hides_what_classes_show():
    labels = [0] * 10 + [1] * 10
    before = [0] * 9 + [1] + [1] * 5 + [0] * 5
    after = [0] * 4 + [1] * 6 + [1] * 10
    found = compare(before, after, labels)
    assert found.metrics["accuracy_drop"] == 0
    assert found.metrics["max_class_accuracy_drop"] == pytest.approx(0.5)
    rows = {row["class"]: row for row in found.details["classes"]}
    assert rows["0"]["drop"] == pytest.approx(0.5)
    assert rows["1"]["drop"] == pytest.approx(-0.5)


def test_cost_of_a_matrix_and_weights():
    distance = torch.arange(16.0).view(4, 4)
    distance.fill_diagonal_(0)
    found = compare([0, 1, 2], [3, 1, 0], [0, 1, 2], class_distance=distance, weights=[1.0, 2.0, 5.0])
    assert found.metrics["cost"] == pytest.approx((1 * 3 + 5 * 8) / 8)


def test_cost_of_groups_counts_crossings_only():
    groups = {"animals": [0, 1], "vehicles": [2, 3]}
    found = compare([0, 0, 2, 3], [1, 2, 3, 0], [0, 0, 0, 0], class_distance=groups)
    assert found.metrics["cost"] == pytest.approx(0.5)
    assert found.metrics["agreement"] == 0


def test_weights_of_classes():
    found = compare([0, 1], [1, 1], [0, 1], weights={0: 3.0})
    assert found.metrics["cost"] == pytest.approx(0.75)


@pytest.mark.parametrize("number", [np.int64, np.uint8, torch.tensor])
def test_classes_may_be_numbers_of_numpy_and_torch(number):
    assert compare([0, 1], [1, 1], [0, 1], weights={number(0): 3.0}).metrics["cost"] == pytest.approx(0.75)
    groups = {"a": [number(0), number(1)], "b": torch.tensor([2]), "c": np.array([3])}
    assert compare([0, 0, 2], [1, 2, 3], [0, 0, 0], class_distance=groups).metrics["cost"] == pytest.approx(2 / 3)
    for wrong in (number(7), True, torch.tensor(True), 1.0):
        with pytest.raises(InvalidArgumentError, match="not a class"):
            compare([0, 1], [1, 1], [0, 1], weights={wrong: 3.0})


def test_no_claim_is_made_from_unequal_weights():
    equal = compare([0, 1], [1, 1], [0, 1], weights=[2.0, 2.0])
    assert equal.evidence["cost"].interval(0.9) == compare([0, 1], [1, 1], [0, 1]).evidence["cost"].interval(0.9)
    unequal = compare([0, 1], [1, 1], [0, 1], weights={0: 3.0})
    assert unequal.counts["cost"] == round(16 / 10)
    with pytest.raises(InvalidArgumentError, match="no claim about the population"):
        judge(unequal, [Requirement("cost", "max", 0.9, confidence=0.95)])


def test_examples_list_the_costliest_flips_first():
    distance = 1 - torch.eye(4)
    distance[2, 3] = 9
    found = compare([0, 1, 2, 3], [1, 1, 3, 3], [0, 1, 2, 3], class_distance=distance)
    assert [(change.index, change.before, change.after) for change in found.examples] == [(2, "2", "3"), (0, "0", "1")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_distance": torch.ones(4, 4)}, "0 from a class to itself"),
        ({"class_distance": torch.zeros(4, 4)}, "no change would cost"),
        ({"class_distance": 1 - torch.eye(3)}, r"shape \(4, 4\)"),
        ({"class_distance": -torch.ones(4, 4).fill_diagonal_(0)}, "not negative"),
        ({"class_distance": {"a": [0, 1], "b": [2]}}, "classes 3 are in no group"),
        ({"class_distance": {"a": [0, 1], "b": [1, 2, 3]}}, "in two groups"),
        ({"class_distance": {"a": [0, 1, 2, 3]}}, "single group"),
        ({"class_distance": {"a": [0, 1], "b": [2, 7]}}, "not a class"),
        ({"class_distance": {"a": [0, 1, 2, 3], "b": []}}, r"class_distance\['b'\]=\[\]\): holds no class"),
        ({"class_distance": {"a": [0, 1], "b": torch.tensor([2, 3])[:0], "c": [2, 3]}}, "holds no class"),
        ({"class_distance": {"a": 0, "b": [1, 2, 3]}}, r"class_distance\['a'\]=0\): a group is a list"),
        ({"class_distance": {}}, "single group"),
        ({"weights": [1.0, 2.0, 3.0]}, "one weight per example"),
        ({"weights": [0.0, 0.0]}, "not all 0"),
        ({"weights": [-1.0, 2.0]}, "not negative"),
        ({"weights": {"dog": 2.0}}, "not a class"),
        ({"weights": {0: "x"}}, r"weights\[0\]='x'\): weights must be finite numbers"),
        ({"weights": {0: -1.0}}, "not negative"),
        ({"slices": {"x": ["a"]}}, r"slices\['x'\]=\['a'\]\): give a mask"),
        ({"slices": {1: [0], "1": [2]}}, "two slices have the name 1"),
        ({"slices": {"x": 1}}, r"slices\['x'\]=1\): give a mask"),
        ({"slices": {"x": [1, 1]}}, r"slices\['x'\]=\[1, 1\]\): every index must be given once"),
        ({"slices": {"x": [0.5]}}, r"slices\['x'\]=0.5\): indices must be whole"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        compare([0, 1], [1, 1], [0, 1], **options)


@pytest.mark.parametrize(
    "free", [{"all": range(4), "none": []}, {"all": range(4)}, torch.zeros(4, 4), [[0, 0], [0, 0]]]
)
def test_costs_of_nothing_are_refused_before_a_model_runs(free):
    def model(inputs):
        raise AssertionError("it ran")

    data = torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(InvalidArgumentError, match=r"compare_predictions\(class_distance"):
        compare_predictions(observe(model, data), observe(model, data), class_distance=free)
    with pytest.raises(InvalidArgumentError, match=r"PreserveCost\(class_distance"):
        PreserveCost(0.1, class_distance=free)


def test_other_labels_are_refused():
    inputs = torch.arange(2)[:, None].float()
    model = table([0, 1])
    one, other = observe(model, (inputs, torch.tensor([0, 1]))), observe(model, (inputs, torch.tensor([1, 1])))
    with pytest.raises(ObservationError, match="first at example #0"):
        compare_predictions(other, one)


def test_other_examples_of_the_same_labels_are_refused():
    model, (images, labels) = digits_cnn(), digits().tensors
    original = observe(model, (images, labels))
    turned, first = torch.arange(len(labels)), torch.arange(len(labels))
    for label in range(10):
        places = (labels == label).nonzero()[:, 0]
        turned[places], first[places] = places.roll(1), places[0]
    for order in (turned, first):
        others = images[order]
        stored = CompressedDataset((others, labels), JPEG(95))
        half = others.half().float() if order is turned else others.repeat(1, 3, 1, 1)[:, :1]
        for read in (stored, (half, labels), DataLoader(stored, batch_size=7)):
            assert torch.equal(observe(model, read).labels, original.labels)
            with pytest.raises(ObservationError, match=r"not the same examples in the same order: only \d+% of 64"):
                compare_predictions(observe(model, read), original)


CODECS = (JPEG(1), ZFP(rate=1, layout="2d"), ZFP(precision=2), ZFP(precision=2, layout="2d"), ZFP(tolerance=0.5))
EXAMPLES, MODEL = tuple(part[:128] for part in digits().tensors), digits_cnn()


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_little_left_of_an_example_is_still_the_same_example(codec):
    original = observe(MODEL, EXAMPLES)
    decoded = codec.roundtrip(EXAMPLES[0]), EXAMPLES[1]
    through = DataLoader(Subset(CompressedDataset(EXAMPLES, codec), range(128)), batch_size=50)
    for read in (CompressedDataset(EXAMPLES, codec), decoded, through):
        measured = compare_predictions(observe(MODEL, read), original)  # not refused
        assert len(measured.per_example["after"]) == len(EXAMPLES[1])


def average(batch):
    return torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(batch, 2), scale_factor=2)


@pytest.mark.parametrize(
    "change",
    [
        average,
        lambda batch: (batch - 0.3) / 0.2,
        torch.zeros_like,
        lambda batch: batch * 0 + batch[:1],
        torch.Tensor.half,
    ],
    ids=["smaller", "normalised", "nothing left", "all alike", "half"],
)
def test_changes_of_scale_and_detail_leave_the_same_examples(change):
    images, labels = EXAMPLES
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    original = observe(model, EXAMPLES)
    compare_predictions(observe(lambda batch: model(batch.float()), (change(images), labels)), original)


def test_tokens_and_coefficients_have_no_likeness():
    labels = EXAMPLES[1]
    generator = torch.Generator().manual_seed(0)
    tokens = [torch.randint(0, 50, (128, 8), generator=generator) for _ in range(2)]
    model = torch.nn.Sequential(torch.nn.EmbeddingBag(50, 10, mode="mean"))
    compare_predictions(*(observe(model, (each, labels)) for each in tokens))
    coefficients = CoefficientDataset(EXAMPLES, ZFP(precision=16, layout="2d"), arrangement="image")
    compare_predictions(observe(MODEL, coefficients), observe(MODEL, EXAMPLES))
    other = CoefficientDataset((EXAMPLES[0].roll(1, 0), labels), ZFP(precision=16, layout="2d"), arrangement="image")
    with pytest.raises(ObservationError, match="not the same examples"):
        compare_predictions(observe(MODEL, other), observe(MODEL, EXAMPLES))


def test_examples_that_are_all_alike_cannot_be_told_apart():
    images = torch.full((100, 3), 0.5) + torch.tensor([0.1, 0.2, 0.3])
    seen = [observe(torch.nn.Identity(), (part, torch.arange(100) % 3)) for part in (images, images + 0.25)]
    compare_predictions(*seen)
