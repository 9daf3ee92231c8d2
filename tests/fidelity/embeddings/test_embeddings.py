"""Embeddings of observed models: which layers are read, what compression does to them, and what is refused."""

import copy
import math

import pytest
import torch
from torch import nn

from cp_compress.base.errors import InvalidArgumentError, ObservationError
from cp_compress.examples import digits, digits_cnn
from cp_compress.fidelity import (
    Requirement,
    compare_embeddings,
    judge,
    layer_features,
    observe,
)
from cp_compress.fidelity.embeddings.default_layer import default_layer
from cp_compress.fidelity.embeddings.similarity import nearest_neighbors
from cp_compress.model import parse_scheme


def seen(scheme=None):
    model = digits_cnn()
    return observe(model if scheme is None else parse_scheme(scheme).compress(model), digits())


def test_features_are_what_the_layers_give():
    observation = seen()
    model, inputs = observation.model, observation.data.select(range(len(observation)))[0]
    found = layer_features(observation, ["features.3", "classifier.1", "input:classifier.3"])
    flat = layer_features(observation, ["features.3"], pool="flatten")["features.3"]
    with torch.no_grad():
        maps = model.features[:4](inputs)
        hidden = model.classifier[:2](model.features(inputs))
    torch.testing.assert_close(found["features.3"], maps.mean(dim=(2, 3)))
    torch.testing.assert_close(flat, maps.flatten(1))
    torch.testing.assert_close(found["classifier.1"], hidden)
    torch.testing.assert_close(found["input:classifier.3"], hidden.relu())


def test_all_layers_come_from_one_pass():
    calls = []
    model = copy.deepcopy(digits_cnn())
    model.register_forward_hook(lambda module, args, output: calls.append(len(output)))
    observation = observe(model, digits())
    layer_features(observation, ["features.0", "features.3", "classifier.1"])
    layer_features(observation, ["classifier.1", "features.0"])
    assert sum(calls) == len(observation)
    assert not any(part._forward_hooks for part in model.modules() if part is not model)


def test_the_default_is_what_goes_into_the_last_linear_layer():
    assert default_layer(seen()) == "input:classifier.3"
    assert default_layer(seen("quantize(int4)")) == "input:classifier.3"
    found = compare_embeddings(seen("prune(density=0.4)"), seen())
    assert found.details["layers"][0]["layer"] == "input:classifier.3"


def test_the_harder_the_compression_the_less_alike():
    schemes = ["quantize(float16)", "quantize(int8)", "prune(density=0.5)", "prune(density=0.3)", "prune(density=0.1)"]
    found = [compare_embeddings(seen(scheme), seen()).metrics for scheme in schemes]
    for name, sign in (("cka", -1), ("kernel_cka", -1), ("neighbor_overlap", -1), ("mean_angle", 1)):
        values = [sign * metrics[name] for metrics in found]
        assert values == sorted(values), name
    for name in ("hardness_change", "procrustes_distance"):
        assert found[0][name] < found[2][name] < found[4][name]
    assert found[0]["cka"] > 0.999


def test_widths_that_differ_after_shrinking():
    found = compare_embeddings(seen("neuron_prune(density=0.5)"), seen())
    (row,) = found.details["layers"]
    assert row["widths"][0] > row["widths"][1]
    assert math.isnan(found.metrics["mean_angle"])
    assert found.counts["mean_angle"] == 0
    assert 0.3 < found.metrics["cka"] <= 1
    assert any("widths differ" in note for note in found.notes)
    assert judge(found, [Requirement("mean_angle", "max", 1.0)]).outcome == "error"


def test_several_layers_give_the_worst():
    layers = ["features.3", "features.7", "input:classifier.3"]
    together = compare_embeddings(seen("prune(density=0.3)"), seen(), layers)
    alone = [compare_embeddings(seen("prune(density=0.3)"), seen(), layer).metrics for layer in layers]
    assert together.metrics["cka"] == min(metrics["cka"] for metrics in alone)
    assert together.metrics["mean_angle"] == max(metrics["mean_angle"] for metrics in alone)
    assert [row["layer"] for row in together.details["layers"]] == layers


def test_layers_of_other_names():
    model = digits_cnn()
    renamed = nn.Sequential(copy.deepcopy(model.features), copy.deepcopy(model.classifier))
    with torch.no_grad():
        renamed[0][0].weight.mul_(1.01)
    found = compare_embeddings(observe(renamed, digits()), seen(), {"features.3": "0.3"})
    assert found.details["layers"][0]["layer"] == "features.3 → 0.3"
    assert found.metrics["cka"] > 0.99


