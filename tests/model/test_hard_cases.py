"""Models on which schemes and files went wrong once: rank-deficient, tied, nested, tiny or oddly named weights."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cp_compress import (
    CompressionError,
    FilterPrune,
    FixedPoint,
    InvalidArgumentError,
    LowRank,
    NeuronPrune,
    Prune,
    Quantize,
    compression_report,
    footprint,
    load,
    parse_scheme,
    save,
)
from cp_compress.cli.main import main
from cp_compress.model import CalibrationData
from cp_compress.model.record import compression_steps


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("rank", [3, 8, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_low_rank_of_a_weight_of_less_rank_is_that_weight(rank, dtype):
    layer = nn.Linear(400, 24, dtype=dtype)
    left, right = (torch.randn(*shape, generator=generator(), dtype=dtype) for shape in ((24, 3), (3, 400)))
    layer.weight.data = left @ right
    candidate = LowRank(rank=rank).compress(layer)
    assert torch.allclose(candidate.weight, layer.weight, atol=1e-4)
    assert candidate.weight_left.shape == (24, 3)
    (action,) = compression_report(layer, candidate).layers[0].actions
    assert ("asked for" in action) == (rank > 3)


def test_low_rank_of_zeros_is_zero():
    layer = nn.Linear(40, 24)
    layer.weight.data.zero_()
    assert not LowRank(rank=4).compress(layer).weight.any()


@pytest.mark.parametrize("scheme", [Quantize("int4"), FixedPoint(bits=4), Quantize("int8")], ids=str)
@pytest.mark.parametrize(
    ("made_from", "other"),
    [
        (nn.Linear(8, 32, bias=False), nn.Linear(32, 8, bias=False)),
        (nn.Conv2d(4, 6, (1, 9)), nn.Conv2d(4, 6, 3)),
        (nn.Conv2d(4, 8, (3, 1)), nn.Conv2d(4, 8, (1, 3))),
    ],
)
def test_packed_integers_are_read_into_their_own_shape_only(scheme, made_from, other, tmp_path):
    candidate = scheme.compress(nn.Sequential(made_from))
    save(candidate, tmp_path / "model.cp")
    again = load(tmp_path / "model.cp", nn.Sequential(made_from))
    assert torch.equal(again[0].weight, candidate[0].weight)
    with pytest.raises(CompressionError, match=r"0\.weight.* has shape"):
        load(tmp_path / "model.cp", nn.Sequential(other))


@pytest.mark.parametrize("scheme", [NeuronPrune(0.5), Prune(0.5), Quantize("int8"), LowRank(rank=1)], ids=str)
def test_a_candidate_inside_another_module_is_stored_with_its_record(scheme, tmp_path):
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    inner = scheme.compress(model)
    wrapped = nn.Sequential(nn.Identity(), inner)
    save(wrapped, tmp_path / "model.cp")
    again = load(tmp_path / "model.cp", nn.Sequential(nn.Identity(), model))
    inputs = torch.randn(5, 8, generator=generator())
    assert torch.equal(again(inputs), wrapped(inputs))
    assert compression_steps(again) == compression_steps(wrapped) == compression_steps(inner) == (str(scheme),)
    layers = compression_report(nn.Sequential(nn.Identity(), model), wrapped).layers
    assert {layer.name for layer in layers if layer.actions} >= {"1.0.weight"}


def test_scales_of_float16_weights_are_never_too_small():
    layer = nn.Linear(64, 8).half()
    layer.weight.data = (torch.randn(8, 64, generator=generator()) * 1e-3).half()
    found = Quantize("int8").compress(layer)
    steps = layer.weight.float().abs().amax(1, keepdim=True) / 127
    assert ((found.weight.float() - layer.weight.float()).abs() / steps).max() < 0.56
    layer.weight.data = (torch.randn(8, 64, generator=generator()) * 1e-5).half()
    with pytest.raises(CompressionError, match="quantise the model in float32"):
        Quantize("int8").compress(layer)


class Gated(nn.Linear):
    """A linear layer with a parameter of its own, under a name that a scheme could want."""

    def __init__(self, name):
        super().__init__(18, 14)
        self.gate = name
        setattr(self, name, nn.Parameter(torch.full((14, 1), 3.0)))

    def forward(self, inputs):
        return F.linear(inputs, self.weight * getattr(self, self.gate), self.bias)


@pytest.mark.parametrize(
    ("name", "scheme"),
    [("weight_left", LowRank(rank=1)), ("weight_right", LowRank(rank=1)), ("weight_scale", Quantize("int8"))],
)
def test_a_layers_own_attributes_are_not_overwritten(name, scheme):
    model = nn.Sequential(Gated(name), nn.Linear(14, 30))
    candidate = scheme.compress(model)
    assert torch.equal(getattr(candidate[0], name), getattr(model[0], name))
    skipped = {skip.name: skip.reason for skip in compression_report(model, candidate).skipped}
    assert f"an attribute {name} of its own" in skipped["0.weight"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_models_held_in_16_bits_are_exported(dtype):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    candidate, inputs = Quantize(dtype).compress(model), torch.randn(3, 4, generator=generator())
    program = torch.export.export(candidate, (inputs,)).module()
    other = torch.randn(3, 4, generator=generator(1))
    assert torch.equal(program(other), candidate(other))


def test_a_floor_holds_after_rounding_to_a_multiple():
    model = nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 40), nn.ReLU(), nn.Linear(40, 4))
    with torch.no_grad():
        model[0].weight[5:] *= 1e-3
    candidate = NeuronPrune(0.6, scope="global", floor=0.5, round_to=4).compress(model)
    assert candidate[0].out_features == 8


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 16), nn.Linear(16, 20, bias=False)
        self.head.weight = self.table.weight


def test_two_tensors_are_not_read_into_one(tmp_path):
    model = Tied()
    untied = copy.deepcopy(model)
    untied.head.weight = nn.Parameter(torch.randn(20, 16))
    save(untied, tmp_path / "model.cp")
    with pytest.raises(CompressionError, match="one tensor in the model, and two in the file"):
        load(tmp_path / "model.cp", model)


def test_zeros_of_masked_units_are_not_made_dense():
    model = nn.Sequential(nn.Linear(400, 24), nn.ReLU(), nn.Linear(24, 4))
    masked = NeuronPrune(0.5, shrink=False).compress(model)
    with pytest.raises(CompressionError, match="put low_rank first"):
        LowRank(rank=8, include="0").compress(masked)


class Keyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(24, 30)

    def forward(self, inputs):
        return self.layer(input=inputs)


def test_layers_called_by_keyword_are_called_so_when_compressed():
    model, inputs = Keyword().eval(), torch.randn(6, 24, generator=generator())
    calibration = CalibrationData(inputs)
    for scheme in (
        LowRank(rank=4),
        Quantize("int8", mode="dynamic"),
        Quantize("int8", "static", calibration=calibration),
    ):
        assert (scheme.compress(model)(inputs) - model(inputs)).abs().max() < 3


def test_empty_parameters_are_left_alone():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    model.empty = nn.Parameter(torch.zeros(0, 4))
    assert NeuronPrune(0.5).compress(model)[0].out_features == 4


def test_what_cannot_be_run_or_read_is_named():
    model = nn.Sequential(nn.Linear(4, 2))
    with pytest.raises(CompressionError, match=r"calibration inputs of shape \(1, 5\)"):
        Quantize("int8", mode="static", calibration=CalibrationData(torch.zeros(1, 5))).compress(model)
    with pytest.raises(InvalidArgumentError, match=r"footprint\(example_input=.*\(3, 5\) torch.float32"):
        footprint(model, torch.zeros(3, 5))
    with pytest.raises(CompressionError, match="on the device meta"):
        Prune(0.5).compress(nn.Linear(4, 4, device="meta"))
    with pytest.raises(InvalidArgumentError, match="density"):
        Prune(10**400)
    with pytest.raises(InvalidArgumentError, match="nested too deeply"):
        parse_scheme("prune(density=0.5)|" * 5000 + "prune(density=0.5)")


def test_a_volume_is_tried_with_small_examples():
    model = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
    assert FilterPrune(0.5).compress(model)[0].out_channels == 2


def two_layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 40))


def test_the_command_compresses_what_it_has_compressed(tmp_path, monkeypatch):
    (tmp_path / "cp_hard.py").write_text(
        "import torch\nfrom torch import nn\n\ndef net():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 40))\n"
    )
    monkeypatch.chdir(tmp_path)
    first = ["compress", "cp_hard:net", "--scheme", "quantize(int8, include='0')", "-o", "first.cp"]
    assert main(first) == 0
    second = ["compress", "first.cp", "--architecture", "cp_hard:net", "--scheme", "quantize(int4, exclude='0')"]
    assert main([*second, "-o", "second.cp"]) == 0
    again = load("second.cp", two_layers())
    assert [len(layer.integer_formats) for layer in (again[0], again[2])] == [1, 1]
