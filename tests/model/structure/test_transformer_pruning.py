"""Heads and hidden neurons of transformers: removed equals zeroed, configurations follow, generation and files work."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torchvision
from torch import nn

from cp_compress.base.errors import CompressionError
from cp_compress.model import StructurePrune, compression_report, load, save

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


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50, "intermediate_size": 24}
GROUPED = {**SIZES, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT2 = {"n_embd": 32, "n_head": 4, "n_layer": 2, "vocab_size": 50}
VISION = {**SIZES, "image_size": 16, "patch_size": 8}


def of(name, sizes, **options):
    """A small model of transformers, by the name of its class."""
    kind = getattr(transformers, name)
    return kind(kind.config_class(**sizes, **options))


class Decoder(nn.Module):
    """Attention of torch on itself and on something else, with masks, a bias each and weights that are asked for."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(50, 32), nn.Linear(32, 50)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(32, 4, 24, norm_first=True), 2)
        self.other = nn.MultiheadAttention(32, 4, kdim=16, vdim=16, batch_first=True, bias=False)

    def forward(self, ids):
        hidden = self.table(ids)
        mask = torch.triu(torch.full((ids.shape[1],) * 2, -torch.inf, dtype=hidden.dtype), 1)
        turned = hidden.transpose(0, 1)
        turned = self.decoder(turned, turned.flip(0), tgt_mask=mask, memory_key_padding_mask=ids == 3)
        hidden = turned.transpose(0, 1)
        mixed, weights = self.other(hidden, hidden[..., :16], hidden[..., 16:], attn_mask=mask.T < 0)
        return self.head(mixed) + weights.mean()


NETWORKS = {
    "BertModel": (lambda: of("BertModel", SIZES), "encoder.layer.0.attention.self.num_attention_heads"),
    "DistilBertForSequenceClassification": (
        lambda: of(
            "DistilBertForSequenceClassification",
            {"dim": 32, "hidden_dim": 24, "n_heads": 4, "n_layers": 2, "vocab_size": 50},
        ),
        "distilbert.transformer.layer.0.attention.n_heads",
    ),
    "GPT2LMHeadModel": (lambda: of("GPT2LMHeadModel", GPT2), "transformer.h.0.attn.num_heads"),
    "GPTBigCodeForCausalLM": (lambda: of("GPTBigCodeForCausalLM", GPT2), "transformer.h.0.attn.num_heads"),
    "GPTNeoXForCausalLM": (lambda: of("GPTNeoXForCausalLM", SIZES), "gpt_neox.config.num_attention_heads"),
    "Qwen3ForCausalLM": (
        lambda: of("Qwen3ForCausalLM", GROUPED, head_dim=16, tie_word_embeddings=True),
        "config.num_attention_heads",
    ),
    "Phi3ForCausalLM": (lambda: of("Phi3ForCausalLM", GROUPED), "config.num_attention_heads"),
    "ViTForImageClassification": (
        lambda: of("ViTForImageClassification", VISION),
        "vit.layers.0.attention.num_attention_heads",
    ),
    "VisionTransformer": (
        lambda: torchvision.models.VisionTransformer(16, 8, 2, 4, 32, 24, num_classes=5),
        "encoder.layers.encoder_layer_0.self_attention.num_heads",
    ),
    "TransformerEncoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 24, batch_first=True), 2),
        "layers.0.self_attn.num_heads",
    ),
    "Decoder": (Decoder, "decoder.layers.1.multihead_attn.num_heads"),
}


def results(model, inputs):
    with torch.no_grad():
        found = model(inputs)
    if isinstance(found, torch.Tensor):
        return found
    return found.logits if "logits" in found else found.last_hidden_state


def has(model, path):
    value = model
    for name in path.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", NETWORKS)
