"""Several labels, a class at each place, tokens: every metric against scikit-learn and brute force."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, jaccard_score, recall_score
from structured_subjects import SUBJECTS, Segmenter, Tagger, answers
from torch import nn

from cp_compress import Quantize, TaskDataset
from cp_compress.base.errors import InvalidArgumentError, ObservationError
from cp_compress.examples import digits
from cp_compress.fidelity import (
    Requirement,
    benign_directions,
    class_gradient_directions,
    compare_attributions,
    compare_boundaries,
    compare_embeddings,
    compare_predictions,
    gate_directions,
    judge,
    observe,
    search_boundaries,
    worst_case_directions,
)
from cp_compress.fidelity.boundaries.blocks import gate_blocks
from cp_compress.fidelity.varying.layers import vary
from cp_compress.model import parse_scheme


def test_predictions_are_those_of_the_models():
    for task, subject in SUBJECTS.items():
        model, data = subject()
        seen = observe(model, data)
        with torch.no_grad():
            output = model(torch.stack([data[index][0] for index in range(len(data))]))
        expected = {
            "multi_label": lambda found: (found > 0).long(),
            "dense": lambda found: found["out"].argmax(1),
            "sequence": lambda found: found.argmax(2),
        }[task](output)
        assert torch.equal(seen.predictions, expected)
        assert seen.task == task


@pytest.mark.parametrize("task", ["dense", "sequence"])
def test_places_by_scikit_learn(task):
    candidate, reference = answers(task)
    found = compare_predictions(candidate, reference)
    truth = reference.labels.flatten(1).numpy()
    before, after = (seen.predictions.flatten(1).numpy() for seen in (reference, candidate))
    rows = [row for row in range(len(truth)) if (truth[row] != -100).any()]
    valid = [truth[row] != -100 for row in rows]
    shares = [
        [accuracy_score(a[row][mask], b[row][mask]) for row, mask in zip(rows, valid, strict=True)]
        for a, b in ((before, after), (truth, before), (truth, after))
    ]
    metrics = found.metrics
    assert metrics["agreement"] == pytest.approx(np.mean(shares[0]))
    assert metrics["exact_agreement"] == pytest.approx(np.mean(np.array(shares[0]) == 1))
    assert metrics["reference_accuracy"] == pytest.approx(np.mean(shares[1]))
    assert metrics["accuracy_drop"] == pytest.approx(np.mean(shares[1]) - np.mean(shares[2]))
    mask = truth != -100
    for name, pair in {
        "mean_class_iou": (truth, after),
        "reference_mean_class_iou": (truth, before),
        "agreement_iou": (before, after),
    }.items():
        assert metrics[name] == pytest.approx(jaccard_score(pair[0][mask], pair[1][mask], average="macro"))
    drops = []
    for index in np.unique(truth[mask]):
        holding = [row for row in range(len(truth)) if (truth[row] == index).any()]
        held = np.equal(truth[holding].T, index)
        recalls = [recall_score(held, np.equal(one[holding].T, index), average=None) for one in (before, after)]
        drops.append(float((recalls[0] - recalls[1]).mean()))
    assert metrics["max_class_accuracy_drop"] == pytest.approx(max(drops))
    assert found.counts["agreement"] == len(rows)
    changed = sum(flip["count"] for flip in found.details["flips"])
    assert changed == int(((before != after) & mask).sum()) > 0


def test_of_many_classes_logits_are_compared_as_of_few():
    logits = torch.randn(2, 6, 7, 5000, generator=torch.Generator().manual_seed(0)).mul_(4)
    targets = logits[0].argmax(2)
    targets[1, 3:], targets[2] = -100, -100
    data = TaskDataset((torch.arange(6)[:, None], targets), "sequence")
    candidate, reference = (observe(lambda rows, kept=kept: kept[rows[:, 0]], data) for kept in (logits[1], logits[0]))
    found = compare_predictions(candidate, reference)
    old, new = (torch.log_softmax(kept.double(), dim=2) for kept in logits)
    apart = (logits[1] - logits[1].mean(2, keepdim=True)) - (logits[0] - logits[0].mean(2, keepdim=True))
    counts = targets != -100
    for name, expected in {"kl": (old.exp() * (old - new)).sum(2), "logit_distance": apart.norm(dim=2)}.items():
        means = (expected * counts).sum(1) / counts.sum(1)
        torch.testing.assert_close(
            found.per_example[name],
            means.double(),
            rtol=1e-5 if name == "logit_distance" else 2e-6,
            atol=2e-6,
            equal_nan=True,
        )


def test_several_labels_by_scikit_learn():
    candidate, reference = answers("multi_label")
    metrics = compare_predictions(candidate, reference).metrics
    truth, before, after = (one.numpy() for one in (reference.labels, reference.predictions, candidate.predictions))
    assert metrics["exact_agreement"] == pytest.approx(accuracy_score(before, after))
    assert metrics["agreement"] == pytest.approx((before == after).mean())
    assert metrics["accuracy"] == pytest.approx((truth == after).mean())
    assert metrics["mean_class_iou"] == pytest.approx(jaccard_score(truth, after, average="macro"))
    drops = [accuracy_score(truth[:, k], before[:, k]) - accuracy_score(truth[:, k], after[:, k]) for k in range(5)]
    assert metrics["max_class_accuracy_drop"] == pytest.approx(max(drops))
    assert metrics["mean_class_iou_drop"] == pytest.approx(
        jaccard_score(truth, before, average="macro") - jaccard_score(truth, after, average="macro")
    )


@pytest.mark.parametrize("task", list(SUBJECTS))
@pytest.mark.parametrize("scheme", ["prune(density=0.4)", "quantize(float16)", "quantize(int8)"])
def test_schemes_serve_every_task(task, scheme):
    candidate, reference = answers(task, scheme)
    found = compare_predictions(candidate, reference)
    assert 0.3 < found.metrics["agreement"] <= 1
    check = judge(found, [Requirement("agreement", "min", 0.2, confidence=0.95)])
    assert check.passed
    assert check.results[0].interval.low < found.metrics["agreement"]


def test_confidence_counts_examples_and_not_places():
    candidate, reference = answers("dense")
    found = compare_predictions(candidate, reference)
    assert found.evidence["agreement"].count == 59


def test_embeddings_serve_every_task():
    candidate, reference = answers("dense")
    found = compare_embeddings(candidate, reference, "hidden")
    assert 0 < found.metrics["cka"] < 1
    assert found.counts["hardness_change"] == 0


@pytest.mark.parametrize("compare", [compare_attributions, compare_boundaries])
def test_what_needs_one_class_says_so(compare):
    with pytest.raises(ObservationError, match="one class per example"):
        compare(*answers("dense"))


@pytest.mark.parametrize("task", ["multi_label", "dense", "sequence"])
def test_directions_need_one_class_before_the_model_is_asked(task):
    def model(inputs):
        raise AssertionError("asked")

    data = TaskDataset((torch.rand(4, 1, 8, 8), torch.zeros(4, 8, dtype=torch.int64)), task)
    seen = observe(model, data)
    makers = class_gradient_directions, worst_case_directions, benign_directions, gate_directions
    for make in (*makers, lambda seen: gate_blocks(vary(seen, torch.arange(4), owner="test", purpose="a test"))):
        with pytest.raises(ObservationError, match=f"{task} task: this comparison needs one class per example"):
            make(seen)
    with pytest.raises(ObservationError, match="one class per example"):
        search_boundaries(seen.runner, torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 8), max_distance=1.0)


def test_costs_need_one_class():
    with pytest.raises(InvalidArgumentError, match="one class per example"):
        compare_predictions(*answers("sequence"), weights={0: 2.0})


@pytest.mark.parametrize(
    ("task", "targets", "message"),
    [
        ("dense", torch.zeros(60, dtype=torch.int64), "takes"),
        ("dense", torch.zeros(60, 4, 4, dtype=torch.int64), "the targets have shape"),
        ("dense", torch.full((60, 8, 8), 7), "outside 0 to 2"),
        ("dense", torch.full((60, 8, 8), 0.5), "whole numbers"),
        ("sequence", torch.zeros(60, 8, 8, dtype=torch.int64), "takes"),
        ("multi_label", torch.zeros(60, 3, dtype=torch.int64), "takes"),
    ],
)
def test_targets_that_do_not_fit(task, targets, message):
    images = torch.stack([digits()[index][0] for index in range(60)])
    with pytest.raises(ObservationError, match=message):
        observe(Segmenter().eval(), TaskDataset((images, targets), task)).predictions  # noqa: B018


def test_unknown_tasks_are_refused():
    with pytest.raises(InvalidArgumentError, match="task"):
        TaskDataset((torch.zeros(2, 3), torch.zeros(2, 3)), "regression")


def test_a_classifier_of_sequences_is_single_label():
    class Classifier(Tagger):
        def forward(self, tokens):
            return super().forward(tokens)[:, -1]

    torch.manual_seed(3)
    data = torch.randint(0, 20, (50, 12)), torch.arange(50) % 4
    model = Classifier().eval()
    found = compare_predictions(observe(parse_scheme("quantize(int8)").compress(model), data), observe(model, data))
    assert found.metrics["agreement"] > 0.8


@pytest.mark.parametrize("task", list(SUBJECTS))
def test_different_targets_name_the_first_example(task):
    model, data = SUBJECTS[task]()
    other = SUBJECTS[task]()[1]
    targets = other.dataset.tensors[1]
    targets[7] = 1 - targets[7].clamp(0, 1)
    with pytest.raises(ObservationError, match="different labels, first at example #7"):
        compare_predictions(observe(model, other), observe(model, data))


def test_targets_of_different_shapes_are_refused():
    model = nn.Conv2d(1, 3, 1)
    large, small = (
        TaskDataset((torch.rand(4, 1, side, side), torch.zeros(4, side, side).long()), "dense") for side in (6, 4)
    )
    with pytest.raises(ObservationError, match=r"different labels, of shapes \(4, 6, 6\) and \(4, 4, 4\)"):
        compare_predictions(observe(model, large), observe(model, small))


@pytest.mark.parametrize(
    ("task", "inputs", "targets"),
    [("dense", (5, 1, 4, 4), (5, 4, 4)), ("sequence", (5, 4, 1), (5, 4))],
)
def test_one_class_is_no_choice(task, inputs, targets):
    data = TaskDataset((torch.randn(inputs), torch.zeros(targets).long()), task)
    with pytest.raises(ObservationError, match="two classes or more"):
        observe(lambda batch: batch, data).predictions  # noqa: B018


@pytest.mark.parametrize("task", ["dense", "sequence"])
def test_logits_at_places_are_compared_as_those_of_examples(task):
    candidate, reference = answers(task)
    found = compare_predictions(candidate, reference)
    counts = reference.labels != -100
    was, now = (seen.predictions == reference.labels for seen in (reference, candidate))
    logits = [seen.logits.double().movedim(1, -1) for seen in (candidate, reference)]
    mine, theirs = (one.log_softmax(-1) for one in logits)
    mine_centred, theirs_centred = (one - one.mean(-1, keepdim=True) for one in logits)
    expected = {
        "newly_wrong": (was & ~now).double(),
        "newly_right": (~was & now).double(),
        "mean_kl": torch.nn.functional.kl_div(mine, theirs, log_target=True, reduction="none").sum(-1),
        "mean_logit_distance": (mine_centred - theirs_centred).norm(dim=-1),
    }
    for name, values in expected.items():
        each = [float(row[mask].mean()) for row, mask in zip(values, counts, strict=True) if mask.any()]
        assert found.metrics[name] == pytest.approx(np.mean(each)), name
    assert found.metrics["newly_wrong"] - found.metrics["newly_right"] == pytest.approx(found.metrics["accuracy_drop"])
    assert judge(found, [Requirement("newly_wrong", "max", 1.0, confidence=0.95)]).passed


def test_several_labels_have_newly_wrong_ones_too():
    candidate, reference = answers("multi_label")
    found = compare_predictions(candidate, reference)
    lost = (reference.predictions == reference.labels) & (candidate.predictions != reference.labels)
    assert found.metrics["newly_wrong"] == pytest.approx(float(lost.double().mean()))
    assert "mean_kl" not in found.metrics


@pytest.mark.parametrize("task", list(SUBJECTS))
def test_slices_are_of_whole_examples(task):
    candidate, reference = answers(task)
    found = compare_predictions(candidate, reference, slices={"first": list(range(10)), "rest": list(range(10, 50))})
    same = found.per_example["same"]
    shares = [float(same[part].nanmean()) for part in (slice(0, 10), slice(10, 50))]
    assert found.metrics["min_slice_agreement"] == pytest.approx(min(shares))
    assert [row["slice"] for row in found.details["slices"]] == ["first", "rest"]
    drops = [row["drop"] for row in found.details["slices"]]
    assert found.metrics["max_slice_accuracy_drop"] == max(drops)
    counts = [row["count"] for row in found.details["slices"]]
    assert found.counts["min_slice_agreement"] == counts[shares.index(min(shares))]


def test_a_slice_without_answers_is_refused():
    with pytest.raises(
        InvalidArgumentError, match=r"slices\['none'\]=\[3\]\): all positions of its examples are ignored"
    ):
        compare_predictions(*answers("dense"), slices={"none": [3]})


@pytest.mark.parametrize(("size", "step"), [((16, 24), 4), ((13, 17), 4), ((12,), 2)])
def test_coarser_logits_are_brought_to_the_targets_as_post_processing_does(size, step):
    kind = nn.Conv2d if len(size) == 2 else nn.Conv1d
    mode = "bilinear" if len(size) == 2 else "linear"

    class Coarse(nn.Module):
        def __init__(self, whole):
            super().__init__()
            torch.manual_seed(0)
            self.body, self.whole = kind(3, 4, step, stride=step, padding=step // 2), whole

        def forward(self, inputs):
            logits = self.body(inputs)
            if self.whole:
                return nn.functional.interpolate(logits, size, mode=mode, align_corners=False)
            return {"logits": logits}

    generator = torch.Generator().manual_seed(0)
    inputs, targets = (
        torch.randn(30, 3, *size, generator=generator),
        torch.randint(0, 4, (30, *size), generator=generator),
    )
    data = TaskDataset((inputs, targets), "dense")
    found = []
    for whole in (False, True):
        reference = Coarse(whole).eval()
        candidate = Quantize("int4").compress(reference)
        found.append(
            compare_predictions(observe(candidate, data, batch_size=7), observe(reference, data, batch_size=7))
        )
    assert found[0].metrics == pytest.approx(found[1].metrics, nan_ok=True)
    assert found[0].metrics["agreement"] < 1
    assert "are brought to the targets' " + "×".join(map(str, size)) in found[0].notes[1]
    assert not any("brought" in note for note in found[1].notes)
