"""Which is the smallest candidate that still passes?

Everything is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cp_compress.base.lazy import lazy_exports

if TYPE_CHECKING:
    from cp_compress.inputs.seen import example_digests as example_digests
    from cp_compress.inputs.seen import shared_examples as shared_examples
    from cp_compress.repair.adaptation import AdaptationResult as AdaptationResult
    from cp_compress.repair.adaptation import BeforeAfter as BeforeAfter
    from cp_compress.repair.adaptation import adapt as adapt
    from cp_compress.repair.recalibration import recalibrate_batchnorm as recalibrate_batchnorm
    from cp_compress.search.constraints import Preserved as Preserved
    from cp_compress.search.objectives import ArtifactBytes as ArtifactBytes
    from cp_compress.search.objectives import Flops as Flops
    from cp_compress.search.objectives import Latency as Latency
    from cp_compress.search.objectives import Parameters as Parameters
    from cp_compress.search.objectives import ResidentBytes as ResidentBytes
    from cp_compress.search.objectives import Throughput as Throughput
    from cp_compress.search.objectives import parse_objective as parse_objective
    from cp_compress.search.results import SearchResult as SearchResult
    from cp_compress.search.searching import search as search
    from cp_compress.search.settings.preserving import write_preserved_store as write_preserved_store
    from cp_compress.search.settings.results import SettingTrial as SettingTrial
    from cp_compress.search.settings.results import SmallestSetting as SmallestSetting
    from cp_compress.search.settings.search import find_smallest as find_smallest
    from cp_compress.search.settings.spaces import CodecSpace as CodecSpace
    from cp_compress.search.spaces import Categorical as Categorical
    from cp_compress.search.spaces import Integer as Integer
    from cp_compress.search.spaces import Real as Real
    from cp_compress.search.spaces import SchemeSpace as SchemeSpace
    from cp_compress.search.spaces import parse_parameter as parse_parameter
    from cp_compress.search.strategies.bayesian import Bayesian as Bayesian
    from cp_compress.search.strategies.bisection import Bisection as Bisection
    from cp_compress.search.strategies.drucb import DRUCB as DRUCB
    from cp_compress.search.strategies.registry import parse_strategy as parse_strategy
    from cp_compress.search.subsets import SmallestSubset as SmallestSubset
    from cp_compress.search.subsets import SubsetTrial as SubsetTrial
    from cp_compress.search.subsets import find_smallest_subset as find_smallest_subset
    from cp_compress.search.trials import NoFeasibleCandidateError as NoFeasibleCandidateError
    from cp_compress.search.trials import Trial as Trial
    from cp_compress.search.trials import TrialError as TrialError
    from cp_compress.training.fitting import Fitted as Fitted
    from cp_compress.training.fitting import LastLayer as LastLayer
    from cp_compress.training.fitting import fit as fit
    from cp_compress.training.fitting import look_at_last_layer as look_at_last_layer
    from cp_compress.training.losses import PreserveAgreement as PreserveAgreement
    from cp_compress.training.losses import PreserveAttribution as PreserveAttribution
    from cp_compress.training.losses import PreserveCost as PreserveCost
    from cp_compress.training.losses import PreserveEmbedding as PreserveEmbedding
    from cp_compress.training.methods import LC as LC
    from cp_compress.training.methods import Direct as Direct
    from cp_compress.training.methods import Gradual as Gradual
    from cp_compress.training.training import TrainingResult as TrainingResult
    from cp_compress.training.training import train_compressed as train_compressed

_MODULES = {
    "AdaptationResult": "repair.adaptation",
    "ArtifactBytes": "search.objectives",
    "Bayesian": "search.strategies.bayesian",
    "BeforeAfter": "repair.adaptation",
    "Bisection": "search.strategies.bisection",
    "Categorical": "search.spaces",
    "CodecSpace": "search.settings.spaces",
    "DRUCB": "search.strategies.drucb",
    "Direct": "training.methods",
    "Fitted": "training.fitting",
    "Flops": "search.objectives",
    "Gradual": "training.methods",
    "Integer": "search.spaces",
    "LC": "training.methods",
    "LastLayer": "training.fitting",
    "Latency": "search.objectives",
    "NoFeasibleCandidateError": "search.trials",
    "Parameters": "search.objectives",
    "PreserveAgreement": "training.losses",
    "PreserveAttribution": "training.losses",
    "PreserveCost": "training.losses",
    "PreserveEmbedding": "training.losses",
    "Preserved": "search.constraints",
    "Real": "search.spaces",
    "ResidentBytes": "search.objectives",
    "SchemeSpace": "search.spaces",
    "SearchResult": "search.results",
    "SettingTrial": "search.settings.results",
    "SmallestSetting": "search.settings.results",
    "SmallestSubset": "search.subsets",
    "SubsetTrial": "search.subsets",
    "Throughput": "search.objectives",
    "TrainingResult": "training.training",
    "Trial": "search.trials",
    "TrialError": "search.trials",
    "adapt": "repair.adaptation",
    "example_digests": "inputs.seen",
    "find_smallest": "search.settings.search",
    "find_smallest_subset": "search.subsets",
    "fit": "training.fitting",
    "look_at_last_layer": "training.fitting",
    "parse_objective": "search.objectives",
    "parse_parameter": "search.spaces",
    "parse_strategy": "search.strategies.registry",
    "recalibrate_batchnorm": "repair.recalibration",
    "search": "search.searching",
    "shared_examples": "inputs.seen",
    "train_compressed": "training.training",
    "write_preserved_store": "search.settings.preserving",
}
__all__ = sorted(_MODULES)
__getattr__, __dir__ = lazy_exports(__name__, {name: f"cp_compress.{module}" for name, module in _MODULES.items()})
