"""The versions and the machine that something was made with."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import sys
from typing import Any

_PACKAGES = ("pytest-cp", "torch", "torchvision", "numpy", "captum", "zfpy", "pillow", "hypothesis", "pytest")


def describe_environment() -> dict[str, Any]:
    """Return the versions and the machine that a report, or an observation, was made with."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "gpu": _gpu_name(),
        "packages": {package: _version(package) for package in _PACKAGES},
    }


@functools.cache  # a session writes several documents, and reading all versions takes each of them long
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpu_name() -> str | None:
    torch = sys.modules.get("torch")  # a session without checks has no need to import it
    if torch is None or not torch.cuda.is_available():
        return None
    return str(torch.cuda.get_device_name())
