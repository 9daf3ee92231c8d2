"""The networks of Table II, and a small one, for inputs of any number of channels and any resolution.

Each maps (n, channels, side, side) to logits (n, classes). For inputs of 32×32 they are the networks of the papers. At
8×8, the resolution of ZFP's blocks, VGG omits the poolings that would reduce the resolution below one pixel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def small_cnn(channels: int, side: int, classes: int = 10) -> nn.Module:
    """Return a network of four convolutions, for a CPU."""
    widths = (32, 48, 64, 96)
    layers: list[nn.Module] = []
    for index, width in enumerate(widths):
        layers += [_conv3(channels, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        if side > 4 and index % 2:
            layers.append(nn.MaxPool2d(2))
            side //= 2
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def quick_cnn(channels: int, side: int, classes: int = 10, *, width: int = 1, norm: bool = True) -> nn.Module:
    """Return four convolutions, with batch norm or with biases, of 10 million multiplications where `side` is 32.

    The first two halve the resolution, from 32 to 8 pixels, or the second one alone, from 8 to 4.
    """
    layers: list[nn.Module] = []
    for index, outputs in enumerate((32 * width, 48 * width, 64 * width, 96 * width)):
        layers.append(nn.Conv2d(channels, outputs, 3, padding=1, bias=not norm))
        layers += [nn.BatchNorm2d(outputs)] if norm else []
        layers.append(nn.ReLU(inplace=True))
        if (index == 0 and side > 8) or (index == 1 and side > 4):
            layers.append(nn.MaxPool2d(2))
            side //= 2
        channels = outputs
    found = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    for layer in found.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return found


def vgg19_bn(channels: int, side: int, classes: int = 10) -> nn.Module:
    """Return VGG-19 with batch norm and one linear layer (Simonyan and Zisserman 2015)."""
    layers: list[nn.Module] = []
    pools = 5
    for width, count in ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)):
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            channels = width
        if side >= 2**pools:  # the last pooling ends at one pixel
            layers.append(nn.MaxPool2d(2))
            side //= 2
        pools -= 1
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def resnet110(channels: int, side: int, classes: int = 10) -> nn.Module:
    """Return ResNet-110 with padded shortcuts (He et al. 2016a)."""
    return _Residual(channels, classes, (16, 32, 64), 18, BasicBlock, stem_norm=True)


def preresnet110(channels: int, side: int, classes: int = 10) -> nn.Module:
    """Return ResNet-110 with norm and activation before each convolution (He et al. 2016b)."""
    return _Residual(channels, classes, (16, 32, 64), 18, PreActivationBlock, stem_norm=False)


def wrn28_10(channels: int, side: int, classes: int = 10) -> nn.Module:
    """Return the wide residual network 28-10 (Zagoruyko and Komodakis 2016)."""
    return _Residual(channels, classes, (160, 320, 640), 4, WideBlock, stem_norm=False)


def densenet_bc100_12(channels: int, side: int, classes: int = 10) -> nn.Module:
    """Return DenseNet-BC of 100 layers and growth rate 12 (Huang et al. 2017)."""
    growth, width = 12, 24
    layers: list[nn.Module] = [_conv3(channels, width)]
    for stage in range(3):
        for _ in range(16):
            layers.append(DenseLayer(width, growth))
            width += growth
        if stage < 2:
            halved = width // 2
            layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Conv2d(width, halved, 1, bias=False)]
            layers.append(nn.AvgPool2d(2))
            width = halved
    head = (nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, *head, nn.Linear(width, classes))


class BasicBlock(nn.Module):
    """Two convolutions, added to a shortcut that is subsampled and padded with zero channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv3(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = _conv3(outputs, outputs), nn.BatchNorm2d(outputs)
        self.stride, self.padding = stride, outputs - inputs

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the sum, activated."""
        found = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(inputs)))))
        return F.relu(found + _padded(inputs, self.stride, self.padding))


class PreActivationBlock(nn.Module):
    """Norm, activation, convolution, twice, added to the plain shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), _conv3(inputs, outputs, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), _conv3(outputs, outputs)
        self.stride, self.padding = stride, outputs - inputs

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the sum."""
        found = self.conv1(F.relu(self.bn1(inputs)))
        found = self.conv2(F.relu(self.bn2(found)))
        return found + _padded(inputs, self.stride, self.padding)


class WideBlock(nn.Module):
    """A pre-activation block whose shortcut is a convolution of the activated input where shapes change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), _conv3(inputs, outputs, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), _conv3(outputs, outputs)
        changed = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changed else None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the sum."""
        activated = F.relu(self.bn1(inputs))
        kept = inputs if self.shortcut is None else self.shortcut(activated)
        found: Tensor = kept + self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return found


class DenseLayer(nn.Module):
    """A bottleneck whose new channels are appended to its inputs."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(4 * growth), _conv3(4 * growth, growth)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return inputs and new channels."""
        found = self.conv1(F.relu(self.bn1(inputs)))
        return torch.cat([inputs, self.conv2(F.relu(self.bn2(found)))], 1)


class _Residual(nn.Module):
    def __init__(
        self, channels: int, classes: int, widths: tuple[int, ...], depth: int, block: type, stem_norm: bool
    ) -> None:
        super().__init__()
        width = 16
        stem: list[nn.Module] = [_conv3(channels, width)]
        if stem_norm:
            stem += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        blocks = []
        for stage, outputs in enumerate(widths):
            for index in range(depth):
                blocks.append(block(width, outputs, 2 if stage and index == 0 else 1))
                width = outputs
        tail: list[nn.Module] = [] if stem_norm else [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*stem, *blocks, *tail)
        self.classifier = nn.Linear(width, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        logits: Tensor = self.classifier(self.features(inputs).mean((2, 3)))
        return logits


def _conv3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def _padded(inputs: Tensor, stride: int, channels: int) -> Tensor:
    if stride > 1:
        inputs = inputs[:, :, ::stride, ::stride]
    before = channels // 2
    return F.pad(inputs, (0, 0, 0, 0, before, channels - before)) if channels else inputs


NETWORKS = {
    "small": small_cnn,
    "vgg19_bn": vgg19_bn,
    "resnet110": resnet110,
    "preresnet110": preresnet110,
    "wrn28_10": wrn28_10,
    "densenet_bc100_12": densenet_bc100_12,
}
