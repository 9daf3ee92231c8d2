"""The bounds that each assertion takes, as types for checkers and editors.

`make schemas` writes this file from the metrics that `cp_compress.fidelity.judging.metrics` declares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from typing_extensions import TypedDict


class PredictionsBounds(TypedDict, total=False):
    """The bounds of predictions."""

    deployed_batch_size: int | None
    """No bound: the batch size of the deployed model, to which forward passes are held."""

    output: str | int | Callable[[Any], Any] | None
    """No bound: the part of what the models give that is compared."""

    min_agreement: float | None
    """At least this (in [0, 1]). The share of examples on which both models predict one class."""

    min_accuracy: float | None
    """At least this (in [0, 1]). The share of examples that the candidate classifies as labelled."""

    max_accuracy_drop: float | None
    """At most this (in [-1, 1]). The reference's accuracy minus the candidate's."""

    max_class_accuracy_drop: float | None
    """At most this (in [-1, 1]). The accuracy drop of the class that loses most."""

    max_cost: float | None
    """At most this (in [0, inf], in class distance). The mean distance between the classes that the two models
    predict."""

    max_newly_wrong: float | None
    """At most this (in [0, 1]). The share of examples that only the reference classifies as labelled."""

    min_top_k_agreement: float | None
    """At least this (in [0, 1]). The mean share of the reference's k most likely classes that are among the
    candidate's."""

    max_mean_kl: float | None
    """At most this (in [0, inf], in nats). The mean Kullback-Leibler divergence of the candidate's class
    probabilities from the reference's."""

    max_mean_logit_distance: float | None
    """At most this (in [0, inf], in logits). The mean Euclidean distance between the two models' logits."""

    max_ece_change: float | None
    """At most this (in [-1, 1]). The candidate's expected calibration error minus the reference's."""

    max_slice_accuracy_drop: float | None
    """At most this (in [-1, 1]). The accuracy drop of the named subset that loses most."""

    min_slice_agreement: float | None
    """At least this (in [0, 1]). The agreement in the named subset where it is least."""

    min_exact_agreement: float | None
    """At least this (in [0, 1]). The share of examples of which every answer is the reference's, where an example
    has many answers."""

    min_mean_class_iou: float | None
    """At least this (in [0, 1]). The mean over classes of the intersection over union of the candidate's answers
    with the truth."""

    max_mean_class_iou_drop: float | None
    """At most this (in [-1, 1]). The reference's mean class IoU minus the candidate's."""

    min_agreement_iou: float | None
    """At least this (in [0, 1]). The mean over classes of the intersection over union of the two models' answers."""


class EmbeddingsBounds(TypedDict, total=False):
    """The bounds of embeddings."""

    deployed_batch_size: int | None
    """No bound: the batch size of the deployed model, to which forward passes are held."""

    output: str | int | Callable[[Any], Any] | None
    """No bound: the part of what the models give that is compared."""

    min_cka: float | None
    """At least this (in [0, 1]). Centred kernel alignment of the two models' embeddings with a linear kernel."""

    min_kernel_cka: float | None
    """At least this (in [0, 1]). Centred kernel alignment of the two models' embeddings with a Gaussian kernel."""

    max_mean_angle: float | None
    """At most this (in [0, 3.142], in radians). The mean angle between the two models' embeddings of an example."""

    min_neighbor_overlap: float | None
    """At least this (in [0, 1]). The mean share of an example's nearest neighbours that stay its nearest
    neighbours."""

    max_hardness_change: float | None
    """At most this (in [0, 1]). The mean absolute change of angular visual hardness."""

    max_procrustes_distance: float | None
    """At most this (in [0, 1]). The distance that is left after the best rotation and scale of the candidate's
    embeddings."""


class AttributionsBounds(TypedDict, total=False):
    """The bounds of attributions."""

    deployed_batch_size: int | None
    """No bound: the batch size of the deployed model, to which forward passes are held."""

    output: str | int | Callable[[Any], Any] | None
    """No bound: the part of what the models give that is compared."""

    min_mean_iou: float | None
    """At least this (in [0, 1]). The mean weighted Jaccard index of the two models' attribution maps."""

    min_median_iou: float | None
    """At least this (in [0, 1]). The median of the index over examples."""

    min_iou_quantile: tuple[float, float] | None
    """At least this (in [0, 1]). A quantile of the index over examples, written with its level: iou_quantile_0.1.
    A pair: the level of the quantile, in (0, 1), and its bound."""

    min_corrected_iou: float | None
    """At least this (at most 1). The mean index on a scale from 0 at chance to 1 for equal maps."""

    min_agreeing_mean_iou: float | None
    """At least this (in [0, 1]). The mean index over the examples on which both models predict one class."""

    min_rank_correlation: float | None
    """At least this (in [-1, 1]). The mean rank correlation of the two models' attribution maps."""

    min_top_fraction_iou: float | None
    """At least this (in [0, 1]). The mean intersection over union of the strongest places of the two maps."""


