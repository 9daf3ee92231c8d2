"""Tests marked `gpu` run on CUDA where it is, and else on a device that is pretended."""

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Pretend a device for the tests that need one, before any test makes autograd count what there is."""
    if any(item.get_closest_marker("gpu") for item in items):
        _find_device()


def _find_device():
    import pretended
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    return pretended.pretend() if pretended.is_possible() else None


@pytest.fixture
def gpu():
    """The device of a test marked `gpu`."""
    device = _find_device()
    if device is None:
        pytest.skip("no CUDA device, and this version of torch lets none be pretended")
    return device


@pytest.fixture
def cuda(gpu):
    """The device of a test that also needs the kernels of CUDA."""
    if gpu.type != "cuda":
        pytest.skip("no CUDA device")
    return gpu
