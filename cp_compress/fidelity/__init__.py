"""Observe a model, compare two observations, judge the comparison: what compression changed in behaviour.

Everything is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cp_compress.base.lazy import lazy_exports

if TYPE_CHECKING:
    from cp_compress.fidelity.abstention import abstention_threshold as abstention_threshold
    from cp_compress.fidelity.abstention import risk_coverage as risk_coverage
    from cp_compress.fidelity.attribution_methods import Deconvolution as Deconvolution
    from cp_compress.fidelity.attribution_methods import DeepLift as DeepLift
    from cp_compress.fidelity.attribution_methods import DeepLiftShap as DeepLiftShap
    from cp_compress.fidelity.attribution_methods import GradCAM as GradCAM
    from cp_compress.fidelity.attribution_methods import GradientShap as GradientShap
    from cp_compress.fidelity.attribution_methods import GuidedBackprop as GuidedBackprop
    from cp_compress.fidelity.attribution_methods import GuidedGradCAM as GuidedGradCAM
    from cp_compress.fidelity.attribution_methods import InputXGradient as InputXGradient
    from cp_compress.fidelity.attribution_methods import IntegratedGradients as IntegratedGradients
    from cp_compress.fidelity.attribution_methods import Occlusion as Occlusion
    from cp_compress.fidelity.attribution_methods import Saliency as Saliency
    from cp_compress.fidelity.attribution_methods import SmoothGrad as SmoothGrad
    from cp_compress.fidelity.attribution_methods import parse_attribution_method as parse_attribution_method
    from cp_compress.fidelity.attributions import compare_attributions as compare_attributions
    from cp_compress.fidelity.benign import benign_directions as benign_directions
    from cp_compress.fidelity.boundaries import compare_boundaries as compare_boundaries
    from cp_compress.fidelity.boundary_search import BoundarySearch as BoundarySearch
    from cp_compress.fidelity.boundary_search import boundary_distances as boundary_distances
    from cp_compress.fidelity.boundary_search import search_boundaries as search_boundaries
    from cp_compress.fidelity.class_distances import embedding_distance as embedding_distance
    from cp_compress.fidelity.class_distances import tree_distance as tree_distance
    from cp_compress.fidelity.concepts import compare_concepts as compare_concepts
    from cp_compress.fidelity.direction_families import class_gradient_directions as class_gradient_directions
    from cp_compress.fidelity.direction_families import gate_directions as gate_directions
    from cp_compress.fidelity.direction_families import gaussian_directions as gaussian_directions
    from cp_compress.fidelity.direction_families import low_frequency_directions as low_frequency_directions
    from cp_compress.fidelity.direction_families import residual_directions as residual_directions
    from cp_compress.fidelity.directions import DirectionBasis as DirectionBasis
    from cp_compress.fidelity.directions import Directions as Directions
    from cp_compress.fidelity.directions import low_frequency_basis as low_frequency_basis
    from cp_compress.fidelity.divergence import DivergenceSearch as DivergenceSearch
    from cp_compress.fidelity.divergence import compare_divergence as compare_divergence
    from cp_compress.fidelity.divergence import find_divergence as find_divergence
    from cp_compress.fidelity.divergence_files import load_divergence as load_divergence
    from cp_compress.fidelity.divergence_files import replay_divergence as replay_divergence
    from cp_compress.fidelity.divergence_files import save_divergence as save_divergence
    from cp_compress.fidelity.embedding_similarity import linear_cka as linear_cka
    from cp_compress.fidelity.embedding_similarity import minibatch_cka as minibatch_cka
    from cp_compress.fidelity.embedding_similarity import unbiased_cka as unbiased_cka
    from cp_compress.fidelity.embeddings import compare_embeddings as compare_embeddings
    from cp_compress.fidelity.exemplars import Exemplars as Exemplars
    from cp_compress.fidelity.exemplars import compression_identified_exemplars as compression_identified_exemplars
    from cp_compress.fidelity.groups import holm as holm
    from cp_compress.fidelity.intervals import Interval as Interval
    from cp_compress.fidelity.jaccard import split_jaccard as split_jaccard
    from cp_compress.fidelity.jaccard import weighted_jaccard as weighted_jaccard
    from cp_compress.fidelity.judgement import Check as Check
    from cp_compress.fidelity.judgement import Requirement as Requirement
    from cp_compress.fidelity.judgement import judge as judge
    from cp_compress.fidelity.layers import layer_features as layer_features
    from cp_compress.fidelity.map_similarity import rank_correlation as rank_correlation
    from cp_compress.fidelity.map_similarity import top_fraction_iou as top_fraction_iou
    from cp_compress.fidelity.measurement import Measurement as Measurement
    from cp_compress.fidelity.noise_floors import NoiseFloor as NoiseFloor
    from cp_compress.fidelity.noise_floors import noise_floor as noise_floor
    from cp_compress.fidelity.observation import Observation as Observation
    from cp_compress.fidelity.observation import forget_observations as forget_observations
    from cp_compress.fidelity.observation import observe as observe
    from cp_compress.fidelity.origin import LayerDamage as LayerDamage
    from cp_compress.fidelity.origin import Origin as Origin
    from cp_compress.fidelity.origin import find_origin as find_origin
    from cp_compress.fidelity.output_changes import expected_calibration_error as expected_calibration_error
    from cp_compress.fidelity.pointing import compare_pointing as compare_pointing
    from cp_compress.fidelity.predictions import compare_predictions as compare_predictions
    from cp_compress.fidelity.reconstruction import compare_reconstruction as compare_reconstruction
    from cp_compress.fidelity.survival import kaplan_meier_median as kaplan_meier_median
    from cp_compress.fidelity.worst_directions import worst_case_directions as worst_case_directions

_MODULES = {
    "BoundarySearch": "boundary_search",
    "Check": "judgement",
    "Deconvolution": "attribution_methods",
    "DeepLift": "attribution_methods",
    "DeepLiftShap": "attribution_methods",
    "DirectionBasis": "directions",
    "Directions": "directions",
    "DivergenceSearch": "divergence",
    "Exemplars": "exemplars",
    "GradCAM": "attribution_methods",
    "GradientShap": "attribution_methods",
    "GuidedBackprop": "attribution_methods",
    "GuidedGradCAM": "attribution_methods",
    "InputXGradient": "attribution_methods",
    "IntegratedGradients": "attribution_methods",
    "Interval": "intervals",
    "LayerDamage": "origin",
    "Measurement": "measurement",
    "NoiseFloor": "noise_floors",
    "Observation": "observation",
    "Occlusion": "attribution_methods",
    "Origin": "origin",
    "Requirement": "judgement",
    "Saliency": "attribution_methods",
    "SmoothGrad": "attribution_methods",
    "abstention_threshold": "abstention",
    "benign_directions": "benign",
    "boundary_distances": "boundary_search",
    "class_gradient_directions": "direction_families",
    "compare_attributions": "attributions",
    "compare_boundaries": "boundaries",
    "compare_concepts": "concepts",
    "compare_divergence": "divergence",
    "compare_embeddings": "embeddings",
    "compare_pointing": "pointing",
    "compare_predictions": "predictions",
    "compare_reconstruction": "reconstruction",
    "compression_identified_exemplars": "exemplars",
    "embedding_distance": "class_distances",
    "expected_calibration_error": "output_changes",
    "find_divergence": "divergence",
    "find_origin": "origin",
    "forget_observations": "observation",
    "gate_directions": "direction_families",
    "gaussian_directions": "direction_families",
    "holm": "groups",
    "judge": "judgement",
    "kaplan_meier_median": "survival",
    "layer_features": "layers",
    "linear_cka": "embedding_similarity",
    "load_divergence": "divergence_files",
    "low_frequency_basis": "directions",
    "low_frequency_directions": "direction_families",
    "minibatch_cka": "embedding_similarity",
    "unbiased_cka": "embedding_similarity",
    "noise_floor": "noise_floors",
    "observe": "observation",
    "parse_attribution_method": "attribution_methods",
    "rank_correlation": "map_similarity",
    "replay_divergence": "divergence_files",
    "residual_directions": "direction_families",
    "risk_coverage": "abstention",
    "save_divergence": "divergence_files",
    "search_boundaries": "boundary_search",
    "split_jaccard": "jaccard",
    "top_fraction_iou": "map_similarity",
    "tree_distance": "class_distances",
    "weighted_jaccard": "jaccard",
    "worst_case_directions": "worst_directions",
}
__all__ = sorted(_MODULES)
__getattr__, __dir__ = lazy_exports(__name__, {name: f"{__name__}.{module}" for name, module in _MODULES.items()})
