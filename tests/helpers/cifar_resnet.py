"""The trained CIFAR-10 network and its test images, for tests on real input; they skip where those are absent."""

import functools
import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch

_ROOT = Path(__file__).resolve().parents[2]


def data_folder():
    return Path(os.environ.get("CP_DATA", _ROOT.parent / "shared" / "data"))


def _present(name):
    path = data_folder() / name
    if not path.exists():
        pytest.skip(f"no {name}: set CP_DATA to the folder that holds it")
    return path


@functools.cache
def _architecture():
    # the example's module under a name of its own, so that no other `resnet` is hidden by it
    specification = importlib.util.spec_from_file_location(
        "cifar10_example_resnet", _ROOT / "examples" / "cifar10" / "resnet.py"
    )
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def resnet20():
    state = torch.load(_present("cifar10_resnet20.pt"), map_location="cpu", weights_only=True)
    model = _architecture().resnet20()
    model.load_state_dict(state.get("state_dict", state))
    return model.eval()


def images(count):
    """Return the first test images, float32 in [0, 1], and their labels."""
    with np.load(_present("cifar10_subset.npz")) as data:
        pixels, labels = data["test_images"][:count], data["test_labels"][:count]
    return torch.from_numpy(pixels).float() / 255, torch.from_numpy(labels).long()