class PointingBounds(TypedDict, total=False):
    """The bounds of pointing."""

    deployed_batch_size: int | None
    """No bound: the batch size of the deployed model, to which forward passes are held."""

    output: str | int | Callable[[Any], Any] | None
    """No bound: the part of what the models give that is compared."""

    min_pointing_mass: float | None
    """At least this (in [0, 1]). The mean share of the candidate's attribution inside the mask where it must
    look."""

    max_pointing_mass_drop: float | None
    """At most this (in [-1, 1]). The reference's share inside the mask minus the candidate's, on average."""

    min_pointing_hits: float | None
    """At least this (in [0, 1]). The share of examples whose strongest place is inside the mask where the
    candidate must look."""

    max_forbidden_mass: float | None
    """At most this (in [0, 1]). The mean share of the candidate's attribution inside the mask where it must not
    look."""


class ConceptsBounds(TypedDict, total=False):
    """The bounds of concepts."""

    deployed_batch_size: int | None
    """No bound: the batch size of the deployed model, to which forward passes are held."""

    output: str | int | Callable[[Any], Any] | None
    """No bound: the part of what the models give that is compared."""

    max_concept_change: float | None
    """At most this (in [0, 1]). The largest change of a class's score for a concept."""

    max_mean_concept_change: float | None
    """At most this (in [0, 1]). The mean absolute change of the classes' scores for concepts."""

    min_concept_agreement: float | None
    """At least this (in [0, 1]). The share of examples and concepts whose sensitivity keeps its sign."""


class BoundariesBounds(TypedDict, total=False):
    """The bounds of boundaries."""

    deployed_batch_size: int | None
    """No bound: the batch size of the deployed model, to which forward passes are held."""

    output: str | int | Callable[[Any], Any] | None
    """No bound: the part of what the models give that is compared."""

    max_median_change: float | None
    """At most this (in [0, inf]). The median over examples of the relative change of the distance to the decision
    boundary."""

    max_mean_abs_log_ratio: float | None
    """At most this (in [0, inf]). The mean absolute logarithm of the ratio of the two distances."""

    min_median_distance_ratio: float | None
    """At least this (in [0, inf]). The candidate's median distance over the reference's, with censored rays
    counted."""

    min_preserved_fraction: float | None
    """At least this (in [0, 1]). The share of rays whose distance changes by no more than the tolerance."""

    max_censored_fraction: float | None
    """At most this (in [0, 1]). The share of rays along which a model meets no other class."""


class RobustnessBounds(TypedDict, total=False):
    """The bounds of robustness."""

    deployed_batch_size: int | None
    """No bound: the batch size of the deployed model, to which forward passes are held."""

    output: str | int | Callable[[Any], Any] | None
    """No bound: the part of what the models give that is compared."""

    min_corrupted_agreement: float | None
    """At least this (in [0, 1]). The mean agreement over all corruptions and severities."""

    min_worst_corrupted_agreement: float | None
    """At least this (in [0, 1]). The agreement under the corruption and severity where it is least."""

    max_corrupted_accuracy_drop: float | None
    """At most this (in [-1, 1]). The mean accuracy drop over all corruptions and severities."""

    max_worst_corrupted_accuracy_drop: float | None
    """At most this (in [-1, 1]). The accuracy drop under the corruption and severity where it is largest."""

    max_corruption_error_ratio: float | None
    """At most this (in [0, inf]). The candidate's errors on corrupted images over the reference's."""


class DivergenceBounds(TypedDict, total=False):
    """The bounds of divergence."""

    deployed_batch_size: int | None
    """No bound: the batch size of the deployed model, to which forward passes are held."""

    output: str | int | Callable[[Any], Any] | None
    """No bound: the part of what the models give that is compared."""

    max_divergence_rate: float | None
    """At most this (in [0, 1]). The share of examples near which an input was found on which the two models
    disagree."""


