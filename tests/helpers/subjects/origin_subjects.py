"""Small networks, their data, and layers damaged on purpose, for the tests of where damage comes from."""

import copy

import torch
from torch import nn


def multilayer(depth, width=12, classes=4, seed=0):
    torch.manual_seed(seed)
    hidden = [part for _ in range(depth) for part in (nn.Linear(width, width), nn.Tanh())]
    for part in hidden[::2]:
        nn.init.orthogonal_(part.weight, gain=1.3)  # the signal must reach the far end
    return nn.Sequential(*hidden, nn.Linear(width, classes)).eval()


def vectors(count=200, width=12, seed=1):
    inputs = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return inputs, torch.arange(count) % 4


def damaged(model, path, amount, seed=3):
    broken = copy.deepcopy(model)
    weight = broken.get_submodule(path).weight
    with torch.no_grad():
        weight.add_(amount * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)))
    return broken


class Twice(nn.Module):
    """One layer that is used at two paths and called twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(12, 12)
        self.again = self.first
        self.head = nn.Linear(12, 4)

    def forward(self, inputs):
        return self.head(self.again(torch.tanh(self.first(inputs))))
