"""Small networks of every kind that the schemes must handle, with an input for each."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cp_compress.model.structure.units import zero_units


class SmallCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 12, 3, padding=1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
        )
        self.classifier = nn.Linear(48, 5)

    def forward(self, images):
        return self.classifier(self.features(images).flatten(1))


class Depthwise(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.BatchNorm2d(8)
        self.pointwise = nn.Conv2d(8, 16, 1)
        self.head = nn.Linear(16, 4)

    def forward(self, images):
        hidden = F.relu(self.norm(self.depthwise(F.relu(self.stem(images)))))
        return self.head(F.relu(self.pointwise(hidden)).mean((2, 3)))


class ScaledLinear(nn.Linear):
    """A subclass with arithmetic of its own."""

    def forward(self, inputs):
        return 2 * F.linear(inputs, self.weight, self.bias)


class TiedAutoencoder(nn.Module):
    """Two layers that share one weight, and one module registered under two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.norm = nn.LayerNorm(6)
        self.alias = self.first
        self.head = ScaledLinear(6, 3)

    def forward(self, values):
        return self.head(self.norm(torch.tanh(self.second(torch.relu(self.alias(self.first(values)))))))


class TokenLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.lstm = nn.LSTM(6, 5, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(10, 3)

    def forward(self, tokens):
        return self.head(self.lstm(self.table(tokens))[0][:, -1])


class TinyTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 7, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, sequence):
        return self.head(self.encoder(sequence + self.position).mean(1))


class Waves(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(2, 6, 5, padding=2), nn.BatchNorm1d(6), nn.ReLU(), nn.ConvTranspose1d(6, 4, 3), nn.ReLU()
        )
        self.head = nn.Linear(4, 3)
        self.register_buffer("window", torch.ones(1, 1, 1), persistent=False)

    def forward(self, signal):
        return self.head((self.layers(signal) * self.window).mean(-1))


class PaddedBlock(nn.Module):
    """The residual block of the CIFAR ResNets (He et al. 2015), with parameter-free shortcuts (option A)."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.pad = (outputs - inputs) // 2

    def forward(self, images):
        hidden = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(images)))))
        if self.pad:
            images = F.pad(images[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(hidden + images)


class CifarResNet(nn.Module):
    def __init__(self, blocks=3, widths=(16, 32, 64)):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        inputs = widths[0]
        for stage, width in enumerate(widths, 1):
            rows = [PaddedBlock(inputs, width, 2 if stage > 1 else 1)]
            rows += [PaddedBlock(width, width, 1) for _ in range(blocks - 1)]
            setattr(self, f"layer{stage}", nn.Sequential(*rows))
            inputs = width
        self.linear = nn.Linear(inputs, 10)

    def forward(self, images):
        hidden = F.relu(self.bn1(self.conv1(images)))
        return self.linear(self.layer3(self.layer2(self.layer1(hidden))).mean((2, 3)))


class Wrapped(nn.Module):
    """A model within another one, which only passes inputs on."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.inner(inputs)


def widened(reference: nn.Module, shrunk: nn.Module) -> nn.Module:
    """The reference with zeros where `shrunk` lacks units, told by statistics and biases, which are all different.

    Tensors that kept their shape come from `shrunk`, so that what it only set to zero is zero here.
    """
    masked = copy.deepcopy(reference)
    smaller = dict(shrunk.named_modules())
    for path, module in masked.named_modules():
        other = smaller[path]
        for name, tensor in module.named_parameters(recurse=False):
            if tensor.shape == getattr(other, name).shape:
                tensor.data.copy_(getattr(other, name))
            elif len(tensor) == len(getattr(other, name)):
                tensor.data[~getattr(other, name).flatten(1).any(1)] = 0
        mark = "running_mean" if isinstance(module, nn.modules.batchnorm._BatchNorm) else "bias"
        before, after = getattr(module, mark, None), getattr(other, mark, None)
        if after is None or before.shape == after.shape:
            continue
        kept = torch.isin(before, after)
        assert int(kept.sum()) == len(after)
        zero_units([module], ~kept)
    return masked


INPUTS = {
    SmallCNN: (3, 12, 12),
    Depthwise: (3, 12, 12),
    TiedAutoencoder: (6,),
    TokenLSTM: None,
    TinyTransformer: (7, 8),
    Waves: (2, 20),
}


def make(kind: type[nn.Module], seed: int = 0) -> nn.Module:
    """A network in evaluation mode with batch norms that have seen data."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind()
        shake_norms(model)
    return model.eval()


def shake_norms(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(std=0.3)
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 1.5)
    return model


def inputs_for(kind: type[nn.Module], rows: int = 4, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind is TokenLSTM:
        return torch.randint(0, 11, (rows, 9), generator=generator)
    return torch.randn((rows, *INPUTS[kind]), generator=generator)


def cifar_folder() -> Path:
    """The folder of the CIFAR-10 networks; skips the test where it is absent."""
    folder = Path(os.environ.get("CP_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
    if not (folder / "cifar10_resnet20.pt").is_file():
        pytest.skip(f"no CIFAR-10 networks in {folder}: set CP_DATA to the folder that holds them")
    return folder


def cifar_resnet20() -> nn.Module:
    model = CifarResNet()
    model.load_state_dict(torch.load(cifar_folder() / "cifar10_resnet20.pt", weights_only=True))
    return model.eval()


def bits(model: nn.Module) -> dict[str, Tensor]:
    """Copies of every parameter and buffer, to compare to the bit."""
    names = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: tensor.detach().clone() for name, tensor in names}


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    def pattern(tensor):
        return tensor.contiguous().view(-1).view(torch.uint8)

    return list(first) == list(second) and all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(pattern(a), pattern(b))
        for a, b in zip(first.values(), second.values(), strict=True)
    )
