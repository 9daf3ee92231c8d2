"""Compress until the measures hold: search for the smallest candidate that still passes.

Everything is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cp_compress.base.lazy import lazy_exports

if TYPE_CHECKING:
    from cp_compress.base.freshness import example_digests as example_digests
    from cp_compress.base.freshness import shared_examples as shared_examples
    from cp_compress.search.adaptation import AdaptationResult as AdaptationResult
    from cp_compress.search.adaptation import BeforeAfter as BeforeAfter
    from cp_compress.search.adaptation import adapt as adapt
    from cp_compress.search.bayesian import Bayesian as Bayesian
    from cp_compress.search.bisection import Bisection as Bisection
    from cp_compress.search.codec_spaces import CodecSpace as CodecSpace
    from cp_compress.search.constraints import Preserved as Preserved
    from cp_compress.search.drucb import DRUCB as DRUCB
    from cp_compress.search.fitting import Fitted as Fitted
    from cp_compress.search.fitting import LastLayer as LastLayer
    from cp_compress.search.fitting import fit as fit
    from cp_compress.search.fitting import look_at_last_layer as look_at_last_layer
    from cp_compress.search.losses import PreserveAgreement as PreserveAgreement
    from cp_compress.search.losses import PreserveAttribution as PreserveAttribution
    from cp_compress.search.losses import PreserveCost as PreserveCost
    from cp_compress.search.losses import PreserveEmbedding as PreserveEmbedding
    from cp_compress.search.methods import LC as LC
    from cp_compress.search.methods import Direct as Direct
    from cp_compress.search.methods import Gradual as Gradual
    from cp_compress.search.objectives import ArtifactBytes as ArtifactBytes
    from cp_compress.search.objectives import Flops as Flops
    from cp_compress.search.objectives import Latency as Latency
    from cp_compress.search.objectives import Parameters as Parameters
    from cp_compress.search.objectives import ResidentBytes as ResidentBytes
    from cp_compress.search.objectives import Throughput as Throughput
    from cp_compress.search.objectives import parse_objective as parse_objective
    from cp_compress.search.recalibration import recalibrate_batchnorm as recalibrate_batchnorm
    from cp_compress.search.results import SearchResult as SearchResult
    from cp_compress.search.searching import search as search
    from cp_compress.search.settings import SettingTrial as SettingTrial
    from cp_compress.search.settings import SmallestSetting as SmallestSetting
    from cp_compress.search.smallest_setting import find_smallest as find_smallest
    from cp_compress.search.spaces import Categorical as Categorical
    from cp_compress.search.spaces import Integer as Integer
    from cp_compress.search.spaces import Real as Real
    from cp_compress.search.spaces import SchemeSpace as SchemeSpace
    from cp_compress.search.spaces import parse_parameter as parse_parameter
    from cp_compress.search.strategies import parse_strategy as parse_strategy
    from cp_compress.search.subsets import SmallestSubset as SmallestSubset
    from cp_compress.search.subsets import SubsetTrial as SubsetTrial
    from cp_compress.search.subsets import find_smallest_subset as find_smallest_subset
    from cp_compress.search.training import TrainingResult as TrainingResult
    from cp_compress.search.training import train_compressed as train_compressed
    from cp_compress.search.trials import NoFeasibleCandidateError as NoFeasibleCandidateError
    from cp_compress.search.trials import Trial as Trial
    from cp_compress.search.trials import TrialError as TrialError

_MODULES = {
    "Fitted": "fitting",
    "LastLayer": "fitting",
    "SmallestSubset": "subsets",
    "SubsetTrial": "subsets",
    "find_smallest_subset": "subsets",
    "fit": "fitting",
    "look_at_last_layer": "fitting",
    "DRUCB": "drucb",
    "Direct": "methods",
    "Gradual": "methods",
    "LC": "methods",
    "PreserveAgreement": "losses",
    "PreserveAttribution": "losses",
    "PreserveCost": "losses",
    "PreserveEmbedding": "losses",
    "TrainingResult": "training",
    "train_compressed": "training",
    "AdaptationResult": "adaptation",
    "ArtifactBytes": "objectives",
    "Bayesian": "bayesian",
    "BeforeAfter": "adaptation",
    "Bisection": "bisection",
    "Categorical": "spaces",
    "CodecSpace": "codec_spaces",
    "Flops": "objectives",
    "Integer": "spaces",
    "Latency": "objectives",
    "NoFeasibleCandidateError": "trials",
    "Parameters": "objectives",
    "Preserved": "constraints",
    "Real": "spaces",
    "ResidentBytes": "objectives",
    "SchemeSpace": "spaces",
    "SearchResult": "results",
    "SettingTrial": "settings",
    "SmallestSetting": "settings",
    "Throughput": "objectives",
    "Trial": "trials",
    "TrialError": "trials",
    "adapt": "adaptation",
    "find_smallest": "smallest_setting",
    "parse_objective": "objectives",
    "parse_parameter": "spaces",
    "parse_strategy": "strategies",
    "recalibrate_batchnorm": "recalibration",
    "search": "searching",
}
_FULL_NAMES = {name: f"{__name__}.{module}" for name, module in _MODULES.items()}
_FULL_NAMES |= dict.fromkeys(("example_digests", "shared_examples"), "cp_compress.base.freshness")
__all__ = sorted(_FULL_NAMES)
__getattr__, __dir__ = lazy_exports(__name__, _FULL_NAMES)
