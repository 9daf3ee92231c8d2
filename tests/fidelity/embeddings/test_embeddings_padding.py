"""Level B of encoders: padding has no part in it, no logits are needed, and the default is what reaches the output."""

import copy

import pytest
import torch
from torch import nn

from cp_compress import ObservationError, Quantize
from cp_compress.fidelity import compare_embeddings, layer_features, observe
from cp_compress.fidelity.embeddings.default_layer import default_layer

IDS = torch.randint(3, 50, (24, 6), generator=torch.Generator().manual_seed(0))
WIDE = torch.cat([IDS, torch.zeros(24, 5, dtype=torch.int64)], dim=1)


class Encoder(nn.Module):
    """A transformer with a pooler that its users leave alone."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(50, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.dense = nn.Linear(16, 16)
        self.pooler = nn.Linear(16, 16)

    def forward(self, input_ids, attention_mask):
        states = self.embedding(input_ids)
        states = self.dense(self.layer(states, src_key_padding_mask=attention_mask == 0))
        return {"states": states, "pooled": torch.tanh(self.pooler(states[:, 0]))}


class Sentences(nn.Module):
    """What is shipped: the mean over the places that count."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids, attention_mask):
        states = self.encoder(input_ids, attention_mask)["states"]
        counts = attention_mask[..., None].float()
        return nn.functional.normalize((states * counts).sum(1) / counts.sum(1), dim=1)


class OfIds(nn.Module):
    """Makes the mask itself, and classifies."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(16, 3)

    def forward(self, ids):
        return self.head(self.encoder(input_ids=ids, attention_mask=(ids != 0).long())["states"][:, 0])


ENCODER = Encoder().eval()
SHORT = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
LONG = {"input_ids": WIDE, "attention_mask": (WIDE != 0).long()}


def embedded(candidate, reference, data, output=None, **options):
    return compare_embeddings(
        observe(candidate, data, output=output), observe(reference, data, output=output), **options
    )


def candidate_of(model):
    return Quantize("int4", group_size=4).compress(model)


@pytest.mark.parametrize("layer", [None, "encoder.dense", "encoder.layer.norm1", "encoder.layer.linear1"])
def test_padded_and_unpadded_texts_give_the_same_distances(layer):
    reference = Sentences(ENCODER).eval()
    candidate = candidate_of(reference)
    one, other = (embedded(candidate, reference, data, layer=layer) for data in (SHORT, LONG))
    for name, value in one.metrics.items():
        assert other.metrics[name] == pytest.approx(value, rel=1e-3, abs=1e-6, nan_ok=True)
    assert one.metrics["mean_angle"] > 1e-3


@pytest.mark.parametrize("layer", ["encoder.dense", "encoder.embedding", "input:encoder.layer"])
def test_a_mask_that_the_model_makes_itself_counts_where_no_label_says_so(layer):
    model = OfIds(ENCODER).eval()
    long, short = (
        layer_features(observe(model, (ids, torch.zeros(24, dtype=torch.int64))), [layer])[layer] for ids in (WIDE, IDS)
    )
    torch.testing.assert_close(long, short, rtol=1e-4, atol=1e-5)


def test_the_default_is_on_the_way_to_what_is_compared():
    reference = Sentences(ENCODER).eval()
    assert default_layer(observe(reference, LONG)) == "output:"  # pooled from places, so what is shipped
    assert default_layer(observe(reference, (LONG, torch.zeros(24, dtype=torch.int64)))) == "output:"  # made-up labels
    found = embedded(candidate_of(reference), reference, LONG)
    ours, theirs = (model(**LONG).detach() for model in (candidate_of(reference), reference))
    angles = torch.acos((ours * theirs).sum(1).double().clamp(-1, 1))
    assert found.metrics["mean_angle"] == pytest.approx(float(angles.mean()), rel=1e-2)
    assert default_layer(observe(OfIds(ENCODER).eval(), WIDE)) == "input:head"


def test_the_last_layer_that_runs_is_passed_over_where_nothing_uses_it():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.body, self.head, self.other = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 8)

        def forward(self, inputs):
            hidden = torch.relu(self.body(inputs))
            logits = self.head(hidden)
            self.other(hidden)
            return logits

    data = torch.randn(12, 4), torch.arange(12) % 3
    assert default_layer(observe(Unused().eval(), data)) == "input:head"

    class Dead(Unused):
        def forward(self, inputs):
            super().forward(inputs)
            return inputs[:, :3]

    with pytest.raises(
        ObservationError, match=r"no linear layer .* on the way .*looked at were other, head, body.*layer="
    ):
        default_layer(observe(Dead().eval(), data))


def test_an_encoder_needs_no_logits_and_several_outputs_a_name():
    candidate = candidate_of(ENCODER)
    with pytest.raises(ObservationError, match=r"states .1, 11, 16., pooled .1, 16.; name .* output='states'"):
        embedded(candidate, ENCODER, LONG)
    by_name = embedded(candidate, ENCODER, LONG, output="states")
    by_layer = embedded(candidate, ENCODER, LONG, layer="dense")
    assert by_name.details["layers"][0]["layer"] == "output:"
    assert by_name.metrics == pytest.approx(by_layer.metrics, nan_ok=True)
    pooled = embedded(candidate, ENCODER, LONG, output="pooled")
    assert pooled.details["layers"][0]["layer"] == "input:pooler"
    with pytest.raises(ObservationError, match="expected a tensor of logits"):
        _ = observe(ENCODER, LONG).logits
    broken = copy.deepcopy(ENCODER)
    with torch.no_grad():
        broken.pooler.weight.zero_()
    assert embedded(broken, ENCODER, LONG, output="states").metrics["mean_angle"] == pytest.approx(0, abs=1e-6)
