"""One small network written in several ways, which attribution must not tell apart."""

import torch
import torch.nn.functional as F
from torch import nn

# keeps activations apart: where one directly follows another, Captum's own hooks disturb each other
SHIFT = 0.1


class _Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first = nn.Conv2d(3, 6, 3, padding=1)
            self.norm = nn.BatchNorm2d(6)
            self.second = nn.Conv2d(6, 6, 3, padding=1)
            self.head = nn.Linear(6 * 16, 5)
            self.head.weight.data.mul_(5)
        self.eval()


class WithModules(_Convolutions):
    """What Captum handles by itself: each activation a module of its own, not in place."""

    def __init__(self):
        super().__init__()
        self.relu1, self.relu2, self.pool = nn.ReLU(), nn.ReLU(), nn.MaxPool2d(2)

    def forward(self, x):
        x = self.relu1(self.norm(self.first(x)))
        return self.head(self.relu2(self.pool(self.second(x)) - SHIFT).flatten(1))


class WithFunctions(_Convolutions):
    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        return self.head((F.max_pool2d(self.second(x), 2) - SHIFT).relu().flatten(1))


class Reused(_Convolutions):
    def __init__(self):
        super().__init__()
        self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(2)

    def forward(self, x):
        x = self.relu(self.norm(self.first(x)))
        return self.head(self.relu(self.pool(self.second(x)) - SHIFT).flatten(1))


class InPlace(_Convolutions):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.norm(self.first(x)))
        return self.head(F.relu_(F.max_pool2d(self.second(x), kernel_size=2) - SHIFT).flatten(1))


def images(count=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 8, 8, generator=generator), torch.arange(count) % 5
