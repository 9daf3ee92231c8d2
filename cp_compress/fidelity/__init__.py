"""Observe a model, compare two observations, judge the comparison: what compression changed in behaviour."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cp_compress.base.lazy import lazy_exports

if TYPE_CHECKING:
    from cp_compress.fidelity.intervals import Interval as Interval
    from cp_compress.fidelity.judgement import Check as Check
    from cp_compress.fidelity.judgement import Requirement as Requirement
    from cp_compress.fidelity.judgement import judge as judge
    from cp_compress.fidelity.measurement import Measurement as Measurement
    from cp_compress.fidelity.observation import Observation as Observation
    from cp_compress.fidelity.observation import forget_observations as forget_observations
    from cp_compress.fidelity.observation import observe as observe
    from cp_compress.fidelity.predictions import compare_predictions as compare_predictions

_MODULES = {
    "Check": "judgement",
    "Interval": "intervals",
    "Measurement": "measurement",
    "Observation": "observation",
    "Requirement": "judgement",
    "compare_predictions": "predictions",
    "forget_observations": "observation",
    "judge": "judgement",
    "observe": "observation",
}
__all__ = sorted(_MODULES)
__getattr__, __dir__ = lazy_exports(__name__, {name: f"{__name__}.{module}" for name, module in _MODULES.items()})
