"""Models that answer at random are refused; those whose answers depend on the batch are not."""

import pytest
import torch
from torch import nn

from cp_compress.base.errors import ObservationError
from cp_compress.examples import digits, digits_cnn
from cp_compress.fidelity import compare_predictions, find_divergence, observe


class AlwaysDropping(nn.Module):
    """A model with dropout that evaluation mode does not turn off."""

    def __init__(self, model, share=0.5):
        super().__init__()
        self.model, self.share = model, share

    def forward(self, inputs):
        return self.model(nn.functional.dropout(inputs, self.share, training=True))


class ScaledByBatch(nn.Module):
    """A model whose logits have a scale that is taken from the batch, as dynamic quantisation has."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs):
        return self.model(inputs / inputs.abs().mean())


@pytest.mark.parametrize("share", [0.5, 0.02])
def test_a_model_with_dropout_always_on_is_refused(share):
    model, data = digits_cnn(), digits()
    seen = observe(AlwaysDropping(model, share), data)
    with pytest.raises(ObservationError, match="run again on the same 16 examples"):
        compare_predictions(seen, observe(model, data))


def test_a_search_refuses_it_too():
    model = AlwaysDropping(digits_cnn())
    seeds = observe(digits_cnn(), digits()).data.select(range(8))[0]
    with pytest.raises(ObservationError, match="random"):
        find_divergence(model, model, seeds, epsilon=0.2)
    with pytest.raises(ObservationError, match="random"):
        find_divergence(lambda inputs: model(inputs).argmax(dim=1), digits_cnn(), seeds, epsilon=0.2)


@pytest.mark.parametrize("convert", [ScaledByBatch, lambda model: nn.Sequential(model).bfloat16()])
def test_answers_that_depend_on_the_batch_are_no_chance(convert):
    inputs, labels = observe(digits_cnn(), digits()).data.select(range(100))
    model = convert(digits_cnn())
    data = inputs.to(next(model.parameters()).dtype), labels
    assert observe(model, data).logits.shape == (100, 10)


def test_a_few_examples_are_asked_about_once_more():
    asked = []

    def counting(inputs):
        asked.append(len(inputs))
        return torch.cat([inputs, -inputs], dim=1)

    data = torch.randn(100, 1), torch.zeros(100, dtype=torch.int64)
    assert len(observe(counting, data, batch_size=64).logits) == 100
    assert asked == [64, 36, 16]
