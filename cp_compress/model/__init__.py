"""Compress models, measure what they cost, and store them.

Everything is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cp_compress.base.lazy import lazy_exports

if TYPE_CHECKING:
    from cp_compress.model.footprints import Footprint as Footprint
    from cp_compress.model.footprints import footprint as footprint
    from cp_compress.model.footprints import measure_latency as measure_latency
    from cp_compress.model.pruning import Prune as Prune
    from cp_compress.model.quantization import Quantize as Quantize
    from cp_compress.model.report import CompressionReport as CompressionReport
    from cp_compress.model.report import LayerReport as LayerReport
    from cp_compress.model.report import compression_report as compression_report
    from cp_compress.model.schemes import Compose as Compose
    from cp_compress.model.schemes import Scheme as Scheme
    from cp_compress.model.schemes import parse_scheme as parse_scheme
    from cp_compress.model.selection import keep_largest as keep_largest
    from cp_compress.model.steps import compression_steps as compression_steps
    from cp_compress.model.storage import load as load
    from cp_compress.model.storage import save as save
    from cp_compress.model.structure import FilterPrune as FilterPrune
    from cp_compress.model.structure import NeuronPrune as NeuronPrune
    from cp_compress.model.structure import StructurePrune as StructurePrune

_MODULES = {
    "Compose": "schemes",
    "CompressionReport": "report",
    "FilterPrune": "structure",
    "Footprint": "footprints",
    "LayerReport": "report",
    "NeuronPrune": "structure",
    "Prune": "pruning",
    "Quantize": "quantization",
    "Scheme": "schemes",
    "StructurePrune": "structure",
    "compression_report": "report",
    "compression_steps": "steps",
    "footprint": "footprints",
    "keep_largest": "selection",
    "load": "storage",
    "measure_latency": "footprints",
    "parse_scheme": "schemes",
    "save": "storage",
}
__all__ = sorted(_MODULES)
__getattr__, __dir__ = lazy_exports(__name__, {name: f"{__name__}.{module}" for name, module in _MODULES.items()})
