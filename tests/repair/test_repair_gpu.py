"""Repairs on a GPU: what they give is that of the CPU, on the device of the model given."""

import pytest
import torch
from torch.utils.data import Subset

from cp_compress import JPEG, CompressedDataset
from cp_compress.examples import digits, digits_cnn, digits_training
from cp_compress.search import PreserveAttribution, adapt, recalibrate_batchnorm

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("layer_by_layer", [False, True])
def test_statistics_are_those_of_the_cpu(gpu, layer_by_layer):
    settings = {"examples": 500, "layer_by_layer": layer_by_layer}
    expected = recalibrate_batchnorm(digits_cnn(), digits_training(), **settings).state_dict()
    for model, device in ((digits_cnn(), gpu), (digits_cnn().to(gpu), None)):
        found = recalibrate_batchnorm(model, digits_training(), device=device, **settings)
        place = next(model.parameters()).device.type
        for name, value in found.state_dict().items():
            assert value.device.type == place
            torch.testing.assert_close(value.cpu(), expected[name], rtol=1e-3, atol=1e-4)


def test_a_model_is_adapted_on_the_gpu_and_comes_back(gpu):
    model, codec = digits_cnn(), JPEG(3)
    clean, held = Subset(digits_training(), range(256)), Subset(digits(), range(120))
    stored, seen = CompressedDataset(clean, codec), CompressedDataset(held, codec)
    settings = {"epochs": 2, "clean_weight": 0.5, "preserve": [PreserveAttribution(at_most=0.2)]}
    found = adapt(model, model, stored, clean, validation=(seen, held), device=gpu, **settings)
    assert next(found.model.parameters()).device.type == "cpu"
    assert found.decoded.after.metrics["accuracy"] > found.decoded.before.metrics["accuracy"]
