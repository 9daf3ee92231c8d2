"""Levels C and D on one of several inputs, on embeddings and tokens, against closed forms, Captum and brute force."""

import itertools

import numpy as np
import pytest
import torch
from captum.attr import FeatureAblation, IntegratedGradients, LayerIntegratedGradients, Occlusion
from torch import nn

from cp_compress.base.errors import InvalidArgumentError, ObservationError
from cp_compress.fidelity import compare_attributions, compare_boundaries, gate_directions, observe
from cp_compress.fidelity.attributions.maps import attribution_maps
from cp_compress.fidelity.attributions.methods.known import as_attribution_method
from cp_compress.fidelity.boundaries.gate_directions import compare_standard_boundaries
from cp_compress.inputs.unlabeled import Unlabeled
from cp_compress.model import Prune

LENGTHS = torch.tensor([3, 12, 7, 5, 9, 4, 6, 12, 8, 10])
COUNT, WIDTH, WORDS, MASK = len(LENGTHS), 12, 30, 2


def padded(width, *, left=False):
    """Return token ids of several lengths, padded by id 0 to a width, on the right or on the left."""
    ids = torch.randint(3, WORDS, (COUNT, WIDTH), generator=torch.Generator().manual_seed(5))
    mask = torch.arange(WIDTH) < LENGTHS[:, None]
    rows = [row[keep] for row, keep in zip(ids, mask, strict=True)]
    blank = [torch.zeros(width - len(row), dtype=torch.int64) for row in rows]
    ones = [torch.ones_like(row) for row in rows]
    ids, marks = (
        [torch.cat((none, row) if left else (row, none)) for none, row in zip(blank, each, strict=True)]
        for each in (rows, ones)
    )
    return {"input_ids": torch.stack(ids), "attention_mask": torch.stack(marks)}


