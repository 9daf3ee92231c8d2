"""Settings of the project's own test run."""

import importlib.util
import os

from hypothesis import settings

# the time that an example takes says nothing about the code on a busy machine
if "CI" in os.environ:
    settings.register_profile("suite", deadline=None, derandomize=True, database=None, print_blob=True)
else:
    settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

# a gate that runs elsewhere, by --pyargs in an editable installation, loads this file without the tests' helpers
_helpers = ["missing_extras"] if importlib.util.find_spec("missing_extras") else []
pytest_plugins = ["pytester", *_helpers]
# its doctests are collected by importing it; triton 3.2 imports setuptools without requiring it
_compiler = all(map(importlib.util.find_spec, ("triton", "setuptools")))
collect_ignore = [] if _compiler else ["cp_compress/data/zfp/kernel.py"]
