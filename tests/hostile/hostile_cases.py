"""All cases; importing this fills the corpus."""

from importlib import import_module

from hostile_registry import CASES, Case, cases_of, groups

MODULES = (
    "model_cases.pickles",
    "model_cases.torch",
    "model_cases.files",
    "data_cases.archives",
    "data_cases.arrays",
    "model_cases.safetensors",
    "model_cases.compressed",
    "model_cases.exported",
    "model_cases.onnx",
    "model_cases.folders",
    "model_cases.programs",
    "data_cases.images",
    "data_cases.stores",
    "data_cases.codecs",
    "data_cases.tables",
    "gate_cases.specifications",
    "gate_cases.gates",
    "gate_cases.baselines",
    "gate_cases.waivers",
)
for _name in MODULES:
    import_module(_name)

__all__ = ["CASES", "Case", "cases_of", "groups"]