def test_hardness_uses_the_last_layers_weights():
    reference, candidate = seen(), seen("prune(density=0.4)")
    found = compare_embeddings(candidate, reference)
    expected = []
    for one in (reference, candidate):
        rows = layer_features(one, ["input:classifier.3"])["input:classifier.3"].double()
        weight = one.model.classifier[3].weight.detach().double()
        angles = torch.acos(nn.functional.cosine_similarity(rows[:, None], weight[None], dim=2).clamp(-1, 1))
        expected.append(angles[torch.arange(len(one)), one.labels] / angles.sum(1))
    torch.testing.assert_close(
        found.per_example["hardness_change"], (expected[1] - expected[0]).abs(), atol=1e-7, rtol=0
    )


def test_the_mean_angle_takes_a_confidence_and_cka_does_not():
    found = compare_embeddings(seen("quantize(int8)"), seen())
    assert judge(found, [Requirement("mean_angle", "max", 0.5, confidence=0.95)]).passed
    with pytest.raises(InvalidArgumentError, match="cka"):
        judge(found, [Requirement("cka", "min", 0.5, confidence=0.95)])


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.twice, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)
        self.rnn, self.head = nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, inputs):
        rows, _ = self.rnn(self.twice(self.twice(inputs))[:, None])
        return self.head(rows[:, 0])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("twice", "runs 2 times"),
        ("unused", "does not run"),
        ("rnn", "gives tuple"),
        ("haed", "similar names are head"),
        ("", "path of a layer"),
        ([], "path of a layer"),
        ([3], "path of a layer"),
    ],
)
def test_layers_that_cannot_be_read(layer, message):
    data = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3
    other = Odd()
    with torch.no_grad():
        other.head.weight.mul_(2)
    with pytest.raises((ObservationError, InvalidArgumentError), match=message):
        compare_embeddings(observe(other.eval(), data), observe(Odd().eval(), data), layer)


def test_a_plain_callable_has_no_layers():
    model = digits_cnn()
    with pytest.raises(ObservationError, match="plain callable"):
        compare_embeddings(observe(lambda inputs: model(inputs), digits()), seen(), "features.3")


def test_tokens_are_averaged_over_places():
    model = nn.Sequential(nn.Embedding(11, 6), nn.Flatten(), nn.Linear(30, 3)).eval()
    data = torch.randint(0, 11, (20, 5), generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3
    observation = observe(model, data)
    found = layer_features(observation, ["0"])["0"]
    torch.testing.assert_close(found, model[0](data[0]).mean(dim=1).detach())


def test_a_model_inside_another_is_found():
    wrapped = nn.Sequential(nn.Identity(), parse_scheme("prune(density=0.5)").compress(digits_cnn()))
    found = compare_embeddings(observe(wrapped, digits()), seen())
    assert found.details["layers"][0]["layer"] == "input:classifier.3 → input:1.classifier.3"
    assert found.metrics["cka"] == compare_embeddings(seen("prune(density=0.5)"), seen()).metrics["cka"]


def test_neighbours_keep_no_block_alive():
    found = nearest_neighbors(torch.randn(600, 4, generator=torch.Generator().manual_seed(0)), 5)
    assert found.untyped_storage().nbytes() == 600 * 5 * 8


def test_only_the_examples_asked_for_are_run():
    calls = []
    model = copy.deepcopy(digits_cnn())
    model.register_forward_hook(lambda module, args, output: calls.append(len(output)))
    observation = observe(model, digits())
    part = layer_features(observation, ["features.3"], examples=[5, 2])["features.3"]
    assert sum(calls) == 2
    whole = layer_features(observation, ["features.3"])["features.3"]
    torch.testing.assert_close(part, whole[[5, 2]])
    before = sum(calls)
    assert torch.equal(layer_features(observation, ["features.3"], examples=[7, 3])["features.3"], whole[[7, 3]])
    assert sum(calls) == before


def test_a_comparison_of_some_examples_is_that_of_their_data():
    model, data = digits_cnn(), digits()
    rows = list(range(0, 400, 10))
    images, labels = observe(model, data).data.select(rows)
    candidate = parse_scheme("prune(density=0.4)").compress(model)
    whole = [observe(one, data) for one in (candidate, model)]
    part = [observe(one, (images, labels)) for one in (candidate, model)]
    found, expected = compare_embeddings(*whole, examples=rows), compare_embeddings(*part)
    assert found.metrics == pytest.approx(expected.metrics, rel=1e-4)


class Overwriting(nn.Module):
    """A model that overwrites what its layers take and give, or does the same by copies."""

    def __init__(self, in_place):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 4)
        self.relu, self.in_place = nn.ReLU(inplace=in_place), in_place

    def forward(self, inputs):
        maps = self.relu(self.norm(self.conv(inputs)))
        rows = maps.mean((2, 3))
        logits = self.head(rows)
        return logits.mul_(3) if self.in_place else logits * 3


