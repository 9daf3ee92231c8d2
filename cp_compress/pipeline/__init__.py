"""Where does the time of reading data and running a model on it go, and what would be saved?

Everything is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cp_compress.base.lazy import lazy_exports

if TYPE_CHECKING:
    from cp_compress.pipeline.picture import draw as draw
    from cp_compress.pipeline.profiling import Pipeline as Pipeline
    from cp_compress.pipeline.profiling import profile_pipeline as profile_pipeline
    from cp_compress.pipeline.profiling import profile_pipelines as profile_pipelines
    from cp_compress.pipeline.results import PipelineComparison as PipelineComparison
    from cp_compress.pipeline.results import PipelineProfile as PipelineProfile

_MODULES = {
    "Pipeline": "profiling",
    "PipelineComparison": "results",
    "PipelineProfile": "results",
    "draw": "picture",
    "profile_pipeline": "profiling",
    "profile_pipelines": "profiling",
}
__all__ = sorted(_MODULES)
__getattr__, __dir__ = lazy_exports(__name__, {name: f"{__name__}.{module}" for name, module in _MODULES.items()})
