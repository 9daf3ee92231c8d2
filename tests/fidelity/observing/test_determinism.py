"""Models that answer at random are refused; of those whose answers depend on the batch it is told how far."""

import itertools

import pytest
import torch
from torch import nn

from cp_compress.base.errors import InvalidArgumentError, ObservationError
from cp_compress.examples import digits, digits_cnn
from cp_compress.fidelity import compare_predictions, find_divergence, observe
from cp_compress.fidelity.observing.batch_dependence import require_known_batches
from cp_compress.model import parse_scheme


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
    assert asked == [64, 36, 8, 8]


class OneScale(nn.Module):
    """A model whose inputs are rounded with one scale for the batch, as dynamic quantisation of activations does."""

    def __init__(self, bits):
        super().__init__()
        self.inner, self.levels = digits_cnn(), 2 ** (bits - 1) - 1

    def forward(self, inputs):
        scale = inputs.abs().amax() / self.levels
        return self.inner((inputs / scale).round() * scale)


def left_in_training():
    norm, model = nn.BatchNorm2d(1).train(), digits_cnn()
    return lambda inputs: model(norm(inputs) * 0.3 + 0.2).detach()


def exposed(*, falling):
    """Digits of different exposures, which only rise, or only fall."""
    images, labels = (part[:120] for part in digits().tensors)
    images = images * torch.linspace(0.1, 1, 120)[:, None, None, None]
    return (images.flip(0), labels.flip(0)) if falling else (images, labels)


@pytest.mark.parametrize("falling", [False, True])
@pytest.mark.parametrize(
    "model",
    [
        OneScale(3),
        OneScale(8),
        nn.Sequential(digits_cnn(), nn.BatchNorm1d(10, track_running_stats=False)),
        left_in_training(),
        lambda inputs: digits_cnn()(inputs).softmax(dim=0),
    ],
)
def test_answers_that_depend_on_the_neighbours_are_found(model, falling):
    for size in (4, 16, 50):
        found = observe(model, exposed(falling=falling), batch_size=size).batch_dependence
        assert found.on_neighbours, size
        assert found.share > 0
        assert found.asked == min(size, 16)


def test_what_is_told_of_the_batch():
    data = exposed(falling=False)
    reference = observe(digits_cnn(), data, batch_size=50)
    coarse, fine = (observe(OneScale(bits), data, batch_size=50) for bits in (3, 8))
    measured = compare_predictions(coarse, reference)
    assert "the candidate's answers depend on who else is in the batch" in measured.notes[-1]
    assert measured.notes[-1].endswith("they were taken in batches of 50, the last of 20")
    details = measured.details["batch_dependence"]
    assert (details["batch_size"], details["deployed"], details["reference"]) == (50, False, None)
    assert details["candidate"]["on_neighbours"]
    with pytest.raises(ObservationError, match=r"candidate's answers depend on who else .*, of 50 here"):
        require_known_batches(coarse, reference)
    require_known_batches(fine, reference)  # its numbers move by less than its own rounding
    deployed = observe(OneScale(3), data, deployed_batch_size=50)
    require_known_batches(deployed, reference)
    assert torch.equal(deployed.logits, coarse.logits)
    few = observe(OneScale(3), data, deployed_batch_size=150)
    assert "one batch of 120, which is all the data, where 150" in compare_predictions(few, reference).notes[-1]


@pytest.mark.parametrize(
    "convert",
    [
        lambda model: model.half(),
        lambda model: model.bfloat16(),
        lambda model: model.double(),
        lambda model: model.to(memory_format=torch.channels_last),
        lambda model: parse_scheme("quantize(int8)").compress(model),
        lambda model: parse_scheme("quantize(float16)").compress(model),
        lambda model: parse_scheme("quantize(int8, mode=dynamic)").compress(model),
        lambda model: parse_scheme('quantize(int8, mode=static, calibration="cp_compress.examples:digits")').compress(
            model
        ),
    ],
)
def test_no_alarm_for_rounding(convert):
    model = convert(original := digits_cnn())
    dtype = next(model.parameters()).dtype if model is original else torch.float32
    for falling, size in itertools.product([False, True], [1, 2, 7, 120]):
        inputs, labels = exposed(falling=falling)
        assert observe(model, (inputs.to(dtype), labels), batch_size=size).batch_dependence is None


def test_a_batch_size_that_changes_answers_is_told_and_not_blamed_on_neighbours():
    model, data = digits_cnn(), exposed(falling=False)
    seen = observe(lambda inputs: model(inputs).detach() * len(inputs), data, batch_size=100)
    found = seen.batch_dependence
    assert not found.on_neighbours
    assert not found.decides
    assert found.share == pytest.approx(0.92)  # 8 of 100
    assert found.changed == 0


def test_a_deployed_batch_size_is_kept():
    asked = []

    def hungry(inputs):
        asked.append(len(inputs))
        if len(inputs) > 40:
            raise torch.cuda.OutOfMemoryError("too large")
        return torch.cat([inputs, -inputs], dim=1)

    data = torch.randn(100, 1), torch.zeros(100, dtype=torch.int64)
    assert len(observe(hungry, data, deployed_batch_size=40).logits) == 100
    assert asked == [40, 40, 20, 8, 8]
    with pytest.raises(ObservationError, match="the deployed batch of 50 examples needs more memory"):
        _ = observe(hungry, data, deployed_batch_size=50).logits
    with pytest.raises(InvalidArgumentError, match=r"deployed_batch_size=65\): must be a whole number in 1..64"):
        observe(hungry, data, deployed_batch_size=65, batch_size=64)


def test_models_that_take_no_small_batches_are_no_error():
    def of_batches(inputs):
        if len(inputs) < 10:
            raise ValueError("too few")
        return torch.cat([inputs, -inputs], dim=1)

    assert observe(of_batches, (torch.randn(20, 1), torch.zeros(20, dtype=torch.int64))).batch_dependence is None
