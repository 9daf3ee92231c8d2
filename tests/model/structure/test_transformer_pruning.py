"""Heads and hidden neurons of transformers: removed equals zeroed, configurations follow, generation and files work."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from cp_compress.model import StructurePrune, load, save

transformers = pytest.importorskip("transformers")


def llama(**options):
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=2,
        vocab_size=50,
        max_position_embeddings=32,
        **{"num_attention_heads": 8, "num_key_value_heads": 4, **options},
    )
    return shaken(transformers.LlamaForCausalLM(config))


def shaken(model):
    """A model in which no bias is zero and no two units are equal."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def tokens(model):
    return torch.randint(3, model.config.vocab_size, (3, 9), generator=torch.Generator().manual_seed(1))


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("groups", "heads", "left"), [(4, 4, 2), (8, 4, 4), (1, 4, 1), (2, 4, 1)])
def test_a_llama_shrinks_by_groups_and_by_neurons(groups, heads, left, attention, tmp_path):
    biases = {"attention_bias": True, "mlp_bias": True}
    model = llama(num_key_value_heads=groups, attn_implementation=attention, **biases)
    ids = tokens(model)
    shrunk = StructurePrune(0.5).compress(model)
    masked = StructurePrune(0.5, shrink=False).compress(model)
    config = shrunk.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.intermediate_size) == (heads, left, 12)
    assert (model.config.num_attention_heads, model.config.intermediate_size) == (8, 24)
    layer = shrunk.model.layers[0]
    assert (layer.self_attn.num_key_value_groups, layer.mlp.intermediate_size) == (heads // left, 12)
    assert count(shrunk) < 0.7 * count(model)
    output = shrunk(ids).logits
    torch.testing.assert_close(output, masked(ids).logits, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(output, model(ids).logits, atol=0.1)

    anew = transformers.LlamaForCausalLM(config).eval()
    anew.load_state_dict(shrunk.state_dict())
    assert torch.equal(anew(ids).logits, output)

    save(model, tmp_path / "model.cp")
    save(shrunk, tmp_path / "shrunk.cp")
    assert (tmp_path / "shrunk.cp").stat().st_size < 0.7 * (tmp_path / "model.cp").stat().st_size
    loaded = load(tmp_path / "shrunk.cp", model)
    assert torch.equal(loaded(ids).logits, output)
    assert loaded.config.num_key_value_heads == left
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}
    written = masked.generate(ids, **options)
    for other in (shrunk, loaded):
        assert torch.equal(other.generate(ids, use_cache=True, **options), written)
        assert torch.equal(other.generate(ids, use_cache=False, **options), written)


def test_layers_that_differ_have_their_own_sizes_and_the_configuration_stays(tmp_path):
    model = llama()
    ids = tokens(model)
    for scheme in (StructurePrune(0.5, include="model.layers.1.*"), StructurePrune(0.6, scope="global", norm="l2")):
        shrunk = scheme.compress(model)
        widths = [layer.mlp.down_proj.in_features for layer in shrunk.model.layers]
        assert len(set(widths)) == 2
        assert [layer.mlp.intermediate_size for layer in shrunk.model.layers] == widths
        assert shrunk.config.intermediate_size == 24
        masked = dataclasses.replace(scheme, shrink=False).compress(model)
        torch.testing.assert_close(shrunk(ids).logits, masked(ids).logits, rtol=1e-4, atol=1e-5)
        save(shrunk, tmp_path / "model.cp")
        assert torch.equal(load(tmp_path / "model.cp", model)(ids).logits, shrunk(ids).logits)
