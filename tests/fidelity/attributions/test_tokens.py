"""Level C on token ids: occlusion against brute force, gradients at the embedding against their closed form."""

import pytest
import torch
from torch import nn

from cp_compress import Quantize, compare_attributions, observe
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.attributions.maps import compute_maps
from cp_compress.fidelity.attributions.methods.known import as_attribution_method


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(30, 8), nn.Linear(8, 3)

    def forward(self, ids):
        return self.head(torch.relu_(self.table(ids)).mean(1))


@pytest.fixture(scope="module", params=[True, False], ids=["trainable", "frozen"])
def model(request):
    torch.manual_seed(0)
    return Tokens().eval().requires_grad_(request.param)


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, 30, (12, 5), generator=generator), torch.arange(12) % 3


def maps_of(model, data, method):
    targets = torch.arange(12) % 3
    return compute_maps(observe(model, data), as_attribution_method(method), torch.arange(12), targets).maps, targets


def test_occlusion_is_the_change_without_the_token(model, data):
    maps, targets = maps_of(model, data, "occlusion(window=1, stride=1)")
    with torch.no_grad():
        whole = model(data[0])
        for place in range(5):
            without = data[0].clone()
            without[:, place] = 0
            change = (whole - model(without)).gather(1, targets[:, None])[:, 0]
            torch.testing.assert_close(maps[:, place], change, rtol=1e-4, atol=1e-6)


def test_gradients_at_the_embedding(model, data):
    maps, targets = maps_of(model, data, "saliency(layer='table')")
    expected = model.head.weight[targets][:, None, :] * (model.table(data[0]) > 0) / 5
    torch.testing.assert_close(maps, expected.detach())
    found = compare_attributions(
        observe(Quantize("int8").compress(model), data), observe(model, data), "integrated_gradients(layer='table')"
    )
    assert found.metrics["mean_iou"] > 0.9
    assert found.details["completeness_gap"]["reference"] < 0.1


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("saliency", r"gradients need inputs of a floating-point dtype.*saliency\(layer='table'\).*occlusion"),
        ("smooth_grad(samples=2)", r"saliency\(layer='table'\)"),
        ("integrated_gradients(layer='table', baseline=0.5)", "a whole number"),
    ],
)
def test_what_cannot_explain_tokens_says_what_can(model, data, method, told):
    observed = observe(model, data)
    with pytest.raises(ObservationError, match=told):
        compare_attributions(observed, observed, method)