class Words(nn.Module):
    """The mean embedding of the tokens that count, and a linear layer, or a network of two."""

    def __init__(self, hidden=0, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(WORDS, 6)
        self.mix = nn.Sequential(nn.Linear(6, hidden), nn.Tanh(), nn.Linear(hidden, 6)) if hidden else nn.Identity()
        self.head = nn.Linear(6, 4)

    def forward(self, input_ids, attention_mask):
        keep = attention_mask[..., None].float()
        return self.head((self.mix(self.embed(input_ids)) * keep).sum(1) / keep.sum(1))


class OwnMask(nn.Module):
    """The same, of ids alone."""

    def __init__(self, words):
        super().__init__()
        self.words = words

    def forward(self, ids):
        return self.words(input_ids=ids, attention_mask=(ids != 0).long())


class Readings(nn.Module):
    """Two inputs by name, one of them padded."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.series, self.station, self.head = nn.Linear(1, 8), nn.Linear(3, 8), nn.Linear(8, 4)

    def forward(self, station, series, mask):
        keep = mask[..., None].float()
        states = torch.tanh(self.series(series[..., None]) + self.station(station)[:, None])
        return {"kind": self.head((states * keep).sum(1) / keep.sum(1)), "states": states}


TOKENS = padded(WIDTH)
KEEP = TOKENS["attention_mask"].bool()
EVERY = torch.arange(COUNT)
SENSORS = {
    "station": torch.randn(COUNT, 3, generator=torch.Generator().manual_seed(1)),
    "series": torch.randn(COUNT, WIDTH, generator=torch.Generator().manual_seed(2)),
    "mask": KEEP.long(),
}


def maps_of(model, data, method, name=None, **options):
    seen = observe(model.eval() if isinstance(model, nn.Module) else model, data, **options)
    return attribution_maps(seen, as_attribution_method(method), EVERY, seen.predictions, None, name)


def test_a_linear_model_of_embeddings_has_closed_forms():
    model = Words().eval()
    seen = observe(model, TOKENS)
    weight = model.head.weight.detach()[seen.predictions][:, None] / LENGTHS[:, None, None]
    embedded = model.embed.weight.detach()[TOKENS["input_ids"]]
    expected = {
        "saliency(layer='embed')": weight.expand_as(embedded),
        "input_x_gradient(layer='embed')": weight * embedded,
        "integrated_gradients(layer='embed', baseline=1)": weight * (embedded - model.embed.weight.detach()[1]),
        f"occlusion(mask_token={MASK})": (weight * (embedded - model.embed.weight.detach()[MASK])).sum(-1),
    }
    for method, closed in expected.items():
        found = maps_of(model, TOKENS, method)
        keep = KEEP[..., None] if closed.ndim == 3 else KEEP
        torch.testing.assert_close(found.maps, closed * keep, atol=1e-5, rtol=1e-4)
        assert torch.equal(found.counting, KEEP)
        assert found.name == "input_ids"
        assert found.completeness_gap is None or found.completeness_gap < 1e-5


def test_maps_of_tokens_are_those_of_captum():
    model = Words(hidden=8).eval()

    def forward(ids, mask):
        return model(ids, mask)

    settings = {"target": observe(model, TOKENS).predictions, "additional_forward_args": (TOKENS["attention_mask"],)}
    ids = TOKENS["input_ids"]
    path = LayerIntegratedGradients(forward, model.embed).attribute(ids, baselines=0, n_steps=20, **settings)
    found = maps_of(model, TOKENS, "integrated_gradients(layer='embed', steps=20)").maps
    torch.testing.assert_close(found, path.detach().float() * KEEP[..., None], atol=1e-6, rtol=1e-5)
    replaced = FeatureAblation(forward).attribute(ids, baselines=MASK, **settings)
    torch.testing.assert_close(maps_of(model, TOKENS, f"occlusion(mask_token={MASK})").maps, replaced * KEEP)
    # a black box has no gradients, and a wrapper that makes the mask itself has no input that says so
    torch.testing.assert_close(
        maps_of(
            lambda input_ids, attention_mask: forward(input_ids, attention_mask).detach(),
            TOKENS,
            "occlusion(mask_token=2)",
        ).maps,
        replaced * KEEP,
    )
    wrapped = maps_of(OwnMask(_Handing(model)), ids, f"occlusion(mask_token={MASK})")
    torch.testing.assert_close(wrapped.maps, replaced * KEEP)
    assert torch.equal(wrapped.counting, KEEP)


class _Handing(nn.Module):
    def __init__(self, words):
        super().__init__()
        self.inner = words

    def forward(self, input_ids, attention_mask):
        return self.inner(input_ids, attention_mask)


def test_a_window_of_tokens_is_covered_together_and_padding_never():
    model = Words(hidden=8).eval()
    asked = []

    def spy(input_ids, attention_mask):
        asked.append((input_ids, attention_mask))
        return model(input_ids, attention_mask).detach()

    seen = observe(spy, TOKENS)
    found = attribution_maps(
        seen, as_attribution_method("occlusion(mask_token=2, window=3, stride=1)"), EVERY, seen.predictions
    )
    assert len(asked) > 2
    for ids, mask in asked:
        assert not bool(ids[mask == 0].any())
    base = model(**TOKENS).detach().gather(1, seen.predictions[:, None])[:, 0]
    total, covered = torch.zeros(COUNT, WIDTH), torch.zeros(WIDTH)
    for start in range(WIDTH - 2):
        ids = TOKENS["input_ids"].clone()
        ids[:, start : start + 3] = MASK
        ids = torch.where(KEEP, ids, TOKENS["input_ids"])
        logit = model(ids, TOKENS["attention_mask"]).detach().gather(1, seen.predictions[:, None])[:, 0]
        total[:, start : start + 3] += (base - logit)[:, None]
        covered[start : start + 3] += 1
    torch.testing.assert_close(found.maps, total / covered * KEEP, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "method",
    ["saliency", "input_x_gradient", "integrated_gradients(steps=16)", "deep_lift", "smooth_grad(samples=3)",
     "gradient_shap(samples=3)", "deep_lift_shap(baselines=3)", "occlusion(window=2)", "saliency(layer='series')"],
)  # fmt: skip
def test_one_of_several_inputs_is_explained_beside_the_others(method):
    model = Readings().eval()
    found = maps_of(model, SENSORS, method, "series", output="kind")
    assert found.name == "series"
    assert not bool(found.maps[~KEEP].any())
    assert found.completeness_gap is None or found.completeness_gap < 1e-3
    # what stands in places of padding has no part, and neither has the batch
    other = {**SENSORS, "series": torch.where(KEEP, SENSORS["series"], 1e4)}
    if "shap" not in method:
        torch.testing.assert_close(maps_of(model, other, method, "series", output="kind").maps, found.maps)
    one = observe(model, SENSORS, output="kind")
    few = attribution_maps(one, as_attribution_method(method), EVERY, one.predictions, 1, "series")
    torch.testing.assert_close(few.maps, found.maps, atol=1e-5, rtol=1e-4)


def test_maps_of_one_of_several_inputs_are_those_of_captum():
    model = Readings().eval()
    settings = {
        "target": observe(model, SENSORS, output="kind").predictions,
        "additional_forward_args": (SENSORS["series"], SENSORS["mask"]),
    }

    def forward(station, series, mask):
        return model(station, series, mask)["kind"]

    expected = {
        "integrated_gradients(steps=9)": IntegratedGradients(forward).attribute(
            SENSORS["station"], n_steps=9, **settings
        ),
        "occlusion(window=1)": Occlusion(forward).attribute(SENSORS["station"], sliding_window_shapes=(1,), **settings),
    }
    for method, maps in expected.items():
        found = maps_of(model, SENSORS, method, "station", output="kind").maps
        torch.testing.assert_close(found, maps.detach().float(), atol=1e-6, rtol=1e-5)
    places = Unlabeled((SENSORS["station"], SENSORS["series"], SENSORS["mask"]))
    by_place = maps_of(lambda *given: forward(*given), places, "saliency", 0)
    torch.testing.assert_close(by_place.maps, maps_of(model, SENSORS, "saliency", "station", output="kind").maps)


@pytest.mark.parametrize("left", [False, True])
def test_padding_changes_no_metric(left):
    reference = Words(hidden=8).eval()
    candidate = Prune(density=0.5).compress(reference)
    pairs = [
        [observe(model, padded(width, left=side)) for model in (candidate, reference)]
        for width, side in ((WIDTH, False), (19, left))
    ]
    for method in ("saliency(layer='embed')", "occlusion(mask_token=2)"):
        short, wide = (compare_attributions(*pair, method) for pair in pairs)
        assert wide.metrics == pytest.approx(short.metrics, abs=2e-3)  # equal values tie by rounding
        assert 0 < short.metrics["mean_iou"] < 1
    for directions in ("gate", "worst"):
        short, wide = (
            compare_standard_boundaries(*pair, directions, at_layer="embed", max_distance=8.0) for pair in pairs
        )
        assert wide.metrics == pytest.approx(short.metrics, rel=1e-2, nan_ok=True)
        assert short.counts["median_change"]
    assert (
        gate_directions(pairs[0][1], 3, at_layer="embed").names
        == gate_directions(pairs[1][1], 3, at_layer="embed").names
    )


def test_distances_in_embedding_space_have_a_closed_form():
    reference, candidate = Words().eval(), Words().eval()
    with torch.no_grad():
        candidate.head.weight.mul_(1.0).add_(0.05 * torch.randn(4, 6, generator=torch.Generator().manual_seed(9)))
    rays = torch.randn(5, WIDTH, 6, generator=torch.Generator().manual_seed(4))
    seen = [observe(model, TOKENS) for model in (candidate, reference)]
    found = compare_boundaries(*seen, rays, at_layer="embed", max_distance=60.0, examples=None, steps=400)
    units = (rays * KEEP[:, None, :, None]).double()
    units = units / units.flatten(2).norm(dim=2)[..., None, None]
    for who, one in (("reference", reference), ("candidate", candidate)):
        logits = one(**TOKENS).detach().double()
        own = logits.argmax(1)
        slopes = (units.sum(2) / LENGTHS[:, None, None]) @ one.head.weight.detach().double().T  # (n, rays, classes)
        gap = logits.gather(1, own[:, None]) - logits
        closing = slopes - slopes.gather(2, own[:, None, None].expand(-1, 5, 1))
        closed = (
            torch.where(closing > 0, gap[:, None] / closing, torch.inf).masked_fill(closing == 0, torch.inf).amin(2)
        )
        measured = found.per_example[f"{who}_distance"]
        same = seen[0].predictions == seen[1].predictions
        rows = same if who == "candidate" else torch.ones_like(same)
        expected = torch.where(closed[rows] <= 60, closed[rows], torch.inf)
        near = (closed[rows] - 60).abs() > 0.5
        torch.testing.assert_close(measured[rows][near], expected[near], rtol=1e-3, atol=1e-3)
        assert bool(torch.isfinite(expected).any())
    assert found.details["at_layer"] == "embed"
    assert "in units of what embed gives" in found.notes[-1]


@pytest.mark.parametrize("where", [{"input": "series"}, {"at_layer": "series"}])
def test_distances_beside_other_inputs_are_those_of_a_walk(where):
    reference = Readings().eval()
    candidate = Prune(density=0.6).compress(reference)
    pair = [observe(model, SENSORS, output="kind") for model in (candidate, reference)]
    shape = (WIDTH,) if "input" in where else (WIDTH, 8)
    rays = torch.randn(3, *shape, generator=torch.Generator().manual_seed(7))
    found = compare_boundaries(*pair, rays, **where, max_distance=6.0, examples=4)
    chosen = found.per_example["example"].tolist()
    reached = 0
    for (place, example), ray in itertools.product(enumerate(chosen), range(3)):
        row = {name: tensor[example : example + 1] for name, tensor in SENSORS.items()}
        unit = rays[ray] * KEEP[example].view(-1, *[1] * (len(shape) - 1))
        unit = unit / unit.norm()
        steps = torch.linspace(0, 6, 2001)
        if "input" in where:
            moved = {
                **{name: one.expand(2001, *one.shape[1:]) for name, one in row.items()},
                "series": row["series"] + steps[:, None] * unit,
            }
            classes = reference(**moved)["kind"].argmax(1)
        else:
            start = reference.series(row["series"][..., None])
            states = torch.tanh(start + steps[:, None, None] * unit + reference.station(row["station"])[:, None])
            keep = row["mask"][..., None].float()
            classes = reference.head((states * keep).sum(1) / keep.sum(1)).argmax(1)
        left = (classes != classes[0]).nonzero().flatten()
        distance = float(found.per_example["reference_distance"][place, ray])
        expected = float(steps[left[0]]) if len(left) else np.inf
        reached += len(left) > 0
        assert distance == pytest.approx(expected, abs=6 / 1000)
    assert reached


def test_what_makes_no_sense_is_said_by_name():
    model, pruned = Readings().eval(), Prune(density=0.6).compress(Readings().eval())
    sensors = [observe(one, SENSORS, output="kind") for one in (pruned, model)]
    words = Words(hidden=8).eval()
    tokens = [observe(one, TOKENS) for one in (Prune(density=0.5).compress(words), words)]
    boxes = [
        observe(lambda input_ids, attention_mask, one=one: one.model(input_ids, attention_mask), TOKENS)
        for one in tokens
    ]
    images = [
        observe(one, torch.rand(4, 3, generator=torch.Generator().manual_seed(0)))
        for one in (nn.Linear(3, 2), nn.Linear(3, 2))
    ]
    wrong = [
        (compare_attributions, sensors, {}, "Say which one it is about, input='station'"),
        (compare_boundaries, sensors, {}, "Say which one it is about, input='station'"),
        (compare_attributions, sensors, {"input": "serie"}, "did you mean series"),
        (compare_attributions, sensors, {"input": "mask"}, "is a mask"),
        (compare_boundaries, sensors, {"input": True}, "must be the name of an input"),
        (compare_attributions, images, {"input": "x"}, "which has no name"),
        (compare_boundaries, sensors, {"input": "series", "at_layer": "series"}, "leave one of the two out"),
        (compare_boundaries, sensors, {"at_layer": "serie"}, "similar names are"),
        (compare_boundaries, sensors, {"at_layer": 3}, "the path of a module"),
        (compare_boundaries, sensors, {"input": "series", "directions": "benign"}, "are padded"),
        (compare_boundaries, tokens, {"at_layer": "embed", "directions": "benign"}, "no changes of which a person"),
        (compare_boundaries, tokens, {}, "at_layer='embed': what it gives is moved"),
        (compare_boundaries, boxes, {}, "the model has no layer that embeds them"),
        (compare_boundaries, boxes, {"at_layer": "embed"}, "plain callable"),
        (compare_attributions, tokens, {}, r"saliency\(layer='embed'\)"),
        (compare_attributions, tokens, {"method": "deep_lift(layer='embed')"}, "gradients need inputs of a floating"),
        (compare_attributions, tokens, {"method": "occlusion(window=1)"}, r"occlusion\(mask_token="),
        (compare_attributions, tokens, {"method": "integrated_gradients(layer='embed', baseline=0.5)"}, "whole number"),
        (compare_attributions, boxes, {"method": "saliency"}, r"cover them: occlusion\(mask_token"),
        (compare_attributions, boxes, {"method": "saliency(layer='embed')"}, r"cover tokens instead: occ"),
        (compare_attributions, images, {"method": "occlusion(mask_token=1)"}, "covers token ids"),
        (compare_attributions, tokens, {"method": "occlusion(mask_token=-1)"}, "a whole number of 0 or more"),
    ]  # fmt: skip
    for compare, (candidate, reference), options, message in wrong:
        with pytest.raises((InvalidArgumentError, ObservationError), match=message):
            compare(candidate, reference, **options)
    old = [observe(OwnMask(_Handing(one.model)), TOKENS["input_ids"]) for one in tokens]
    notes = compare_attributions(*old, "occlusion(window=1, stride=1)").notes
    assert "the id 0 is read" in notes[-1]
