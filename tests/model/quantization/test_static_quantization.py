"""Static 8-bit inputs: ranges by torchao's rule, sums by their definition, calibration data by its content."""

from __future__ import annotations

import copy
import functools
import pickle
import warnings

import pytest
import torch
from model_networks import Depthwise, SmallCNN, TinyTransformer, TokenLSTM, bits, inputs_for, make, same_bits
from torch import nn

from cp_compress.base.errors import CompressionError, InvalidArgumentError
from cp_compress.model import CalibrationData, Prune, Quantize, compression_report, load, parse_scheme, save
from cp_compress.model.scheme import scheme_content
from pytest_cp.session.cache import CompressedModelCache


def observe(observer, module, args):
    observer(args[0])


def static(inputs, dtype="int8", **others):
    return Quantize(dtype, "static", calibration=CalibrationData(inputs), **others)


@pytest.mark.parametrize("kind", [SmallCNN, Depthwise])
def test_ranges_are_those_of_torchaos_observer(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        observers = pytest.importorskip("torchao.quantization.pt2e")
    model, inputs = make(kind), inputs_for(kind, rows=150)
    candidate = static(inputs).compress(model)
    seen = {}
    for path, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            observer = seen[path] = observers.MinMaxObserver(dtype=torch.uint8, quant_min=0, quant_max=255)
            module.register_forward_pre_hook(functools.partial(observe, observer))
    with torch.no_grad():
        model(inputs)
    assert seen
    for path, observer in seen.items():
        scale, zero = observer.calculate_qparams()
        layer = candidate.get_submodule(path)
        # the observer sees one batch, the scheme several: the last bits of activations may differ
        torch.testing.assert_close(layer.int8_input_scale, scale.view(()), rtol=1e-5, atol=0)
        assert abs(int(layer.int8_input_zero) - int(zero)) <= 1


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(40, 7), (5, 40)),
        (nn.Linear(3000, 7), (5, 3, 3000)),
        (nn.Conv1d(3, 4, 5, padding=2), (5, 3, 20)),
        (nn.Conv2d(70, 6, 3, padding=1, padding_mode="circular"), (2, 70, 6, 6)),
        (nn.Conv2d(4, 8, 3, groups=2, stride=2, padding=1), (3, 4, 9, 9)),
        (nn.Conv3d(2, 3, 2), (2, 2, 4, 4, 4)),
    ],
)
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_it_is_its_definition(layer, shape, dtype):
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 1
    candidate = static(inputs, dtype).compress(layer)
    wide = inputs * 1.5
    low, high = inputs.min().clamp(max=0), inputs.max().clamp(min=0)
    scale = (high - low) / 255
    zero = (-low / scale).round()
    codes = ((wide / scale).round() + zero).clamp(0, 255)
    whole = copy.deepcopy(layer).double()
    whole.weight.data = candidate.weight.double()
    expected = whole((codes - zero).double() * scale.double())
    torch.testing.assert_close(candidate(wide).double(), expected, rtol=1e-5, atol=1e-5)
    assert candidate.int8_input_zero.dtype == torch.uint8
    single = torch.cat([candidate(row[None]) for row in wide])
    assert torch.equal(single, candidate(wide))


def test_it_computes_what_torchs_export_quantisation_computes():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("torchao.quantization.pt2e")
        from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import QuantizationConfig, QuantizationSpec
        from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import X86InductorQuantizer

        model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
        inputs = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(0))
        unsigned = QuantizationSpec(torch.uint8, MinMaxObserver, 0, 255, torch.per_tensor_affine, None, False)
        signed = QuantizationSpec(
            torch.int8, PerChannelMinMaxObserver, -127, 127, torch.per_channel_symmetric, 0, False
        )
        quantizer = X86InductorQuantizer()
        quantizer.set_global(QuantizationConfig(unsigned, unsigned, signed, None))
        exported = torch.export.export(model, (inputs,)).module()
        prepared = prepare_pt2e(exported, quantizer)
        prepared(inputs)
        theirs = convert_pt2e(prepared)(inputs)
    ours = static(inputs).compress(model)(inputs)
    dense = model(inputs)
    rounding = (dense - theirs).abs().max()
    if rounding == 0:
        pytest.skip("this torchao rounds nothing in a program of this torch")
    assert rounding < 0.05
    assert (ours - theirs).abs().max() <= 1.5 * rounding


def test_layers_that_calibration_does_not_reach_are_named():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, values):
            return self.used(values)

    model, inputs = Unused(), torch.randn(4, 3)
    candidate = static(inputs).compress(model)
    reasons = {skip.name: skip.reason for skip in compression_report(model, candidate).skipped}
    assert reasons == {"unused.weight": "the layer saw no input in the calibration data"}
    with pytest.raises(CompressionError, match=r"no weight to quantise.*saw no input"):
        static(inputs, include="unused").compress(model)
    transformer = make(TinyTransformer)
    candidate = static(inputs_for(TinyTransformer)).compress(transformer)
    skips = {skip.name: skip.reason for skip in compression_report(transformer, candidate).skipped}
    assert "without calling" in skips["encoder.layers.0.self_attn.out_proj.weight"]
    assert "int8_input_scale" in dict(candidate.encoder.layers[0].linear1.named_buffers())
    inside, outside = candidate(inputs_for(TinyTransformer)), candidate
    with torch.no_grad():
        torch.testing.assert_close(outside(inputs_for(TinyTransformer)), inside, rtol=1e-5, atol=1e-6)


