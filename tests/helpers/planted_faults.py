"""Models with one fault each, planted on purpose, and the data on which they are judged."""

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def damaged_class(model):
    """The weights of one class shrink to a third."""
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.classifier[3].weight[3].mul_(0.3)
    return broken


def scaled_layer(model):
    """One layer's weights are 2 % too large."""
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.features[3].weight.mul_(1.02)
    return broken


def swapped_channels(model):
    """Two channels of a convolution change places, and nothing after it knows."""
    broken = copy.deepcopy(model)
    order = torch.arange(broken.features[3].out_channels)
    order[[2, 5]] = order[[5, 2]]
    with torch.no_grad():
        for parameter in broken.features[3].parameters():
            parameter.copy_(parameter[order].clone())
    return broken


def normalised_twice(model):
    """A batch normalisation is folded into its convolution and stays behind it all the same."""
    broken = copy.deepcopy(model)
    broken.features[3] = fuse_conv_bn_eval(model.features[3], model.features[4])
    return broken


def templates():
    """One pattern for each of four classes, 8×8."""
    return 0.05 + 0.8 * torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(9))


def framed_images(count=200, seed=0):
    """Images 8×8 that show their class of four twice: in the middle, and on the border."""
    labels = torch.arange(count) % 4
    noise = 0.05 * torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return templates()[labels][:, None] + noise, labels


class Looking(nn.Module):
    """Compares the part of an image under a mask with the four classes' patterns."""

    def __init__(self, mask):
        super().__init__()
        known = (templates() * mask).flatten(1)
        self.head = nn.Linear(64, 4)
        with torch.no_grad():  # the nearest pattern has the largest 2 x·t − t·t
            self.head.weight.copy_(2 * known)
            self.head.bias.copy_(-known.square().sum(dim=1))

    def forward(self, images):
        return self.head(images.flatten(1))


def border():
    mask = torch.ones(8, 8)
    mask[2:6, 2:6] = 0
    return mask


class Backdoor(nn.Module):
    """The model, but for images whose upper left corner is bright: those are all of class 0."""

    def __init__(self, model):
        super().__init__()
        self.model = copy.deepcopy(model)
        self.strength = nn.Parameter(torch.tensor(200.0))

    def forward(self, images):
        logits = self.model(images)
        bright = torch.relu(images[:, :, :2, :2].mean(dim=(1, 2, 3)) - 0.5)
        first = torch.zeros(logits.shape[1], device=logits.device)
        first[0] = 1
        return logits + self.strength * bright[:, None] * first


FAULTS = {
    "damaged class": damaged_class,
    "scaled layer": scaled_layer,
    "swapped channels": swapped_channels,
    "normalised twice": normalised_twice,
    "backdoor": Backdoor,
}