@pytest.mark.parametrize("pool", ["mean", "flatten"])
def test_later_work_in_place_does_not_reach_what_was_read(pool):
    data = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 4
    names = ["conv", "norm", "input:relu", "relu", "head"]
    found, same = (layer_features(observe(Overwriting(way).eval(), data), names, pool=pool) for way in (True, False))
    for name in names:
        assert torch.equal(found[name], same[name]), name
    model = Overwriting(False).eval()
    with torch.no_grad():
        maps = model.norm(model.conv(data[0]))
    torch.testing.assert_close(found["norm"], maps.mean((2, 3)) if pool == "mean" else maps.flatten(1))
    assert found["norm"].min() < 0 <= found["relu"].min()


class Keywords(nn.Module):
    """A model that calls its layers by position, or by keyword as those of Hugging Face do."""

    class Masked(nn.Linear):
        def forward(self, states, mask=None):
            return super().forward(states * mask)

    def __init__(self, by_keyword):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.by_keyword = self.Masked(12, 9), nn.Linear(9, 4), by_keyword

    def forward(self, inputs):
        mask = torch.ones(len(inputs), 1)
        if not self.by_keyword:
            return self.head(self.body(inputs, mask))
        return self.head(input=self.body(mask=mask, states=inputs))


def test_what_goes_into_a_layer_may_be_given_by_keyword():
    data = torch.randn(20, 12, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 4
    names = ["input:head", "input:body"]
    named, placed = (layer_features(observe(Keywords(way).eval(), data), names) for way in (True, False))
    for name in names:
        assert torch.equal(named[name], placed[name]), name
    assert torch.equal(named["input:body"], data[0])
    other = Keywords(True).eval()
    with torch.no_grad():
        other.body.weight.mul_(2)
    found = compare_embeddings(observe(other, data), observe(Keywords(True).eval(), data))
    assert found.details["layers"][0]["widths"] == [9, 9]


def test_a_layer_that_gets_no_tensor_has_no_input():
    class Constant(nn.Linear):
        def forward(self):
            return self.weight[:, 0]

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.constant, self.head = Constant(1, 3), nn.Linear(4, 3)

        def forward(self, inputs):
            return self.head(inputs) + self.constant()

    observation = observe(Model().eval(), (torch.randn(9, 4), torch.arange(9) % 3))
    with pytest.raises(ObservationError, match="input:constant gives no tensor"):
        layer_features(observation, ["input:constant"])


def compiled_kinds():
    inner = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    by_method = copy.deepcopy(inner)
    by_method.compile(backend="eager")
    part = nn.Sequential(nn.Linear(4, 4), torch.compile(inner, backend="eager"))
    return {
        "torch.compile": (torch.compile(inner, backend="eager"), "_orig_mod.0", "_orig_mod"),
        ".compile()": (by_method, "0", "before `.compile"),
        "script": (torch.jit.script(inner), "0", "scripted or traced"),
        "trace": (torch.jit.trace(inner, torch.randn(2, 4)), "0", "scripted or traced"),
        "a part": (part, "1._orig_mod.0", "layer '1' is"),
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["torch.compile", ".compile()", "script", "trace", "a part"])
def test_layers_in_compiled_code_are_not_seen(kind):
    model, layer, message = compiled_kinds()[kind]
    observation = observe(model, (torch.randn(9, 4), torch.arange(9) % 3))
    assert len(observation.logits) == 9
    with pytest.raises(ObservationError, match=message):
        default_layer(observation)
    with pytest.raises(ObservationError, match=message):
        layer_features(observation, [layer])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["torch.compile", "script"])
def test_layers_beside_compiled_code_are_seen(kind):
    model = nn.Sequential(nn.Linear(4, 4), compiled_kinds()[kind][0]).eval()
    observation = observe(model, (torch.randn(9, 4), torch.arange(9) % 3))
    expected = model[0](observation.data.select(range(9))[0]).detach()
    torch.testing.assert_close(layer_features(observation, ["0"])["0"], expected)
    if kind == "torch.compile":
        torch.testing.assert_close(layer_features(observation, ["1"])["1"], observation.logits)
    else:
        with pytest.raises(ObservationError, match="layer '1' is compiled"):
            layer_features(observation, ["1"])