class FootprintBounds(TypedDict, total=False):
    """The bounds of footprint."""

    min_compression: float | None
    """At least this (in [0, inf]). The reference's file size over the candidate's."""

    max_flops_ratio: float | None
    """At most this (in [0, inf]). The candidate's floating-point operations over the reference's."""

    min_speedup: float | None
    """At least this (in [0, inf]). The reference's median latency over the candidate's."""

    min_coverage: float | None
    """At least this (in [0, 1]). The share of the reference's weights that the candidate changed."""


class ReconstructionBounds(TypedDict, total=False):
    """The bounds of reconstruction."""

    max_error: float | None
    """At most this (in [0, inf], in inputs). The largest absolute difference between decoded and original values."""

    max_rmse: float | None
    """At most this (in [0, inf], in inputs). The root of the mean squared difference over all values."""

    min_psnr: float | None
    """At least this (any number, in dB). The peak signal-to-noise ratio."""

    min_ssim: float | None
    """At least this (in [-1, 1]). The mean structural similarity of decoded and original images."""

    max_bytes_per_example: float | None
    """At most this (in [0, inf], in bytes). The mean number of bytes that an example is stored in."""


class EndToEndBounds(TypedDict, total=False):
    """The bounds of end_to_end."""

    min_speedup: float | None
    """At least this (in [0, inf]). The examples a second of the compressed pipeline, from stored data to answers,
    over the uncompressed one's."""

    min_examples_per_second: float | None
    """At least this (in [0, inf], in examples/s). The examples a second of the compressed pipeline."""


class OutputsBounds(TypedDict, total=False):
    """The bounds of outputs."""

    deployed_batch_size: int | None
    """No bound: the batch size of the deployed model, to which forward passes are held."""

    output: str | int | Callable[[Any], Any] | None
    """No bound: the part of what the models give that is compared."""

    max_relative_error: float | None
    """At most this (in [0, inf]). The mean over examples of the norm of the difference over the norm of the
    reference's output."""

    max_relative_error_quantile: tuple[float, float] | None
    """At most this (in [0, inf]). A quantile of that error over examples, written with its level:
    relative_error_quantile_0.9. A pair: the level of the quantile, in (0, 1), and its bound."""

    max_worst_relative_error: float | None
    """At most this (in [0, inf]). The relative error of the example where it is largest."""

    min_within_tolerance: float | None
    """At least this (in [0, 1]). The share of examples whose relative error is at most the tolerance."""

    min_sqnr: float | None
    """At least this (any number, in dB). The signal to quantisation noise ratio: the reference's sum of squares
    over that of the difference."""

    max_output_rmse: float | None
    """At most this (in [0, inf], in output). The root of the mean squared difference of the two models' outputs."""

    max_output_error: float | None
    """At most this (in [0, inf], in output). The largest absolute difference of the two models' outputs."""

    max_own_error: float | None
    """At most this (any number). The mean over examples of a distance of your own between the two models'
    outputs."""


class LanguageBounds(TypedDict, total=False):
    """The bounds of language."""

    deployed_batch_size: int | None
    """No bound: the batch size of the deployed model, to which forward passes are held."""

    output: str | int | Callable[[Any], Any] | None
    """No bound: the part of what the models give that is compared."""

    max_perplexity_ratio: float | None
    """At most this (in [0, inf]). The candidate's perplexity over the reference's, over all tokens."""

    max_token_kl: float | None
    """At most this (in [0, inf], in nats). The mean over tokens of the Kullback-Leibler divergence of the
    candidate's next-token probabilities."""

    max_kl_quantile: tuple[float, float] | None
    """At most this (in [0, inf], in nats). A quantile of that divergence over tokens, written with its level:
    kl_quantile_0.99. A pair: the level of the quantile, in (0, 1), and its bound."""

    min_token_agreement: float | None
    """At least this (in [0, 1]). The share of tokens at which both models hold one token for the most likely."""

    min_top_k_overlap: float | None
    """At least this (in [0, 1]). The mean share of the reference's k most likely tokens that are among the
    candidate's."""

    max_worst_slice_perplexity_ratio: float | None
    """At most this (in [0, inf]). The perplexity ratio of the named subset of documents where it is largest."""


