"""Trained networks and test images, from the folder named by CP_DATA, or CIFAR-10 through torchvision."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from resnet import ResNet, resnet20, resnet56

NETWORKS = {"resnet20": resnet20, "resnet56": resnet56}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
EXAMPLES = int(os.environ.get("CP_CIFAR10_EXAMPLES", "500"))


class Images(torch.utils.data.TensorDataset):
    """RGB images (n, 3, 32, 32), float32 in [0, 1], and their labels."""

    classes = CLASSES


def data_folder() -> Path:
    """Return the folder of networks and images: CP_DATA, or shared/data beside the checkout."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("CP_DATA", default))


def network(name: str) -> ResNet:
    """Return a trained network, or skip if its weights are missing."""
    path = data_folder() / f"cifar10_{name}.pt"
    if not path.exists():
        pytest.skip(f"no trained {name}: set CP_DATA to the folder of {path.name}")
    model = NETWORKS[name]()
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state.get("state_dict", state))
    return model.eval()


def test_images() -> Images:
    """Return the first test images: from the folder, else through torchvision, which downloads them."""
    path = data_folder() / "cifar10_subset.npz"
    if path.exists():
        with np.load(path) as content:
            pixels = torch.from_numpy(content["test_images"][:EXAMPLES])
            labels = torch.from_numpy(content["test_labels"][:EXAMPLES]).long()
    else:
        root = os.environ.get("CP_TORCHVISION", "data")
        try:
            source = torchvision.datasets.CIFAR10(root, train=False, download=True)
        except (OSError, RuntimeError) as error:
            pytest.skip(f"no CIFAR-10: {path} is missing and torchvision cannot download it ({error})")
        pixels = torch.from_numpy(source.data[:EXAMPLES]).permute(0, 3, 1, 2)
        labels = torch.tensor(source.targets[:EXAMPLES])
    return Images(pixels.float() / 255, labels)


test_images.__test__ = False


def training_images() -> Images:
    """Return the training images of the folder, or skip if they are missing."""
    path = data_folder() / "cifar10_subset.npz"
    if not path.exists():
        pytest.skip(f"no training images: set CP_DATA to the folder of {path.name}")
    with np.load(path) as content:
        pixels = torch.from_numpy(content["train_images"])
        return Images(pixels.float() / 255, torch.from_numpy(content["train_labels"]).long())
