"""Small integers by their definition: rows, groups, scales, fixed point, and several values a byte."""

from __future__ import annotations

import copy
import math
import warnings
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cp_compress.base.errors import CompressionError, InvalidArgumentError
from cp_compress.model import FixedPoint, Prune, Quantize, compression_report, footprint
from cp_compress.model.representations.formats import (
    IntegerFormat,
    dequantize,
    fitting_fraction_bits,
    from_rows,
    quantize,
    quantize_fixed,
    store,
    to_rows,
    unstore,
)


@given(st.sampled_from([2, 3, 4, 5, 8, 9, 16]), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_storing_keeps_every_code_in_the_fewest_bytes(bits, count, seed):
    form = IntegerFormat(bits, fixed=True)
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-form.largest - 1, form.largest + 1, (count, 3), generator=generator).to(torch.int16)
    stored = store(values, form)
    width = 2 if bits == 2 else 4 if bits <= 4 else 8 if bits <= 8 else 16
    assert stored.numel() * stored.element_size() == math.ceil(count * 3 * width / 8)
    assert torch.equal(unstore(stored, (count, 3), form).to(torch.int16), values)


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("space", [(), (2,), (3, 2)])
def test_rows_of_a_transposed_convolution_are_its_output_channels(groups, space):
    shape = (2 * groups, 4, *space)
    weight = torch.arange(math.prod(shape)).view(shape)
    rows = to_rows(weight, groups)
    for group in range(groups):
        for output in range(4):
            own = weight[2 * group : 2 * group + 2, output].flatten()
            assert torch.equal(rows[4 * group + output], own)
    assert torch.equal(from_rows(rows, shape, groups), weight)


