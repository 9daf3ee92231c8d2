"""All cases; importing this fills the corpus."""

from importlib import import_module

from hostile_registry import CASES, Case, cases_of, groups

MODULES = (
    "pickles",
    "torch",
    "files",
    "archives",
    "arrays",
    "safetensors",
    "compressed",
    "exported",
    "onnx",
    "folders",
    "programs",
    "images",
    "stores",
    "codecs",
    "tables",
    "specifications",
    "gates",
    "baselines",
    "waivers",
)
for _name in MODULES:
    import_module(f"cases_{_name}")

__all__ = ["CASES", "Case", "cases_of", "groups"]
