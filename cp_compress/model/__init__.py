"""Compress models, measure what they cost, and store them.

Everything is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cp_compress.base.lazy import lazy_exports

if TYPE_CHECKING:
    from cp_compress.model.blocks import BlockPrune as BlockPrune
    from cp_compress.model.blocks import NMPrune as NMPrune
    from cp_compress.model.calibration import CalibrationData as CalibrationData
    from cp_compress.model.fixed_point import FixedPoint as FixedPoint
    from cp_compress.model.footprints import Footprint as Footprint
    from cp_compress.model.footprints import footprint as footprint
    from cp_compress.model.footprints import measure_latency as measure_latency
    from cp_compress.model.lowering import lower as lower
    from cp_compress.model.lowrank import LowRank as LowRank
    from cp_compress.model.pruning import Prune as Prune
    from cp_compress.model.quantization import Quantize as Quantize
    from cp_compress.model.report import CompressionReport as CompressionReport
    from cp_compress.model.report import LayerReport as LayerReport
    from cp_compress.model.report import compression_report as compression_report
    from cp_compress.model.schemes import Compose as Compose
    from cp_compress.model.schemes import Scheme as Scheme
    from cp_compress.model.schemes import parse_scheme as parse_scheme
    from cp_compress.model.selection import keep_largest as keep_largest
    from cp_compress.model.sparse import to_semi_structured as to_semi_structured
    from cp_compress.model.steps import compression_steps as compression_steps
    from cp_compress.model.storage import load as load
    from cp_compress.model.storage import save as save
    from cp_compress.model.structure import FilterPrune as FilterPrune
    from cp_compress.model.structure import NeuronPrune as NeuronPrune
    from cp_compress.model.structure import StructurePrune as StructurePrune

_MODULES = {
    "BlockPrune": "blocks",
    "CalibrationData": "calibration",
    "Compose": "schemes",
    "CompressionReport": "report",
    "FilterPrune": "structure",
    "FixedPoint": "fixed_point",
    "Footprint": "footprints",
    "LayerReport": "report",
    "LowRank": "lowrank",
    "NMPrune": "blocks",
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
    "lower": "lowering",
    "measure_latency": "footprints",
    "parse_scheme": "schemes",
    "save": "storage",
    "to_semi_structured": "sparse",
}
__all__ = sorted(_MODULES)
__getattr__, __dir__ = lazy_exports(__name__, {name: f"{__name__}.{module}" for name, module in _MODULES.items()})
