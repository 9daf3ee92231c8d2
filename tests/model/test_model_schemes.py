"""What all schemes have in common: their text, their laws, and that the model given is never touched."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_networks import (
    SmallCNN,
    TiedAutoencoder,
    TinyTransformer,
    TokenLSTM,
    Waves,
    bits,
    inputs_for,
    make,
    same_bits,
)
from torch import nn

import cp_compress.model
from cp_compress.base.digests import digest_model
from cp_compress.base.errors import CompressionError, InvalidArgumentError
from cp_compress.model import (
    BlockPrune,
    Compose,
    FilterPrune,
    FixedPoint,
    LowRank,
    NeuronPrune,
    NMPrune,
    Prune,
    Quantize,
    Scheme,
    StructurePrune,
    compression_report,
    compression_steps,
    parse_scheme,
)
from cp_compress.model.registry import known_schemes
from cp_compress.model.settings import CRITERIA

densities = st.floats(min_value=1e-9, max_value=1, exclude_min=True)
names = st.text(min_size=1, max_size=8).filter(lambda text: text != "type:")
patterns = st.lists(names, max_size=3).map(tuple)
single = st.one_of(
    st.builds(Prune, densities, st.sampled_from(["global", "layer"]), patterns, patterns),
    st.builds(
        lambda kind, density, scope, share, **options: kind(
            density, scope=scope, floor=share * density if scope == "global" else 0, **options
        ),
        st.sampled_from([FilterPrune, NeuronPrune, StructurePrune]),
        densities,
        st.sampled_from(["layer", "global"]),
        st.floats(0, 1),
        norm=st.sampled_from(CRITERIA),
        round_to=st.integers(1, 64),
        shrink=st.booleans(),
        example_shape=st.none() | st.lists(st.integers(1, 300), min_size=1, max_size=4).map(tuple),
        example_dtype=st.sampled_from(["auto", "float", "int64"]),
        include=patterns,
        exclude=patterns,
    ),
    st.builds(Quantize, st.sampled_from(["float16", "bfloat16", "int8"]), st.sampled_from(["weight", "dynamic"])),
    st.just(Quantize("int8", "dynamic")),
    st.builds(
        Quantize,
        st.sampled_from(["int8", "int4"]),
        group_size=st.none() | st.integers(1, 512),
        include=patterns,
        exclude=patterns,
    ),
    st.just(Quantize("int8", "static", calibration="package.module:factory")),
    st.builds(
        BlockPrune,
        densities,
        st.lists(st.integers(2, 9), min_size=2, max_size=4).map(tuple),
        st.sampled_from(["l1", "l2", "max", "mean"]),
        include=patterns,
    ),
    st.integers(2, 16).flatmap(lambda m: st.builds(NMPrune, st.integers(1, m - 1), st.just(m), patterns)),
    st.builds(LowRank, rank=st.integers(1, 512), exclude=patterns),
    st.builds(LowRank, energy=st.floats(0, 1, exclude_min=True, exclude_max=True)),
    st.builds(FixedPoint, st.integers(2, 16), st.none() | st.integers(-126, 126), patterns, patterns),
)
schemes = single | st.lists(single, min_size=2, max_size=4).map(lambda parts: Compose(*parts))


@given(schemes)
def test_text_and_scheme_are_exact_inverses(scheme):
    assert parse_scheme(repr(scheme)) == parse_scheme(str(scheme)) == scheme
    assert hash(parse_scheme(str(scheme))) == hash(scheme)
    assert pickle.loads(pickle.dumps(scheme)) == scheme
    assert isinstance(scheme, Scheme)


def test_every_registered_scheme_is_among_those_whose_texts_are_tried():
    tried = {Prune, BlockPrune, NMPrune, FilterPrune, NeuronPrune, StructurePrune, LowRank, Quantize, FixedPoint}
    assert set(known_schemes().values()) == tried


@pytest.mark.parametrize(
    ("scheme", "text"),
    [
        (Prune(0.1), "prune(density=0.1)"),
        (Quantize("float16"), "quantize(float16)"),
        (FixedPoint(), "fixed_point(bits=8)"),
        (FixedPoint(fraction_bits=4), "fixed_point(bits=8, fraction_bits=4)"),
        (NMPrune(), "nm_prune(n=2, m=4)"),
        (Quantize("int8", "dynamic"), "quantize(int8, mode=dynamic)"),
        (Prune(0.1) | Quantize("float16"), "prune(density=0.1) | quantize(float16)"),
        (FilterPrune(0.5), "filter_prune(density=0.5)"),
        (Prune(0.5, "layer", exclude="fc"), "prune(density=0.5, scope=layer, exclude=('fc',))"),
    ],
)
def test_the_text_of_schemes(scheme, text):
    assert str(scheme) == text
    assert parse_scheme(text) == scheme


def test_compositions_are_flat():
    first, second, third = Prune(0.5), Quantize("float16"), Quantize("int8")
    assert (first | second) | third == first | (second | third) == Compose(first, Compose(second, third))
    assert Compose(first, second).schemes == (first, second)


@pytest.mark.parametrize("parts", [(), (Prune(0.5),), (Prune(0.5), 8), (Prune(0.5), Quantize)])
def test_compositions_of_anything_else_are_refused(parts):
    with pytest.raises(InvalidArgumentError, match="Compose"):
        Compose(*parts)


@pytest.mark.parametrize(
    "text", ["", "shrink(density=1)", "prune(density=2)", "prune(0.1, depth=3)", "prune", 3, "1 | 2"]
)
def test_other_texts_are_refused(text):
    with pytest.raises(InvalidArgumentError):
        parse_scheme(text)


COMMON = [
    Prune(0.4),
    Prune(0.4, "layer"),
    Quantize("float16"),
    Quantize("bfloat16"),
    Quantize("float16", "dynamic"),
    Quantize("bfloat16", "dynamic"),
    Quantize("int8"),
    Quantize("int8", "dynamic"),
    Prune(0.5, "layer") | Quantize("bfloat16") | Quantize("int8"),
]
CONVOLUTIONAL = [
    FilterPrune(0.5),
    FilterPrune(0.5, shrink=False),
    FilterPrune(0.5) | Prune(0.5, "layer") | Quantize("float16"),
]


STRUCTURED = [StructurePrune(0.5, example_shape=None), StructurePrune(0.5, scope="global", shrink=False)]


def state_of(model):
    hooks = [(list(module._forward_hooks), list(module._forward_pre_hooks)) for module in model.modules()]
    flags = [(type(module), module.training) for module in model.modules()]
    gradients = [None if tensor.grad is None else tensor.grad.clone() for tensor in model.parameters()]
    return hooks, flags, [tensor.requires_grad for tensor in model.parameters()], gradients


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [(kind, scheme) for kind in (SmallCNN, TiedAutoencoder, TokenLSTM, TinyTransformer, Waves) for scheme in COMMON]
    + [(SmallCNN, scheme) for scheme in CONVOLUTIONAL]
    + [(kind, scheme) for kind in (TokenLSTM, Waves) for scheme in STRUCTURED]
    + [(TiedAutoencoder, STRUCTURED[1])]
    + [(TinyTransformer, StructurePrune(0.5, example_shape=(7, 8)))],
)
def test_a_scheme_makes_a_new_model_and_touches_nothing(kind, scheme):
    model, inputs = make(kind), inputs_for(kind)
    model(inputs).sum().backward()
    model.train()
    next(iter(model.children())).eval()
    model.register_forward_hook(lambda module, args, output: None)
    next(model.parameters()).requires_grad_(False)
    before, kept, digest, random = bits(model), state_of(model), digest_model(model), torch.get_rng_state()

    candidate = scheme.compress(model)

    assert same_bits(bits(model), before)
    after = state_of(model)
    assert after[:3] == kept[:3]
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(after[3], kept[3], strict=True))
    assert digest_model(model) == digest
    assert compression_steps(model) == ()
    assert torch.equal(torch.get_rng_state(), random)

    assert all(tensor.grad is None for tensor in candidate.parameters())
    own = {id(tensor) for tensor in [*model.parameters(), *model.buffers()]}
    assert not own & {id(tensor) for tensor in [*candidate.parameters(), *candidate.buffers()]}
    flags = {path: module.training for path, module in model.named_modules()}
    assert {path: module.training for path, module in candidate.named_modules()} == flags
    assert digest_model(candidate) != digest
    assert " | ".join(compression_steps(candidate)) == str(scheme)
    trained = {name: tensor.requires_grad for name, tensor in model.named_parameters()}
    assert all(tensor.requires_grad == trained[name] for name, tensor in candidate.named_parameters())
    output = candidate.eval()(inputs)
    assert output.dtype == torch.float32
    assert output.shape == model.eval()(inputs).shape
    assert bits(scheme.compress(model)).keys() == bits(candidate).keys()
    assert same_bits(bits(scheme.compress(model)), bits(candidate))


@pytest.mark.parametrize("scheme", [Prune(0.5), FilterPrune(0.5), Quantize("int8"), Quantize("float16")])
def test_every_scheme_refuses_what_is_no_model_and_what_is_not_finite(scheme):
    with pytest.raises(InvalidArgumentError, match="model"):
        scheme.compress(len)
    model = make(SmallCNN)
    model.features[3].weight.data[1, 1, 1, 1] = float("nan")
    with pytest.raises(CompressionError, match=r"features\.3\.weight"):
        scheme.compress(model)


def test_reports_are_plain_and_readable():
    model = make(TinyTransformer)
    report = compression_report(model, (Prune(0.5, "layer") | Quantize("int8")).compress(model))
    text = str(report)
    assert text.splitlines()[0] == "prune(density=0.5, scope=layer) | quantize(int8)"
    assert "skipped position" in text
    assert "float32 → int8" in text
    content = report.to_json()
    assert content["layers"][0]["name"] == "position"
    assert content["steps"] == ["prune(density=0.5, scope=layer)", "quantize(int8)"]
    assert {type(value) for layer in content["layers"] for value in layer.values()} <= {
        *(str, int, float, bool, list, type(None)),
    }


def test_a_report_on_a_model_from_elsewhere_gives_the_facts():
    model = make(SmallCNN)
    other = make(SmallCNN)
    other.classifier.weight.data[:, ::2] = 0
    other.features[0].bias = None
    other.extra = nn.Linear(2, 2)
    report = compression_report(model, other)
    changed = {layer.name: layer for layer in report.layers if layer.changed}
    assert set(changed) == {"classifier.weight", "features.0.bias"}
    assert changed["classifier.weight"].density == 0.5
    assert changed["features.0.bias"].shape_after is None
    assert report.steps == report.skipped == ()
    assert report.added == ("extra.weight", "extra.bias")
    assert "(no recorded scheme)" in str(report)


def test_a_report_of_removed_filters_has_both_shapes():
    model = make(SmallCNN)
    layers = {layer.name: layer for layer in compression_report(model, FilterPrune(0.5).compress(model)).layers}
    assert layers["features.3.weight"].shape_after == (6, 4, 3, 3)
    assert layers["features.3.weight"].density == 0.25
    assert layers["classifier.weight"].changed


def test_public_names_are_importable():
    assert all(getattr(cp_compress.model, name) is not None for name in cp_compress.model.__all__)
    assert callable(cp_compress.model.footprint)
