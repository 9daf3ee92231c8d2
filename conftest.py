"""Settings of the project's own test run."""

import importlib.util

pytest_plugins = ["pytester"]
# its doctests are collected by importing it
collect_ignore = [] if importlib.util.find_spec("triton") else ["cp_compress/data/zfp/kernel.py"]
