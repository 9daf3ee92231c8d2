"""`Conv1D` of transformers: in every scheme the linear layer that it is, to the bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from cp_compress.model import (
    CalibrationData,
    Quantize,
    compression_report,
    footprint,
    load,
    measure_coverage,
    parse_scheme,
    save,
)
from cp_compress.model.pruning.masks import find_masks

transformers = pytest.importorskip("transformers")

TOKENS = torch.randint(0, 60, (6, 12), generator=torch.Generator().manual_seed(0))
EXAMPLE = "example_shape=(12,), example_dtype=int64"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = {"n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 16, "bos_token_id": 0, "eos_token_id": 0}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=60, **config)).eval()


@pytest.fixture(scope="module")
def twin(model):
    """The same model with linear layers."""
    made = copy.deepcopy(model)
    for path in paths(model):
        layer = made.get_submodule(path)
        linear = nn.Linear(*layer.weight.shape)
        linear.weight.data, linear.bias.data = layer.weight.data.t().contiguous(), layer.bias.data.clone()
        made.set_submodule(path, linear)
    return made.eval()


def paths(model):
    return [path for path, layer in model.named_modules() if type(layer).__name__ == "Conv1D"]


@pytest.mark.parametrize(
    "scheme",
    [
        "prune(density=0.3)",
        "prune(density=0.3, scope=layer)",
        "block_prune(density=0.6, block_size=(4, 2), scope=layer)",
        "nm_prune(n=2, m=4)",
        "quantize(int8)",
        "quantize(int4, group_size=10)",
        "quantize(int8, mode=dynamic)",
        "quantize(int4, mode=static)",
        "quantize(float16)",
        "fixed_point(bits=6)",
        "low_rank(rank=3)",
        f"neuron_prune(density=0.5, shrink=False, {EXAMPLE})",
        f"neuron_prune(density=0.5, {EXAMPLE})",
        f"structure_prune(density=0.5, scope=global, norm=geometric_median, {EXAMPLE})",
        "prune(density=0.5) | quantize(int8)",
    ],
)
@torch.no_grad()
def test_candidates_are_those_of_linear_layers(scheme, model, twin, tmp_path):
    if "static" in scheme:
        made = Quantize("int4", "static", calibration=CalibrationData(TOKENS))
    else:
        made = parse_scheme(scheme)
    candidate, expected = made.compress(model), made.compress(twin)
    assert len(paths(model)) == 8
    for path in paths(model):
        ours, theirs = candidate.get_submodule(path), expected.get_submodule(path)
        assert isinstance(ours, type(model.get_submodule(path)))
        assert torch.equal(ours.bias, theirs.bias)
        if hasattr(ours, "weight_left"):  # their products are summed in another order
            assert torch.equal(ours.weight_left, theirs.weight_right.t())
            assert torch.equal(ours.weight_right, theirs.weight_left.t())
        else:
            assert torch.equal(ours.weight.t(), theirs.weight)
    assert torch.allclose(candidate(TOKENS).logits, expected(TOKENS).logits, atol=1e-5)
    ours, theirs = (measure_coverage(*pair) for pair in ((candidate, model), (expected, twin)))
    assert (ours.changed_layers, ours.changed_weights) == (theirs.changed_layers, theirs.changed_weights)
    assert ours.changed_layers >= 6  # heads, ranked with neurons, may all stay in a layer
    save(candidate, tmp_path / "model.cp")
    again = load(tmp_path / "model.cp", model)
    assert torch.equal(again(TOKENS).logits, candidate(TOKENS).logits)
    sizes = [footprint(each) for each in (candidate, expected)]
    assert sizes[0].parameters == sizes[1].parameters
    assert sizes[0].nonzero == sizes[1].nonzero


def test_a_tied_table_is_named_when_it_changes(model):
    report = compression_report(model, parse_scheme("quantize(int8)").compress(model))
    told = "transformer.wte.weight is the table of an embedding, tied to lm_head.weight: both changed"
    assert told in report.coverage.notes
    assert told in str(report)
    report = compression_report(model, parse_scheme("quantize(int8, mode=dynamic)").compress(model))
    assert not any(told in note for note in report.coverage.notes)
    assert "tied to the table transformer.wte" in report.coverage.notes[0]


def test_zeroed_columns_hold_their_biases(model):
    candidate = parse_scheme(f"neuron_prune(density=0.5, shrink=False, {EXAMPLE})").compress(model)
    masks = find_masks(candidate, model)
    for path in paths(model):
        layer = candidate.get_submodule(path)
        dead = ~layer.weight.any(0)
        assert bool(dead.any())
        assert bool((masks[f"{path}.weight"].any(0) == ~dead).all())