def test_heads_and_neurons_of_other_transformers_go(name, tmp_path):
    make, heads = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = shaken(make())
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randint(3, 50, (3, 9), generator=generator)
    if "Vi" in name:
        inputs = torch.rand(3, 3, 16, 16, generator=generator)
    if name == "TransformerEncoder":
        inputs = torch.rand(3, 9, 32, generator=generator)
    scheme = StructurePrune(0.5)
    shrunk, masked = scheme.compress(model), dataclasses.replace(scheme, shrink=False).compress(model)
    assert has(shrunk, heads) == 2
    assert has(model, heads) == 4
    done = [" ".join(layer.actions) for layer in compression_report(model, shrunk).layers]
    assert sum(" heads removed" in one or "groups removed" in one for one in done) >= 2
    assert sum("neurons removed" in one for one in done) == (2 if name != "Qwen3ForCausalLM" else 4)
    assert not any("zeroed" in one for one in done)
    assert count(shrunk) < 0.9 * count(model)
    output = results(shrunk, inputs)
    torch.testing.assert_close(output, results(masked, inputs), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(output, results(model, inputs), atol=1e-2)
    save(shrunk, tmp_path / "model.cp")
    loaded = load(tmp_path / "model.cp", model)
    assert torch.equal(results(loaded, inputs), output)
    again = (StructurePrune(0.5) | "quantize(int8)").compress(loaded)
    assert has(again, heads) == 1
    if name == "TransformerEncoder":  # padded places are left out of the attention, as before
        padded = torch.arange(9) >= torch.tensor([[9], [6], [4]])
        with torch.no_grad():
            pair = [one(inputs, src_key_padding_mask=padded)[~padded] for one in (shrunk, masked)]
        torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-5)


class OverAllHeads(nn.Module):
    """Attention that cannot lose a head: it computes the size of one from its inputs, as small GPTs do."""

    def __init__(self):
        super().__init__()
        self.n_head, self.n_embd = 4, 32
        self.c_attn, self.c_proj = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, hidden):
        batch, length, width = hidden.shape
        parts = (
            one.view(batch, length, self.n_head, width // self.n_head).transpose(1, 2)
            for one in self.c_attn(hidden).split(width, dim=2)
        )
        mixed = nn.functional.scaled_dot_product_attention(*parts)
        return self.c_proj(mixed.transpose(1, 2).reshape(batch, length, width))


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.attention, self.head = nn.Embedding(50, 32), OverAllHeads(), nn.Linear(32, 50)
        self.up, self.down, self.router = nn.Linear(32, 24), nn.Linear(24, 32), nn.Linear(32, 6)

    def forward(self, ids):
        hidden = self.table(ids)
        hidden = hidden + self.attention(hidden)
        weight = self.router(hidden).softmax(-1).amax(-1, keepdim=True)
        return self.head(hidden + weight * self.down(self.up(hidden).relu()))


def test_what_is_not_understood_stays_and_is_named():
    networks = [
        (Blocks, "attention.c_attn.weight", "takes their size from that of its inputs"),
        (lambda: of("MPNetModel", SIZES), "encoder.layer.0.attention.attn.q.weight", "position bias for each head"),
        (lambda: of("Olmo2ForCausalLM", GROUPED), "model.layers.0.self_attn.k_proj.weight", "norm over all of them"),
    ]
    for make, left, reason in networks:
        model = shaken(make())
        shrunk = StructurePrune(0.5).compress(model)
        report = compression_report(model, shrunk)
        told = {skip.name: skip.reason for skip in report.skipped}
        assert reason in told[left]
        assert torch.equal(shrunk.get_parameter(left), model.get_parameter(left))
        assert sum("neurons removed" in " ".join(layer.actions) for layer in report.layers) >= 1
        if make is Blocks:
            assert "hidden width" in told["attention.c_proj.weight"]
            assert told["router.weight"].startswith("its neurons stay")
    model = llama()
    with pytest.raises(
        CompressionError, match=r"q_proj.*go together with those of .*k_proj, .*v_proj, which stay whole"
    ):
        StructurePrune(0.5, include="*.q_proj").compress(model)


def test_strengths_are_those_of_all_weights_that_give_a_unit():
    model = llama()
    shrunk = StructurePrune(0.5, include="model.layers.0.*").compress(model)
    attention, mlp = model.model.layers[0].self_attn, model.model.layers[0].mlp
    groups = [layer.weight.detach().abs().reshape(4, -1).sum(1) for layer in (attention.q_proj, attention.k_proj)]
    groups = sum(groups) + attention.v_proj.weight.detach().abs().reshape(4, -1).sum(1)
    kept = torch.isin(torch.arange(4), groups.topk(2).indices)
    keys = shrunk.model.layers[0].self_attn.k_proj.weight
    assert torch.equal(keys, attention.k_proj.weight.view(4, 4, 32)[kept].flatten(0, 1))
    neurons = (mlp.gate_proj.weight.abs() + mlp.up_proj.weight.abs()).sum(1)
    chosen = neurons.topk(12).indices.sort().values
    assert torch.equal(shrunk.model.layers[0].mlp.down_proj.weight, mlp.down_proj.weight[:, chosen])
    aligned = StructurePrune(0.6, round_to=8).compress(model)  # channels: two heads of four each, and neurons
    assert aligned.model.layers[0].mlp.up_proj.out_features == 16
    assert aligned.model.layers[0].self_attn.q_proj.out_features % 8 == 0