class RetrievalBounds(TypedDict, total=False):
    """The bounds of retrieval."""

    deployed_batch_size: int | None
    """No bound: the batch size of the deployed model, to which forward passes are held."""

    output: str | int | Callable[[Any], Any] | None
    """No bound: the part of what the models give that is compared."""

    min_result_overlap: float | None
    """At least this (in [0, 1]). The mean share of the reference's k best documents that are among the
    candidate's."""

    min_first_result_agreement: float | None
    """At least this (in [0, 1]). The share of queries for which both models put one document first."""

    min_result_rank_correlation: float | None
    """At least this (in [-1, 1]). The mean of Kendall's tau-b of both models' scores of the reference's k best
    documents."""

    min_slice_result_overlap: float | None
    """At least this (in [0, 1]). The result overlap of the named subset of queries where it is least."""

    min_recall: float | None
    """At least this (in [0, 1]). The mean share of a query's relevant documents that are among the candidate's k
    best."""

    max_recall_drop: float | None
    """At most this (in [-1, 1]). The reference's recall minus the candidate's."""

    min_mrr: float | None
    """At least this (in [0, 1]). The candidate's mean reciprocal rank of the first relevant document among the k
    best."""

    max_mrr_drop: float | None
    """At most this (in [-1, 1]). The reference's mean reciprocal rank minus the candidate's."""

    min_ndcg: float | None
    """At least this (in [0, 1]). The candidate's normalised discounted cumulative gain over the k best documents."""

    max_ndcg_drop: float | None
    """At most this (in [-1, 1]). The reference's normalised discounted cumulative gain minus the candidate's."""

    max_slice_ndcg_drop: float | None
    """At most this (in [-1, 1]). The drop of that gain in the named subset of queries that loses most."""


class DetectionsBounds(TypedDict, total=False):
    """The bounds of detections."""

    deployed_batch_size: int | None
    """No bound: the batch size of the deployed model, to which forward passes are held."""

    output: str | int | Callable[[Any], Any] | None
    """No bound: the part of what the models give that is compared."""

    min_matched_f1: float | None
    """At least this (in [0, 1]). Twice the number of objects that both models find, over the number of objects of
    both."""

    min_class_f1: float | None
    """At least this (in [0, 1]). That share for the class where it is least."""

    min_slice_f1: float | None
    """At least this (in [0, 1]). That share in the named subset of images where it is least."""

    min_mean_matched_iou: float | None
    """At least this (in [0, 1]). The mean intersection over union of the boxes of objects that both models find."""

    max_mean_score_change: float | None
    """At most this (in [0, 1]). The mean absolute change of the score of objects that both models find."""

    max_lost_objects: float | None
    """At most this (in [0, 1]). The share of the reference's objects that the candidate does not find."""

    max_new_objects: float | None
    """At most this (in [0, 1]). The share of the candidate's objects that the reference does not find."""

    min_map: float | None
    """At least this (in [0, 1]). The candidate's mean over classes of the average precision over IoU thresholds
    of 0.5 to 0.95."""

    max_map_drop: float | None
    """At most this (in [-1, 1]). The reference's mean average precision minus the candidate's."""

    max_map_50_drop: float | None
    """At most this (in [-1, 1]). The reference's mean average precision at an IoU of 0.5 minus the candidate's."""

    max_class_ap_drop: float | None
    """At most this (in [-1, 1]). The drop of the average precision of the class that loses most."""


class GenerationBounds(TypedDict, total=False):
    """The bounds of generation."""

    deployed_batch_size: int | None
    """No bound: the batch size of the deployed model, to which forward passes are held."""

    output: str | int | Callable[[Any], Any] | None
    """No bound: the part of what the models give that is compared."""

    min_exact_generations: float | None
    """At least this (in [0, 1]). The share of prompts for which both models generate the same."""

    min_common_prefix: float | None
    """At least this (in [0, 1]). The mean share of a generation that both models write before they part."""

    max_edit_distance: float | None
    """At most this (in [0, 1]). The mean number of changed tokens between both generations, over the longer one."""

    min_median_first_difference: float | None
    """At least this (in [0, inf], in tokens). The median number of tokens before both part, where those that
    never do are censored."""

    max_damaged_generations: float | None
    """At most this (in [0, 1]). The share of prompts where both part though the reference's best token is no tie."""

    min_slice_exact_generations: float | None
    """At least this (in [0, 1]). The share of equal generations in the named subset of prompts where it is least."""

    max_word_error_rate: float | None
    """At most this (in [0, inf]). The candidate's wrong words over the words of the true texts."""

    max_word_error_rate_rise: float | None
    """At most this (any number). The candidate's word error rate minus the reference's."""
