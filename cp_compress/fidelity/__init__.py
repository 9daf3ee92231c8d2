"""What did compression change in behaviour? Observe a model, compare two observations, judge the comparison.

Everything is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cp_compress.base.lazy import lazy_exports

if TYPE_CHECKING:
    from cp_compress.fidelity.attributions.comparison import compare_attributions as compare_attributions
    from cp_compress.fidelity.attributions.concepts import compare_concepts as compare_concepts
    from cp_compress.fidelity.attributions.jaccard import split_jaccard as split_jaccard
    from cp_compress.fidelity.attributions.jaccard import weighted_jaccard as weighted_jaccard
    from cp_compress.fidelity.attributions.methods.gradients import GradCAM as GradCAM
    from cp_compress.fidelity.attributions.methods.gradients import InputXGradient as InputXGradient
    from cp_compress.fidelity.attributions.methods.gradients import IntegratedGradients as IntegratedGradients
    from cp_compress.fidelity.attributions.methods.gradients import Saliency as Saliency
    from cp_compress.fidelity.attributions.methods.known import parse_attribution_method as parse_attribution_method
    from cp_compress.fidelity.attributions.methods.method import AttributionMethod as AttributionMethod
    from cp_compress.fidelity.attributions.methods.method import AttributionSubject as AttributionSubject
    from cp_compress.fidelity.attributions.methods.noise import GradientShap as GradientShap
    from cp_compress.fidelity.attributions.methods.noise import SmoothGrad as SmoothGrad
    from cp_compress.fidelity.attributions.methods.occlusion import Occlusion as Occlusion
    from cp_compress.fidelity.attributions.methods.rules import Deconvolution as Deconvolution
    from cp_compress.fidelity.attributions.methods.rules import DeepLift as DeepLift
    from cp_compress.fidelity.attributions.methods.rules import DeepLiftShap as DeepLiftShap
    from cp_compress.fidelity.attributions.methods.rules import GuidedBackprop as GuidedBackprop
    from cp_compress.fidelity.attributions.methods.rules import GuidedGradCAM as GuidedGradCAM
    from cp_compress.fidelity.attributions.pointing import compare_pointing as compare_pointing
    from cp_compress.fidelity.attributions.similarity import rank_correlation as rank_correlation
    from cp_compress.fidelity.attributions.similarity import top_fraction_iou as top_fraction_iou
    from cp_compress.fidelity.boundaries.benign import benign_directions as benign_directions
    from cp_compress.fidelity.boundaries.comparison import compare_boundaries as compare_boundaries
    from cp_compress.fidelity.boundaries.directions import DirectionBasis as DirectionBasis
    from cp_compress.fidelity.boundaries.directions import Directions as Directions
    from cp_compress.fidelity.boundaries.directions import low_frequency_basis as low_frequency_basis
    from cp_compress.fidelity.boundaries.families import class_gradient_directions as class_gradient_directions
    from cp_compress.fidelity.boundaries.families import gate_directions as gate_directions
    from cp_compress.fidelity.boundaries.families import gaussian_directions as gaussian_directions
    from cp_compress.fidelity.boundaries.families import low_frequency_directions as low_frequency_directions
    from cp_compress.fidelity.boundaries.families import residual_directions as residual_directions
    from cp_compress.fidelity.boundaries.search import BoundarySearch as BoundarySearch
    from cp_compress.fidelity.boundaries.search import boundary_distances as boundary_distances
    from cp_compress.fidelity.boundaries.search import search_boundaries as search_boundaries
    from cp_compress.fidelity.boundaries.worst import worst_case_directions as worst_case_directions
    from cp_compress.fidelity.comparisons import Comparison as Comparison
    from cp_compress.fidelity.comparisons import Need as Need
    from cp_compress.fidelity.detections.comparison import compare_detections as compare_detections
    from cp_compress.fidelity.divergence.comparison import compare_divergence as compare_divergence
    from cp_compress.fidelity.divergence.files import load_divergence as load_divergence
    from cp_compress.fidelity.divergence.files import replay_divergence as replay_divergence
    from cp_compress.fidelity.divergence.files import save_divergence as save_divergence
    from cp_compress.fidelity.divergence.finding import DivergenceSearch as DivergenceSearch
    from cp_compress.fidelity.divergence.finding import find_divergence as find_divergence
    from cp_compress.fidelity.embeddings.comparison import compare_embeddings as compare_embeddings
    from cp_compress.fidelity.embeddings.similarity import linear_cka as linear_cka
    from cp_compress.fidelity.embeddings.similarity import minibatch_cka as minibatch_cka
    from cp_compress.fidelity.embeddings.similarity import unbiased_cka as unbiased_cka
    from cp_compress.fidelity.end_to_end import compare_end_to_end as compare_end_to_end
    from cp_compress.fidelity.generation.comparison import compare_generation as compare_generation
    from cp_compress.fidelity.judging.groups import holm as holm
    from cp_compress.fidelity.judging.intervals import Interval as Interval
    from cp_compress.fidelity.judging.judgement import Check as Check
    from cp_compress.fidelity.judging.judgement import judge as judge
    from cp_compress.fidelity.judging.measurement import Measurement as Measurement
    from cp_compress.fidelity.judging.metric import Metric as Metric
    from cp_compress.fidelity.judging.noise_floors import NoiseFloor as NoiseFloor
    from cp_compress.fidelity.judging.noise_floors import noise_floor as noise_floor
    from cp_compress.fidelity.judging.requirement import Requirement as Requirement
    from cp_compress.fidelity.judging.survival import kaplan_meier_median as kaplan_meier_median
    from cp_compress.fidelity.language.comparison import compare_language as compare_language
    from cp_compress.fidelity.observing.layer_outputs import layer_features as layer_features
    from cp_compress.fidelity.observing.observation import Observation as Observation
    from cp_compress.fidelity.observing.observation import forget_observations as forget_observations
    from cp_compress.fidelity.observing.observation import observe as observe
    from cp_compress.fidelity.origin.layers import LayerDamage as LayerDamage
    from cp_compress.fidelity.origin.layers import Origin as Origin
    from cp_compress.fidelity.origin.layers import find_origin as find_origin
    from cp_compress.fidelity.outputs.comparison import compare_outputs as compare_outputs
    from cp_compress.fidelity.overview import LevelMeasurements as LevelMeasurements
    from cp_compress.fidelity.overview import compare as compare
    from cp_compress.fidelity.predictions.abstention import abstention_threshold as abstention_threshold
    from cp_compress.fidelity.predictions.abstention import risk_coverage as risk_coverage
    from cp_compress.fidelity.predictions.class_distances import embedding_distance as embedding_distance
    from cp_compress.fidelity.predictions.class_distances import tree_distance as tree_distance
    from cp_compress.fidelity.predictions.comparison import compare_predictions as compare_predictions
    from cp_compress.fidelity.predictions.exemplars import Exemplars as Exemplars
    from cp_compress.fidelity.predictions.exemplars import (
        compression_identified_exemplars as compression_identified_exemplars,
    )
    from cp_compress.fidelity.predictions.output_changes import expected_calibration_error as expected_calibration_error
    from cp_compress.fidelity.reconstruction import compare_reconstruction as compare_reconstruction
    from cp_compress.fidelity.retrieval.comparison import compare_retrieval as compare_retrieval

_MODULES = {
    "AttributionMethod": "attributions.methods.method",
    "AttributionSubject": "attributions.methods.method",
    "BoundarySearch": "boundaries.search",
    "Comparison": "comparisons",
    "Metric": "judging.metric",
    "Need": "comparisons",
    "Check": "judging.judgement",
    "Deconvolution": "attributions.methods.rules",
    "DeepLift": "attributions.methods.rules",
    "DeepLiftShap": "attributions.methods.rules",
    "DirectionBasis": "boundaries.directions",
    "Directions": "boundaries.directions",
    "DivergenceSearch": "divergence.finding",
    "Exemplars": "predictions.exemplars",
    "GradCAM": "attributions.methods.gradients",
    "GradientShap": "attributions.methods.noise",
    "GuidedBackprop": "attributions.methods.rules",
    "GuidedGradCAM": "attributions.methods.rules",
    "InputXGradient": "attributions.methods.gradients",
    "IntegratedGradients": "attributions.methods.gradients",
    "Interval": "judging.intervals",
    "LayerDamage": "origin.layers",
    "LevelMeasurements": "overview",
    "Measurement": "judging.measurement",
    "NoiseFloor": "judging.noise_floors",
    "Observation": "observing.observation",
    "Occlusion": "attributions.methods.occlusion",
    "Origin": "origin.layers",
    "Requirement": "judging.requirement",
    "Saliency": "attributions.methods.gradients",
    "SmoothGrad": "attributions.methods.noise",
    "abstention_threshold": "predictions.abstention",
    "benign_directions": "boundaries.benign",
    "boundary_distances": "boundaries.search",
    "class_gradient_directions": "boundaries.families",
    "compare": "overview",
    "compare_attributions": "attributions.comparison",
    "compare_boundaries": "boundaries.comparison",
    "compare_concepts": "attributions.concepts",
    "compare_detections": "detections.comparison",
    "compare_divergence": "divergence.comparison",
    "compare_embeddings": "embeddings.comparison",
    "compare_end_to_end": "end_to_end",
    "compare_generation": "generation.comparison",
    "compare_language": "language.comparison",
    "compare_outputs": "outputs.comparison",
    "compare_pointing": "attributions.pointing",
    "compare_predictions": "predictions.comparison",
    "compare_reconstruction": "reconstruction",
    "compare_retrieval": "retrieval.comparison",
    "compression_identified_exemplars": "predictions.exemplars",
    "embedding_distance": "predictions.class_distances",
    "expected_calibration_error": "predictions.output_changes",
    "find_divergence": "divergence.finding",
    "find_origin": "origin.layers",
    "forget_observations": "observing.observation",
    "gate_directions": "boundaries.families",
    "gaussian_directions": "boundaries.families",
    "holm": "judging.groups",
    "judge": "judging.judgement",
    "kaplan_meier_median": "judging.survival",
    "layer_features": "observing.layer_outputs",
    "linear_cka": "embeddings.similarity",
    "load_divergence": "divergence.files",
    "low_frequency_basis": "boundaries.directions",
    "low_frequency_directions": "boundaries.families",
    "minibatch_cka": "embeddings.similarity",
    "unbiased_cka": "embeddings.similarity",
    "noise_floor": "judging.noise_floors",
    "observe": "observing.observation",
    "parse_attribution_method": "attributions.methods.known",
    "rank_correlation": "attributions.similarity",
    "replay_divergence": "divergence.files",
    "residual_directions": "boundaries.families",
    "risk_coverage": "predictions.abstention",
    "save_divergence": "divergence.files",
    "search_boundaries": "boundaries.search",
    "split_jaccard": "attributions.jaccard",
    "top_fraction_iou": "attributions.similarity",
    "tree_distance": "predictions.class_distances",
    "weighted_jaccard": "attributions.jaccard",
    "worst_case_directions": "boundaries.worst",
}
__all__ = sorted(_MODULES)
__getattr__, __dir__ = lazy_exports(__name__, {name: f"{__name__}.{module}" for name, module in _MODULES.items()})
