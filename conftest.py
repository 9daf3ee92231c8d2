"""Settings of the project's own test run."""

import importlib.util
import os
from pathlib import Path

from hypothesis import settings

# a gate that runs elsewhere, by --pyargs in an editable installation, loads this file too, without the tests' helpers
_own_run = importlib.util.find_spec("missing_extras") is not None
if _own_run:
    # on GitHub the gates that tests run would write into the summary of this project's own job
    os.environ.pop("GITHUB_STEP_SUMMARY", None)
    # readline, which pytest imports, leaves them to workers
    os.environ.pop("COLUMNS", None), os.environ.pop("LINES", None)
    # pytester gives every run of pytest a home of its own, in which all codecs would be compiled anew
    os.environ.setdefault("NUMBA_CACHE_DIR", str(Path.home() / ".cache"))
    # the time that an example takes says nothing about the code on a busy machine
    if "CI" in os.environ:
        settings.register_profile("suite", deadline=None, derandomize=True, database=None, print_blob=True)
    else:
        settings.register_profile("suite", deadline=None)
    settings.load_profile("suite")

pytest_plugins = ["pytester", "missing_extras", "accelerators"] if _own_run else ["pytester"]
# its doctests are collected by importing it; triton 3.2 imports setuptools without requiring it
_compiler = all(map(importlib.util.find_spec, ("triton", "setuptools")))
collect_ignore = [] if _compiler else ["cp_compress/data/zfp/kernel.py"]
