"""Skips what needs an optional package where that is not installed, and says which extra brings it."""

import importlib.util

import pytest

from cp_compress.base.errors import MissingExtraError

PACKAGES = {
    "cluster": ("dask", "distributed"),
    "onnx": ("onnx", "onnxruntime"),
    "shrink": ("torch_pruning",),
    "transformers": ("transformers",),
}
PLUGINS = {"--reruns": "pytest_rerunfailures", "--html": "pytest_html", "-n": "xdist"}


def is_missing(extra):
    """Tell whether a package of an extra is not installed: where all are, asking for it is a failure and no reason."""
    return any(importlib.util.find_spec(package) is None for package in PACKAGES[extra])


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