LAYERS = [
    nn.Linear(10, 3),
    nn.Conv1d(6, 4, 3, groups=2),
    nn.Conv2d(3, 4, 3),
    nn.Conv3d(2, 3, 2),
    nn.ConvTranspose1d(4, 6, 3),
    nn.ConvTranspose2d(6, 8, 2, groups=2),
    nn.LSTMCell(5, 4),
    nn.GRU(5, 4, num_layers=2, bidirectional=True),
    nn.RNN(5, 4, bias=False),
    nn.LSTM(5, 4, proj_size=2),
    nn.MultiheadAttention(8, 2, kdim=4, vdim=6),
    nn.Embedding(7, 5),
    nn.EmbeddingBag(7, 5),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("group_size", [None, 1, 4, 1000])
def test_every_weight_is_within_half_the_scale_of_its_group(layer, bits, group_size):
    model = nn.ModuleDict({"layer": copy.deepcopy(layer)})
    candidate = Quantize(f"int{bits}", group_size=group_size, include="layer*").compress(model)["layer"]
    assert isinstance(candidate, type(layer))
    changed = [name for name, weight in layer.named_parameters() if weight.ndim > 1]
    if isinstance(layer, nn.MultiheadAttention):
        changed.remove("out_proj.weight")
    for name in changed:
        before, after = getattr(layer, name).detach(), getattr(candidate, name)
        groups = layer.groups if isinstance(layer, nn.modules.conv._ConvTransposeNd) else None
        rows, errors = to_rows(before, groups), to_rows((before - after).abs(), groups)
        size = group_size or rows.shape[1]
        for start in range(0, rows.shape[1], size):
            part = slice(start, start + size)
            scale = rows[:, part].abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
            assert (errors[:, part] <= 0.50001 * scale).all()
        assert after.unique().numel() > 2
    assert all(not name.startswith("weight") for name, _ in candidate.named_parameters())


@pytest.fixture(scope="module")
def torchao():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torchao.quantization")


@pytest.mark.parametrize(("bits", "group_size"), [(8, None), (8, 16), (4, 16), (4, 64)])
def test_groups_are_torchaos_where_its_rule_is_the_same(torchao, bits, group_size):
    # torchao's rule divides the largest positive value by 2^(b-1) − 1 and the largest negative by 2^(b-1), and takes
    # the larger scale: with the largest magnitude positive in every group that is max|w|/(2^(b-1) − 1)
    from torchao.quantization.quant_primitives import MappingType, choose_qparams_affine, quantize_affine

    size = group_size or 64
    weight = torch.randn(32, 64 // size, size, generator=torch.Generator().manual_seed(0))
    peaks = weight.abs().argmax(2, keepdim=True)
    weight = weight.scatter(2, peaks, 1.2 * weight.abs().amax(2, keepdim=True)).view(32, 64)
    limits = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    rule = MappingType.SYMMETRIC_NO_CLIPPING_ERR
    scale, zero = choose_qparams_affine(weight, rule, (1, size), torch.int8, *limits, eps=1e-30)
    theirs = quantize_affine(weight, (1, size), scale, zero, torch.int8, *limits)
    values, own = quantize(weight, None, IntegerFormat(bits, group_size))
    torch.testing.assert_close(own, scale.view_as(own), rtol=2e-7, atol=0)
    # at a tie, or a last bit of the scale, one step
    assert (values - theirs).abs().max() <= 1
    assert (values != theirs).float().mean() < 1e-3


@pytest.mark.parametrize(("bits", "group_size"), [(8, None), (4, 32)])
def test_layers_against_torchaos_weight_only_configurations(torchao, bits, group_size):
    layer = nn.Linear(64, 32, bias=False)
    layer.weight.data = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    granularity = torchao.PerGroup(group_size) if group_size else torchao.PerAxis(0)
    dtype = torch.int8 if bits == 8 else torch.int4
    theirs = nn.Sequential(copy.deepcopy(layer))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torchao.quantize_(theirs, torchao.IntxWeightOnlyConfig(weight_dtype=dtype, granularity=granularity))
    ours = Quantize(f"int{bits}", group_size=group_size).compress(layer).weight
    step = layer.weight.detach().abs().view(32, -1, group_size or 64).amax(2) / (2 ** (bits - 1) - 1)
    step = step.repeat_interleave(group_size or 64, 1)
    # both are within half a step, and theirs cuts one value of a group off by half a step more
    assert ((ours - theirs[0].weight.dequantize()).abs() <= 1.1 * step).all()
    assert ((ours - layer.weight).abs() <= 0.50001 * step).all()


def exact(value: float, bits: int, places: int) -> Fraction:
    """Two's complement with halves to even, in rational arithmetic."""
    steps = round(Fraction(value) * Fraction(2) ** places)
    return Fraction(max(-(2 ** (bits - 1)), min(2 ** (bits - 1) - 1, steps))) / Fraction(2) ** places


@given(
    st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=20),
    st.integers(2, 16),
    st.integers(-4, 20),
)
def test_fixed_point_is_its_definition(numbers, bits, places):
    form = IntegerFormat(bits, fixed=True)
    values, scale, saturated = quantize_fixed(torch.tensor([numbers]), form, places)
    result = dequantize(values, scale, None, form)[0].tolist()
    assert list(map(Fraction, result)) == [exact(number, bits, places) for number in numbers]
    free = [round(Fraction(number) * Fraction(2) ** places) for number in numbers]
    assert saturated == sum(not -(2 ** (bits - 1)) <= step < 2 ** (bits - 1) for step in free)


@given(st.floats(2.0**-100, 2.0**100, width=32), st.integers(2, 16))
def test_fraction_bits_are_the_most_that_fit(largest, bits):
    places = fitting_fraction_bits(largest, IntegerFormat(bits, fixed=True))
    code = Fraction(largest) * Fraction(2) ** places
    assert code <= 2 ** (bits - 1) - 1 < 2 * code


def test_fixed_point_layers_choose_their_own_point_and_count_what_is_cut_off():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[0].weight.data = torch.tensor([[0.1, -0.2], [0.0, 0.2]])
    model[1].weight.data = torch.tensor([[3.0, -5.0], [0.4, 1.0]])
    free, given = FixedPoint(8).compress(model), FixedPoint(8, 6).compress(model)
    words = [layer.actions for layer in compression_report(model, free).layers]
    assert words == [("fixed8 Q-2.9",), ("fixed8 Q3.4",)]
    assert free[1].weight.tolist() == [[3.0, -5.0], [0.375, 1.0]]
    assert given[1].weight.tolist() == [[1.984375, -2.0], [0.40625, 1.0]]
    report = compression_report(model, given)
    assert report.layers[1].actions == ("fixed8 Q1.6, 2 of 4 saturated",)
    assert report.layers[1].dtype_after == "fixed8"


@pytest.mark.parametrize(
    "scheme",
    [Quantize("int8"), Quantize("int4", group_size=4), Quantize("int4", "dynamic"), FixedPoint(6), FixedPoint(16)],
)
def test_zeros_stay_zero(scheme):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 8))
    pruned = Prune(0.4, "layer").compress(model)
    candidate = scheme.compress(pruned)
    for index in (0, 2):
        assert not candidate[index].weight[pruned[index].weight == 0].any()
    assert footprint(candidate).nonzero <= footprint(pruned).nonzero
    report = compression_report(model, candidate)
    assert report.layers[0].nonzero_after == int(candidate[0].weight.count_nonzero())


def test_layers_that_would_be_empty_or_do_not_fit_are_refused():
    layer = nn.Linear(3, 3)
    with pytest.raises(CompressionError, match="weight would hold nothing but zeros"):
        FixedPoint(8, fraction_bits=-3).compress(layer)
    tiny = nn.Linear(3, 3, bias=False).half()
    tiny.weight.data.fill_(1e-6)
    with pytest.raises(CompressionError, match=r"the scale 2\^-\d+ of weight does not fit"):
        FixedPoint(16).compress(tiny)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (FixedPoint, {"bits": 1}),
        (FixedPoint, {"bits": 17}),
        (FixedPoint, {"bits": 8.0}),
        (FixedPoint, {"fraction_bits": 200}),
        (FixedPoint, {"include": 3}),
        (Quantize, {"dtype": "int4", "group_size": 0}),
        (Quantize, {"dtype": "int8", "group_size": 2, "mode": "dynamic"}),
        (Quantize, {"dtype": "float16", "group_size": 2}),
        (Quantize, {"dtype": "float16", "include": "layer"}),
        (Quantize, {"dtype": "int8", "exclude": ("",)}),
        (Quantize, {"dtype": "int8", "calibration": "a.b:c"}),
        (Quantize, {"dtype": "int8", "mode": "static"}),
        (Quantize, {"dtype": "int8", "mode": "static", "calibration": "no factory"}),
    ],
)
def test_arguments_are_checked(kind, arguments):
    with pytest.raises(InvalidArgumentError, match=kind.__name__):
        kind(**arguments)
