"""Where channels stand in what layers give: against layouts that are known because of how a network is written."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.ops import Permute

from cp_compress import TaskDataset
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity import compare_embeddings, layer_features, observe


class Run(nn.Module):
    """A network that ends in two logits, whatever the shape before them."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = nn.Sequential(*parts)

    def forward(self, inputs):
        return self.parts(inputs).flatten(1)[:, :2]


def read(model, inputs, layers, **settings):
    return layer_features(observe(model.eval(), (inputs, torch.arange(len(inputs)) % 2)), layers, **settings)


def mean_over_places(values, layout):
    return values.flatten(2).mean(2) if layout == "first" else values.flatten(1, -2).mean(1)


LIKE = {
    "activation": nn.GELU,
    "dropout": nn.Dropout,
    "identity": nn.Identity,
    "in place": lambda: nn.ReLU(inplace=True),
}


@settings(max_examples=15)
@given(
    places=st.lists(st.integers(1, 6), min_size=1, max_size=2),
    channels=st.integers(2, 6),
    layout=st.sampled_from(["first", "last"]),
    tail=st.lists(st.sampled_from(sorted(LIKE)), max_size=3),
)
def test_what_follows_has_the_layout_of_what_it_follows(places, channels, layout, tail):
    torch.manual_seed(0)
    conv = (nn.Conv1d if len(places) == 1 else nn.Conv2d)(3, channels, 1)
    head = conv if layout == "first" else nn.Linear(3, channels)
    block = nn.Sequential(head, *(LIKE[name]() for name in tail))
    inputs = torch.randn(5, 3, *places) if layout == "first" else torch.randn(5, *places, 3)
    model = Run(block).eval()
    with torch.no_grad():
        expected = mean_over_places(block(inputs), layout)
    names = ["parts.0", f"parts.0.{len(tail)}"]
    found = read(model, inputs, names)
    for name in names:
        torch.testing.assert_close(found[name], expected)


@pytest.mark.parametrize("side", [4, 6, 9])
def test_permuted_maps_of_convnext(side):
    torch.manual_seed(0)
    parts = (
        nn.Conv2d(3, 6, 1),
        Permute([0, 2, 3, 1]),
        nn.LayerNorm(6),
        nn.Linear(6, 9),
        nn.GELU(),
        Permute([0, 3, 1, 2]),
    )
    model, inputs = Run(*parts, Permute([0, 3, 1, 2])), torch.randn(5, 3, side, side)
    names = [f"parts.{place}" for place in range(6)]
    found, values = read(model, inputs, [*names, "input:parts.4"]), inputs
    for place, layout in enumerate(["first", "last", "last", "last", "last", "first"]):
        with torch.no_grad():
            values = model.parts[place](values)
        torch.testing.assert_close(found[names[place]], mean_over_places(values, layout))
    torch.testing.assert_close(found["input:parts.4"], found["parts.3"])


def test_permuted_channels_are_another_embedding():
    torch.manual_seed(0)
    model = Run(Permute([0, 2, 3, 1]), nn.Linear(3, 20), nn.Flatten(), nn.Linear(20 * 16, 2)).eval()
    other = Run(Permute([0, 2, 3, 1]), nn.Linear(3, 20), nn.Flatten(), nn.Linear(20 * 16, 2)).eval()
    order = torch.randperm(20)
    with torch.no_grad():
        other.parts[1].weight.copy_(model.parts[1].weight[order])
        other.parts[1].bias.copy_(model.parts[1].bias[order])
    data = torch.randn(40, 3, 4, 4), torch.arange(40) % 2
    found = compare_embeddings(observe(other, data), observe(model, data), "parts.1")
    rows = [one.parts[:2](data[0]).mean((1, 2)) for one in (model, other)]
    assert found.details["layers"][0]["widths"] == [20, 20]
    angle = torch.arccos(nn.functional.cosine_similarity(*rows)).mean().detach()
    assert found.metrics["mean_angle"] == pytest.approx(float(angle), rel=1e-4)


class Moved(nn.Module):
    """Channels are moved by a function, which no hook sees; the layer after it is named."""

    def __init__(self, channels):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, channels, 1), nn.GELU()

    def forward(self, inputs):
        return self.act(self.conv(inputs).permute(0, 2, 3, 1)).flatten(1)[:, :2]


