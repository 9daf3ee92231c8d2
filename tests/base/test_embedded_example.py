"""The embedded example: weights that are the same everywhere, and how they came about."""

import pytest
import torch

from cp_compress import examples
from cp_compress.base.errors import InvalidArgumentError
from cp_compress.examples import digits, digits_cnn, digits_training, train_digits_cnn


def accuracy(model):
    images, labels = digits().tensors
    with torch.no_grad():
        return (model(images).argmax(dim=1) == labels).double().mean().item()


def test_the_shipped_network_is_good_and_each_call_gives_its_own():
    first, second = digits_cnn(), digits_cnn()
    assert accuracy(first) > 0.98
    with torch.no_grad():
        first.classifier[1].weight.zero_()
    assert accuracy(second) > 0.98
    assert accuracy(digits_cnn()) > 0.98


def test_training_gives_an_equally_good_network_for_another_seed():
    assert accuracy(train_digits_cnn(1)) > 0.97


def test_training_gives_the_same_network_for_the_same_seed(monkeypatch):
    monkeypatch.setattr(examples, "_EPOCHS", 1)
    state = torch.random.get_rng_state()
    first, again, other = train_digits_cnn(1), train_digits_cnn(1), train_digits_cnn(2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(map(torch.equal, first.state_dict().values(), again.state_dict().values()))
    assert not torch.equal(first.classifier[1].weight, other.classifier[1].weight)


def test_training_and_test_images_are_apart():
    seen = {image.numpy().tobytes() for image in digits_training().tensors[0]}
    assert not any(image.numpy().tobytes() in seen for image in digits().tensors[0])


@pytest.mark.parametrize("seed", [-1, 0.5, "1", True])
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises(InvalidArgumentError, match="seed"):
        train_digits_cnn(seed)
