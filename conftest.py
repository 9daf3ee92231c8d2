"""Settings of the project's own test run."""

import importlib.util
import os

# on GitHub the gates that tests run would write into the summary of this project's own job
os.environ.pop("GITHUB_STEP_SUMMARY", None)

pytest_plugins = ["pytester"]
# a gate that runs in another folder reads this file, too: it has no use for what tests share
if importlib.util.find_spec("missing_extras"):
    pytest_plugins.append("missing_extras")
# its doctests are collected by importing it; triton 3.2 imports setuptools without requiring it
_compiler = all(map(importlib.util.find_spec, ("triton", "setuptools")))
collect_ignore = [] if _compiler else ["cp_compress/data/zfp/kernel.py"]
