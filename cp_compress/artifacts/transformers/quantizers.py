"""Which libraries may read weights that are quantised in a folder of transformers, by the method's name."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cp_compress.base.error_reasons import shortened
from cp_compress.base.errors import ArtifactError

ENTRY = "quantization_config"
"""The entry of a configuration that says how weights are quantised."""
# the modules that transformers needs for a method, and the packages that hold them; methods that fetch kernels when
# they are run, such as fp8 and mxfp4, are not on the list
_LIBRARIES: Mapping[str, Mapping[str, str]] = {
    "torchao": {"torchao": "torchao"},
    "bitsandbytes": {"bitsandbytes": "bitsandbytes", "accelerate": "accelerate"},
    "compressed-tensors": {"compressed_tensors": "compressed-tensors"},
    "gptq": {"gptqmodel": "gptqmodel", "optimum": "optimum"},
    "awq": {"gptqmodel": "gptqmodel", "accelerate": "accelerate"},
    "hqq": {"hqq": "hqq", "accelerate": "accelerate"},
    "quanto": {"optimum.quanto": "optimum-quanto", "accelerate": "accelerate"},
}


def method_of(config: Mapping[str, Any], path: Path) -> str | None:
    """Return the method by which a folder's weights are quantised, None where they are not.

    Raises ArtifactError for a method that is not on the list, and for one whose library is not installed.
    """
    entry = config.get(ENTRY)
    if entry in (None, False):
        return None
    method = entry.get("quant_method") if isinstance(entry, dict) else None
    if method is None and isinstance(entry, dict) and (entry.get("load_in_8bit") or entry.get("load_in_4bit")):
        method = "bitsandbytes"  # as it was written before methods had names
    if not isinstance(method, str) or method not in _LIBRARIES:
        listed = ", ".join(_LIBRARIES)
        told = f"has weights that are quantised by {shortened(repr(method), 80)}; only {listed} are read"
        raise ArtifactError(path, f"{told}: save it by one of them, or run it by a server")
    missing = [package for module, package in _LIBRARIES[method].items() if not _is_installed(module)]
    if missing:
        names = " ".join(missing)
        raise ArtifactError(path, f"has weights that are quantised by {method}, which needs: pip install {names}")
    return method


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a package around it is missing, or was replaced
        return False
