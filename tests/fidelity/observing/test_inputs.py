"""Inputs of any form, with labels or without: read, selected, digested and given to the model as what they are."""

import collections
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from cp_compress import CompressedDataset, ObservationError, Prune, TaskDataset, Unlabeled, compare, compare_predictions
from cp_compress.fidelity import Requirement, observe
from cp_compress.fidelity.judging.measuring import measure_for
from cp_compress.inputs.distinct import identical_groups
from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.seen import example_digests
from cp_compress.inputs.trees import TensorTree

LEFT, RIGHT = torch.randn(2, 40, 4, generator=torch.Generator().manual_seed(0))


class Sum(nn.Module):
    """Adds two inputs, given by name, by position, or in one object."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.out = nn.Linear(4, 3)

    def forward(self, left, right):
        return self.out(left + right)


class OfOne(Sum):
    def forward(self, given):
        parts = (given["left"], given["right"]) if isinstance(given, dict) else (given.left, given.right)
        return super().forward(*parts)


@dataclasses.dataclass
class Both:
    left: torch.Tensor
    right: torch.Tensor


Example = collections.namedtuple("Example", ["inputs", "label"])


class Batch(collections.UserDict):
    """As what a tokenizer of transformers gives: a mapping that is no dict."""


MODEL, ONE = Sum().eval(), OfOne().eval()
ANSWERS = MODEL(LEFT, RIGHT).detach()
CLASSES = ANSWERS.argmax(1)
ROWS = [{"left": a.tolist(), "right": b} for a, b in zip(LEFT, RIGHT.numpy(), strict=True)]
UNLABELLED = {
    "mapping": (MODEL, {"left": LEFT, "right": RIGHT}),
    "rows of a table": (MODEL, ROWS),
    "mapping of a class": (MODEL, Batch(left=LEFT, right=RIGHT)),
    "tuple": (MODEL, Unlabeled((LEFT, RIGHT))),
    "tensors": (MODEL, Unlabeled(TensorDataset(LEFT, RIGHT))),
    "pairs": (MODEL, Unlabeled(list(zip(LEFT, RIGHT, strict=True)))),
    "loader": (MODEL, Unlabeled(DataLoader(TensorDataset(LEFT, RIGHT), batch_size=3))),
    "one argument": (ONE, {"left": LEFT, "right": RIGHT}),
    "dataclass": (ONE, DataLoader(range(40), collate_fn=lambda rows: Both(LEFT[rows], RIGHT[rows]))),
}
LABELLED = {
    "mapping": (MODEL, {"left": LEFT, "right": RIGHT, "labels": CLASSES}),
    "rows": (MODEL, [{**row, "label": int(label)} for row, label in zip(ROWS, CLASSES, strict=True)]),
    "pair": (MODEL, ({"left": LEFT, "right": RIGHT}, CLASSES)),
    "pairs": (MODEL, [((a, b), int(c)) for a, b, c in zip(LEFT, RIGHT, CLASSES, strict=True)]),
    "tuple": (MODEL, ((LEFT.numpy(), RIGHT.numpy()), CLASSES.numpy())),
    "named pairs": (MODEL, [Example((a, b), int(c)) for a, b, c in zip(LEFT, RIGHT, CLASSES, strict=True)]),
}


@pytest.mark.parametrize("form", UNLABELLED)
def test_trees_without_labels_are_read_in_any_form(form):
    model, data = UNLABELLED[form]
    seen = observe(model, data, batch_size=16)
    torch.testing.assert_close(seen.logits, ANSWERS)
    assert not seen.labeled
    assert len(seen) == 40
    with pytest.raises(ObservationError, match="needs labels, and the data set has none"):
        _ = seen.labels
    part = LabeledData(data).read([3, 1])[0]
    assert torch.equal(part.tensors[0], LEFT[[3, 1]])
    assert torch.equal(part.tensors[1], RIGHT[[3, 1]])


@pytest.mark.parametrize("form", LABELLED)
def test_trees_with_labels_are_read_in_any_form(form):
    model, data = LABELLED[form]
    seen = observe(model, data, batch_size=16)
    assert seen.labeled
    assert torch.equal(seen.labels, CLASSES)
    assert torch.equal(seen.predictions, CLASSES)
    assert observe(model, data, batch_size=16) is seen


@pytest.mark.parametrize(
    "data",
    [LEFT, LEFT.numpy(), list(LEFT), TensorDataset(LEFT), DataLoader(LEFT, batch_size=7), Subset(LEFT, range(40))],
    ids=["tensor", "array", "list", "data set", "loader", "subset"],
)
def test_one_tensor_an_example_is_inputs_alone(data):
    seen = observe(nn.Identity(), data, batch_size=16)
    assert torch.equal(seen.logits, LEFT)
    assert not seen.labeled
    assert seen.data_digest == observe(nn.Identity(), LEFT).data_digest != observe(nn.Identity(), LEFT + 1).data_digest


def test_inputs_alone_can_be_stored():
    images = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    stored = CompressedDataset(images, "jpeg(quality=90)")
    assert observe(nn.Flatten(), stored).logits.shape == (30, 64)
    found = compare(
        nn.Flatten(), nn.Flatten(), images, codec="jpeg(quality=90)", levels=["predictions", "reconstruction"]
    )
    assert "accuracy" not in found["predictions"]
    assert found["reconstruction"]["psnr"] > 20
    with pytest.raises(ObservationError, match="has no labels"):
        _ = stored.labels


def test_without_labels_what_needs_them_is_left_out_and_refused_by_name():
    torch.manual_seed(0)
    reference = nn.Linear(4, 3)
    candidate = Prune(0.5).compress(reference)
    pair = [observe(model, LEFT) for model in (candidate, reference)]
    found = compare_predictions(*pair, slices={"first": range(5)})
    labelled = LEFT, reference(LEFT).argmax(1)
    whole = compare_predictions(
        *(observe(model, labelled) for model in (candidate, reference)), slices={"first": range(5)}
    )
    assert found.metrics == {name: whole.metrics[name] for name in found.metrics}
    left = {"agreement", "cost", "top_k_agreement", "mean_kl", "mean_logit_distance", "min_slice_agreement"}
    assert set(found.metrics) == left
    assert set(found.metrics) < set(whole.metrics)
    assert any("no labels" in note for note in found.notes)
    assert "was_right" not in found.details["flips"][0]
    assert all(change.label == "none" for change in found.examples)
    for text in ("accuracy >= 0.9", "max_class_accuracy_drop <= 0.1", "ece_change <= 0.1"):
        with pytest.raises(
            ObservationError, match=f"{text.partition(' ')[0]} .* needs labels.*give .input, label. pairs"
        ):
            measure_for([Requirement.parse(text)], *pair, compare_predictions)
    assert measure_for([Requirement.parse("agreement >= 0.1")], *pair, compare_predictions).metrics["agreement"] > 0
    with pytest.raises(ObservationError, match="only the reference's examples have labels"):
        compare_predictions(pair[0], observe(reference, labelled))


@pytest.mark.parametrize(("task", "axes"), [("sequence", (5, 3)), ("dense", (3, 2, 2)), ("multi_label", (6,))])
def test_structured_tasks_need_no_labels(task, axes):
    class Many(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.out = nn.Linear(4, int(np.prod(axes)))

        def forward(self, inputs, mask=None):
            return self.out(inputs).unflatten(1, axes)

    reference = Many().eval()
    candidate = Prune(0.5).compress(reference)
    mask = torch.arange(5) < torch.tensor([2, 5] * 20)[:, None]
    data = TaskDataset({"inputs": LEFT, "mask": mask} if task == "sequence" else LEFT, task)
    pair = [observe(model, data) for model in (candidate, reference)]
    found = compare_predictions(*pair)
    same = pair[0].predictions == pair[1].predictions
    shares = [row[keep].double().mean() for row, keep in zip(same, mask, strict=True)] if task == "sequence" else None
    expected = torch.stack(shares).mean() if shares else same.double().flatten(1).mean(1).mean()
    assert found.metrics["agreement"] == pytest.approx(float(expected))
    assert "accuracy" not in found.metrics
    assert "agreement_iou" in found.metrics
    assert not found.details["classes"]


def test_levels_take_trees_or_say_what_they_need():
    candidate = Prune(0.5).compress(MODEL)
    found = compare(candidate, MODEL, {"left": LEFT, "right": RIGHT, "labels": CLASSES}, epsilon=0.1, examples=4)
    assert {"predictions", "embeddings", "outputs", "footprint"} <= set(found)
    for level in ("attributions", "boundaries", "divergence"):
        assert "needs inputs of one tensor, and each example is 2 tensors (left: float32 (4,)" in found.left_out[level]
    plain = compare(candidate, MODEL, {"left": LEFT, "right": RIGHT}, levels=["footprint"])
    assert plain["footprint"]["flops_ratio"] == 1
    encoders = [observe(lambda x, scale=scale: {"states": x[:, :, None] * scale}, LEFT) for scale in (1, 2)]
    left = compare(lambda x: {"states": x[:, :, None] * 2}, lambda x: {"states": x[:, :, None]}, LEFT).left_out
    assert "name the one that is compared by output=" in left["predictions"]
    assert not encoders[0].gives_logits


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=8), st.integers(1, 4), st.booleans())
def test_digests_know_neither_padding_nor_batches(lengths, size, left):
    rows = [torch.arange(length) + place for place, length in enumerate(lengths)]

    def padded(width):
        def collate(given):
            wide = max(width, *map(len, given))
            pads = [((wide - len(row), 0) if left else (0, wide - len(row))) for row in given]
            ids = torch.stack([nn.functional.pad(row, pad) for row, pad in zip(given, pads, strict=True)])
            ones = [nn.functional.pad(torch.ones_like(row), pad) for row, pad in zip(given, pads, strict=True)]
            return {"input_ids": ids, "attention_mask": torch.stack(ones)}

        return LabeledData(DataLoader(rows, collate_fn=collate))

    short, wide = padded(0), padded(9)
    assert short.digest(size) == wide.digest(64)
    assert example_digests(short, size) == example_digests(wide)
    assert torch.equal(identical_groups(short, size), identical_groups(wide))
    distinct = len({tuple(row.tolist()) for row in rows})
    assert len(set(example_digests(wide))) == int(identical_groups(wide).max()) + 1 == distinct


def test_trees_keep_their_form():
    Pair = collections.namedtuple("Pair", ["a", "b"])
    nested = {"x": [LEFT, (RIGHT, None)], "y": Pair(LEFT, RIGHT), "z": Both(LEFT, RIGHT)}
    tree = TensorTree(nested)
    assert tree.names == ("x.0", "x.1.0", "y.a", "y.b", "z.left", "z.right")
    part = tree[2:5].value
    assert isinstance(part["y"], Pair)
    assert isinstance(part["z"], Both)
    assert part["x"][1][1] is None
    assert torch.equal(part["z"].right, RIGHT[2:5])
    assert isinstance(part["x"], list)
    assert isinstance(part["x"][1], tuple)


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (MODEL, (LEFT, RIGHT), r"or Unlabeled\(\(first, second\)\) for two inputs without labels"),
        (MODEL, {"left": LEFT, "right": RIGHT[:5]}, "the first dimension of each must be the examples"),
        (MODEL, {"left": LEFT, "right": RIGHT, "extra": LEFT}, "leave 'extra' out of the examples"),
        (MODEL, {"left": LEFT}, "the model needs right, and the inputs are 1 tensor"),
        (
            MODEL,
            [{"left": LEFT[0], "text": "a"}] * 3,
            "'text' of the inputs is text; a model's inputs are tensors",
        ),
        (MODEL, {"left": LEFT, "text": ["a"] * 40}, "'text' of the inputs is text"),
        (MODEL, [(LEFT[0], RIGHT[0], 1)] * 3, "has 3 parts; give ..first, second., label."),
        (MODEL, {"train": [1]} | {"split": "train"}, "must hold tensors .n, .... by name, and 'split' is a str"),
        (MODEL, [{"left": LEFT[0, :2]}, {"left": LEFT[0]}], "padded by the collate_fn of a DataLoader"),
        (MODEL, {"left": LEFT, "right": RIGHT, "label": CLASSES, "labels": CLASSES}, "labels and label: one of them"),
        (nn.Identity(), torch.tensor(1.0), "a tensor without dimensions"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_remedy(model, data, message):
    with pytest.raises(ObservationError, match=message):
        _ = observe(model, data).logits


def test_batches_of_transformers_are_read():
    transformers = pytest.importorskip("transformers")
    encoding = transformers.BatchEncoding({"left": LEFT, "right": RIGHT})
    assert torch.equal(observe(MODEL, encoding).predictions, CLASSES)