def test_the_model_is_left_as_it_was_and_calibration_is_not_training():
    model = make(SmallCNN).train()
    before = bits(model)
    candidate = static(inputs_for(SmallCNN)).compress(model)
    assert same_bits(bits(model), before)
    assert candidate.training
    assert torch.equal(candidate.features[1].running_mean, model.features[1].running_mean)
    assert not candidate.features[1]._forward_pre_hooks
    assert same_bits(bits(static(inputs_for(SmallCNN)).compress(model)), bits(candidate))


def test_inputs_that_are_not_finite_are_refused():
    inputs = inputs_for(SmallCNN)
    inputs[0, 0, 0, 0] = float("nan")
    with pytest.raises(CompressionError, match=r"features\.0 gets NaN or Inf"):
        static(inputs).compress(make(SmallCNN))


def test_inputs_of_zeros_and_empty_batches():
    layer = nn.Linear(4, 3)
    candidate = static(torch.zeros(2, 4)).compress(layer)
    assert torch.equal(candidate(torch.zeros(2, 4)), layer.bias.expand(2, 3))
    assert candidate(torch.zeros(0, 4)).shape == (0, 3)
    assert candidate(torch.full((1, 4), float("nan"))).isnan().all()


def test_gradients_flow_inside_the_range_only():
    layer = nn.Linear(1, 1)
    candidate = static(torch.tensor([[-1.0], [1.0]])).compress(layer)
    leaf = torch.tensor([[0.5], [3.0]], requires_grad=True)
    candidate(leaf).sum().backward()
    assert leaf.grad.flatten().tolist() == [candidate.weight.item(), 0]


CALLS = {"data": None}


def factory():
    return CALLS["data"]


FACTORY = f"{__name__}:factory"


def test_a_scheme_with_a_factory_is_text_and_its_content_is_the_datas(tmp_path, monkeypatch):
    model, images = make(SmallCNN), inputs_for(SmallCNN)
    scheme = Quantize("int8", "static", calibration=FACTORY)
    assert parse_scheme(str(scheme)) == scheme
    monkeypatch.setitem(CALLS, "data", (images, torch.arange(4)))
    candidate = scheme.compress(model)
    same = static(images).compress(model)
    assert same_bits(bits(candidate), bits(same))
    content = scheme_content(Prune(0.5) | scheme)
    cache, cpu = CompressedModelCache(tmp_path), torch.device("cpu")
    first = cache.compress(model, scheme, cpu)
    assert cache.compress(model, scheme, cpu) is first
    assert same_bits(bits(CompressedModelCache(tmp_path).compress(model, scheme, cpu)), bits(first))
    monkeypatch.setitem(CALLS, "data", 3 * images)
    assert scheme_content(Prune(0.5) | scheme) != content
    other = cache.compress(model, scheme, cpu)
    assert other.features[0].int8_input_scale == pytest.approx(3 * first.features[0].int8_input_scale.item())


def test_calibration_data_is_a_value():
    images = inputs_for(SmallCNN)
    data = CalibrationData(images)
    images_after = images.clone()
    images.zero_()
    assert data == CalibrationData((images_after, torch.zeros(4, dtype=torch.int64)))
    assert data != CalibrationData(images)
    assert hash(Quantize("int8", "static", calibration=data)) == hash(static(images_after))
    assert pickle.loads(pickle.dumps(static(images_after))) == static(images_after)
    for wrong in (torch.zeros(0, 3), torch.tensor(1.0), 3):
        with pytest.raises(InvalidArgumentError, match="CalibrationData"):
            CalibrationData(wrong)


@pytest.mark.parametrize("name", ["no_such_module:factory", f"{__name__}:nothing", f"{__name__}:CALLS"])
def test_a_factory_that_is_missing_is_named(name):
    with pytest.raises(InvalidArgumentError, match="calibration"):
        Quantize("int8", "static", calibration=name).compress(make(SmallCNN))


@pytest.mark.parametrize("kind", [SmallCNN, TokenLSTM, TinyTransformer])
def test_it_is_stored_and_loaded(kind, tmp_path):
    model, inputs = make(kind), inputs_for(kind)
    candidate = static(inputs).compress(model)
    save(candidate, tmp_path / "model.cp")
    loaded = load(tmp_path / "model.cp", make(kind, seed=4))
    assert same_bits(bits(loaded), bits(candidate))
    with torch.no_grad():
        assert torch.equal(loaded(inputs), candidate(inputs))
