"""A network whose training depends on random numbers, examples to train it on, and when two models are equal."""

import torch
from torch import nn

from cp_compress.examples import digits_training


class Dropping(nn.Module):
    """A network with dropout and batch norm: what it gives depends on torch's own random state."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10)
        )

    def forward(self, images):
        return self.layers(images)


def make_reference():
    """Return the network, with values that are always the same."""
    torch.manual_seed(0)
    return Dropping().eval()


def make_data():
    """Return 160 labelled images."""
    inputs, labels = digits_training().tensors
    return inputs[:160], labels[:160]


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(first, second):
    first, second = state(first), state(second)
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)
