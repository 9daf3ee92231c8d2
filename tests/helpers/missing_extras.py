"""Skips what needs an optional package where that is not installed, and says which extra brings it."""

import importlib.util
import re

import pytest

from cp_compress.base.errors import MissingExtraError

PACKAGES = {
    "adapters": ("peft", "transformers"),
    "cluster": ("dask", "distributed"),
    "detection": ("faster_coco_eval",),
    "kernels": ("numba",),
    "onnx": ("onnx", "onnxruntime"),
    "retrieval": ("ir_measures",),
    "shrink": ("torch_pruning",),
    "speech": ("jiwer",),
    "transformers": ("transformers",),
}
PLUGINS = {"--reruns": "pytest_rerunfailures", "--html": "pytest_html", "-n": "xdist"}


def is_missing(extra):
    """Tell whether a package of an extra is not installed: where all are, asking for it is a failure and no reason."""
    return any(importlib.util.find_spec(package) is None for package in PACKAGES[extra])


def skip_for_what_is_told(text):
    """Skip a test whose program ended with a text that says an optional package is not installed, where it is not."""
    for extra, packages in PACKAGES.items():
        named = [rf"No module named '{package}[.']" for package in packages]
        if is_missing(extra) and re.search("|".join([*named, rf"pytest-cp\[{extra}\]", r"MissingExtraError"]), text):
            pytest.skip("it needs a package of an extra that is not installed")


def _skip_for(error):
    found = getattr(error, "exc_info", (None, error))[1]  # of a doctest
    if isinstance(found, MissingExtraError) and is_missing(found.extra):
        pytest.skip(str(found))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    try:
        return (yield)
    except Exception as error:
        _skip_for(error)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    try:
        return (yield)
    except Exception as error:
        _skip_for(error)
        raise


def require_plugins(arguments):
    """Skip a test that runs pytest with options of plugins that are not installed."""
    for option, module in PLUGINS.items():
        if any(argument.startswith(option) for argument in arguments):
            pytest.importorskip(module, reason=f"{module} is not installed (extra: test)")
