"""How is a model compressed, what does it cost then, and how is it stored?

Everything is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cp_compress.base.lazy import lazy_exports

if TYPE_CHECKING:
    from cp_compress.model.coverage import Coverage as Coverage
    from cp_compress.model.coverage import measure_coverage as measure_coverage
    from cp_compress.model.footprints import Footprint as Footprint
    from cp_compress.model.footprints import footprint as footprint
    from cp_compress.model.footprints import measure_latency as measure_latency
    from cp_compress.model.low_rank import LowRank as LowRank
    from cp_compress.model.pruning.largest import keep_largest as keep_largest
    from cp_compress.model.pruning.magnitude import Prune as Prune
    from cp_compress.model.pruning.patterns import BlockPrune as BlockPrune
    from cp_compress.model.pruning.patterns import NMPrune as NMPrune
    from cp_compress.model.pruning.semi_structured import to_semi_structured as to_semi_structured
    from cp_compress.model.quantization.calibration import CalibrationData as CalibrationData
    from cp_compress.model.quantization.fixed_point import FixedPoint as FixedPoint
    from cp_compress.model.quantization.lowering import lower as lower
    from cp_compress.model.quantization.scheme import Quantize as Quantize
    from cp_compress.model.record import compression_steps as compression_steps
    from cp_compress.model.registry import compress as compress
    from cp_compress.model.registry import parse_scheme as parse_scheme
    from cp_compress.model.report import CompressionReport as CompressionReport
    from cp_compress.model.report import LayerReport as LayerReport
    from cp_compress.model.report import compression_report as compression_report
    from cp_compress.model.scheme import Compose as Compose
    from cp_compress.model.scheme import Scheme as Scheme
    from cp_compress.model.sources import declare_source as declare_source
    from cp_compress.model.storage.files import load as load
    from cp_compress.model.storage.files import save as save
    from cp_compress.model.structure.schemes import FilterPrune as FilterPrune
    from cp_compress.model.structure.schemes import NeuronPrune as NeuronPrune
    from cp_compress.model.structure.schemes import StructurePrune as StructurePrune

_MODULES = {
    "BlockPrune": "pruning.patterns",
    "CalibrationData": "quantization.calibration",
    "Compose": "scheme",
    "CompressionReport": "report",
    "Coverage": "coverage",
    "FilterPrune": "structure.schemes",
    "FixedPoint": "quantization.fixed_point",
    "Footprint": "footprints",
    "LayerReport": "report",
    "LowRank": "low_rank",
    "NMPrune": "pruning.patterns",
    "NeuronPrune": "structure.schemes",
    "Prune": "pruning.magnitude",
    "Quantize": "quantization.scheme",
    "Scheme": "scheme",
    "StructurePrune": "structure.schemes",
    "compress": "registry",
    "compression_report": "report",
    "compression_steps": "record",
    "declare_source": "sources",
    "footprint": "footprints",
    "keep_largest": "pruning.largest",
    "load": "storage.files",
    "lower": "quantization.lowering",
    "measure_coverage": "coverage",
    "measure_latency": "footprints",
    "parse_scheme": "registry",
    "save": "storage.files",
    "to_semi_structured": "pruning.semi_structured",
}
__all__ = sorted(_MODULES)
__getattr__, __dir__ = lazy_exports(__name__, {name: f"{__name__}.{module}" for name, module in _MODULES.items()})