def test_sizes_tell_or_nothing_does():
    inputs = torch.randn(5, 3, 4, 4)
    model = Moved(6)
    torch.testing.assert_close(
        read(model, inputs, ["act"])["act"], model.act(model.conv(inputs)).mean((2, 3)).detach(), atol=1e-6, rtol=1e-5
    )
    with pytest.raises(ObservationError, match=r'layer act gives \(5, 4, 4, 4\).*which axis.*pool="flatten"'):
        read(Moved(4), inputs, ["act"])
    assert read(Moved(4), inputs, ["act"], pool="flatten")["act"].shape == (5, 64)
    with pytest.raises(ObservationError, match="which axis"):
        read(Run(nn.ReLU()), inputs, ["parts.0"])


@pytest.mark.parametrize("count", [5, 6, 7])
def test_examples_must_stand_on_the_first_axis(count):
    class PlacesFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, inputs):
            return self.layer(inputs.transpose(0, 1)).mean(0)

    with pytest.raises(ObservationError, match=r"layer gives torch.float32 \(6, (1|5|7), 2\)"):
        read(PlacesFirst(), torch.randn(count, 6, 3), ["layer"])
    model = Run(nn.Linear(3, 4))
    assert read(model, torch.randn(count, 6, 3), ["parts.0"])["parts.0"].shape == (count, 4)


class Tagger(nn.Module):
    """Answers at each of many places, in space or in a row."""

    def __init__(self, dense):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(3, 5, 1) if dense else nn.Linear(3, 5)
        self.act, self.head = nn.Tanh(), nn.Conv2d(5, 4, 1) if dense else nn.Linear(5, 4)

    def forward(self, inputs):
        return self.head(self.act(self.body(inputs)))


def tagged(dense, silent=False):
    generator = torch.Generator().manual_seed(3)
    places = (4, 6) if dense else (7,)
    inputs = torch.randn(9, *((3, *places) if dense else (*places, 3)), generator=generator)
    targets = torch.randint(0, 4, (9, *places), generator=generator)
    ignored = torch.rand(targets.shape, generator=generator) < 0.6
    ignored.flatten(1)[:, 0] = False
    if silent:
        ignored[5] = True
    return inputs, targets.masked_fill(ignored, -100), ~ignored


@pytest.mark.parametrize("dense", [True, False])
def test_places_that_do_not_count_have_no_part(dense):
    model, (inputs, targets, counts) = Tagger(dense).eval(), tagged(dense)
    observation = observe(model, TaskDataset((inputs, targets), "dense" if dense else "sequence"), batch_size=4)
    with torch.no_grad():
        values = model.act(model.body(inputs))
    rows = values.movedim(1, -1) if dense else values
    expected = torch.stack([row[kept].mean(0) for row, kept in zip(rows, counts, strict=True)])
    torch.testing.assert_close(layer_features(observation, ["act"])["act"], expected)
    kept = (counts[:, None] if dense else counts[..., None]) * values
    torch.testing.assert_close(layer_features(observation, ["act"], pool="flatten")["act"], kept.flatten(1))


@pytest.mark.parametrize("dense", [True, False])
def test_damage_at_places_that_count_is_not_thinned_out_by_others(dense):
    inputs, targets, counts = tagged(dense, silent=True)
    changed = -inputs * (counts[:, None] if dense else counts[..., None])
    task, model = "dense" if dense else "sequence", Tagger(dense).eval()
    with torch.no_grad():
        model.body.bias.zero_()  # with the inputs the features turn round
    seen = [observe(model, TaskDataset((given, targets), task)) for given in (changed, inputs)]
    found = compare_embeddings(*seen, "act")
    assert found.metrics["mean_angle"] == pytest.approx(torch.pi)
    assert found.counts["mean_angle"] == 8
    assert 5 not in found.per_example["example"].tolist()
    assert any("1 examples have only ignored positions" in note for note in found.notes)
    with pytest.raises(ObservationError, match="example #5 has only ignored positions"):
        layer_features(seen[0], ["act"])
    with pytest.raises(ObservationError, match="all positions of the examples"):
        compare_embeddings(*seen, "act", examples=[5])
