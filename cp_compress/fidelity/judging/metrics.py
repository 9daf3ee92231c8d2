"""The metrics of this package, each declared once, and how they are found by name.

Requirements, the arguments of assertions, the tables of a specification, proposals of bounds, the command line and the
tables of the documentation follow from the declaration. Nothing heavy is imported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from cp_compress.base.arguments import nearest, reject
from cp_compress.base.extensions import added
from cp_compress.fidelity.judging.metric import Metric


def _table(*metrics: Metric) -> Mapping[str, Metric]:
    return {metric.name: metric for metric in metrics}


_INF = math.inf
_LISTED = 6
_TCAV = "Kim et al. 2018, Interpretability beyond feature attribution (TCAV)"
_CORRUPTIONS = "Hendrycks and Dietterich 2019, Benchmarking neural network robustness"
_COCO = "Lin et al. 2014, Microsoft COCO: common objects in context"
_JOSEPH = "Joseph et al. 2020, Correctness-preserving compression of datasets and neural network models"
_LLAMA = "llama.cpp, llama-perplexity --kl-divergence"
_TREC = "Voorhees and Harman 2005, TREC: experiment and evaluation in information retrieval"
_VOC = "Everingham et al. 2010, The PASCAL visual object classes challenge"

METRICS: Mapping[str, Mapping[str, Metric]] = {
    "predictions": _table(
        Metric(
            "agreement",
            "The share of examples on which both models predict one class.",
            "higher",
            unchanged=1.0,
            claims=True,
            rests_on="answers",
            start=0.98,
        ),
        Metric(
            "accuracy",
            "The share of examples that the candidate classifies as labelled.",
            "higher",
            claims=True,
            rests_on="labels",
        ),
        Metric(
            "reference_accuracy",
            "The share of examples that the reference classifies as labelled.",
            None,
            claims=True,
            rests_on="labels",
        ),
        Metric(
            "accuracy_drop",
            "The reference's accuracy minus the candidate's.",
            "lower",
            unchanged=0.0,
            low=-1.0,
            claims=True,
            source="Bonett and Price 2012, Adjusted Wald confidence interval for paired proportions",
            rests_on="labels",
            start=0.02,
        ),
        Metric(
            "max_class_accuracy_drop",
            "The accuracy drop of the class that loses most.",
            "lower",
            unchanged=0.0,
            low=-1.0,
            claims=True,
            rests_on="classes",
            start=0.05,
        ),
        Metric(
            "cost",
            "The mean distance between the classes that the two models predict.",
            "lower",
            unchanged=0.0,
            high=_INF,
            claims=True,
            unit="class distance",
            source=_JOSEPH,
            rests_on="answers",
            start=0.03,
        ),
        Metric(
            "newly_wrong",
            "The share of examples that only the reference classifies as labelled.",
            "lower",
            unchanged=0.0,
            claims=True,
            rests_on="labels",
            start=0.02,
        ),
        Metric(
            "newly_right",
            "The share of examples that only the candidate classifies as labelled.",
            None,
            unchanged=0.0,
            claims=True,
            rests_on="labels",
        ),
        Metric(
            "top_k_agreement",
            "The mean share of the reference's k most likely classes that are among the candidate's.",
            "higher",
            unchanged=1.0,
            claims=True,
            start=0.95,
        ),
        Metric(
            "mean_kl",
            "The mean Kullback-Leibler divergence of the candidate's class probabilities from the reference's.",
            "lower",
            unchanged=0.0,
            high=_INF,
            unit="nats",
            start=0.05,
        ),
        Metric(
            "mean_logit_distance",
            "The mean Euclidean distance between the two models' logits.",
            "lower",
            unchanged=0.0,
            high=_INF,
            unit="logits",
        ),
        Metric(
            "ece_change",
            "The candidate's expected calibration error minus the reference's.",
            "lower",
            unchanged=0.0,
            low=-1.0,
            source="Guo et al. 2017, On calibration of modern neural networks",
            rests_on="labels",
            start=0.02,
        ),
        Metric(
            "max_slice_accuracy_drop",
            "The accuracy drop of the named subset that loses most.",
            "lower",
            unchanged=0.0,
            low=-1.0,
            claims=True,
            rests_on="labels",
            start=0.05,
        ),
        Metric(
            "min_slice_agreement",
            "The agreement in the named subset where it is least.",
            "higher",
            unchanged=1.0,
            claims=True,
            rests_on="answers",
            start=0.95,
        ),
        Metric(
            "exact_agreement",
            "The share of examples of which every answer is the reference's, where an example has many answers.",
            "higher",
            unchanged=1.0,
            claims=True,
            rests_on="answers",
            start=0.9,
        ),
        Metric(
            "mean_class_iou",
            "The mean over classes of the intersection over union of the candidate's answers with the truth.",
            "higher",
            source=_VOC,
            rests_on="classes",
        ),
        Metric(
            "reference_mean_class_iou",
            "The mean over classes of the intersection over union of the reference's answers with the truth.",
            None,
            source=_VOC,
            rests_on="classes",
        ),
        Metric(
            "mean_class_iou_drop",
            "The reference's mean class IoU minus the candidate's.",
            "lower",
            unchanged=0.0,
            low=-1.0,
            rests_on="classes",
            start=0.02,
        ),
        Metric(
            "agreement_iou",
            "The mean over classes of the intersection over union of the two models' answers.",
            "higher",
            unchanged=1.0,
            rests_on="answers",
            start=0.9,
        ),
    ),
    "embeddings": _table(
        Metric(
            "cka",
            "Centred kernel alignment of the two models' embeddings with a linear kernel.",
            "higher",
            unchanged=1.0,
            source="Kornblith et al. 2019, Similarity of neural network representations revisited",
            start=0.99,
        ),
        Metric(
            "kernel_cka",
            "Centred kernel alignment of the two models' embeddings with a Gaussian kernel.",
            "higher",
            unchanged=1.0,
            source="Kornblith et al. 2019, Similarity of neural network representations revisited",
            start=0.99,
        ),
        Metric(
            "mean_angle",
            "The mean angle between the two models' embeddings of an example.",
            "lower",
            unchanged=0.0,
            high=math.pi,
            claims=True,
            unit="radians",
            start=0.2,
        ),
        Metric(
            "neighbor_overlap",
            "The mean share of an example's nearest neighbours that stay its nearest neighbours.",
            "higher",
            unchanged=1.0,
            start=0.7,
        ),
        Metric(
            "hardness_change",
            "The mean absolute change of angular visual hardness.",
            "lower",
            unchanged=0.0,
            source="Chen et al. 2020, Angular visual hardness",
            start=0.02,
        ),
        Metric(
            "procrustes_distance",
            "The distance that is left after the best rotation and scale of the candidate's embeddings.",
            "lower",
            unchanged=0.0,
            start=0.05,
        ),
    ),
    "language": _table(
        Metric(
            "perplexity_ratio",
            "The candidate's perplexity over the reference's, over all tokens.",
            "lower",
            unchanged=1.0,
            high=_INF,
            start=1.02,
        ),
        Metric(
            "reference_perplexity",
            "The exponential of the reference's mean negative log-likelihood of the next token.",
            None,
            high=_INF,
        ),
        Metric(
            "perplexity",
            "The exponential of the candidate's mean negative log-likelihood of the next token.",
            None,
            high=_INF,
        ),
        Metric(
            "token_kl",
            "The mean over tokens of the Kullback-Leibler divergence of the candidate's next-token probabilities.",
            "lower",
            unchanged=0.0,
            high=_INF,
            unit="nats",
            source=_LLAMA,
            start=0.05,
        ),
        Metric(
            "kl_quantile",
            "A quantile of that divergence over tokens, written with its level: kl_quantile_0.99.",
            "lower",
            unchanged=0.0,
            high=_INF,
            claims=True,
            unit="nats",
            leveled=True,
            source=_LLAMA,
        ),
        Metric(
            "token_agreement",
            "The share of tokens at which both models hold one token for the most likely.",
            "higher",
            unchanged=1.0,
            claims=True,
            start=0.95,
        ),
        Metric(
            "top_k_overlap",
            "The mean share of the reference's k most likely tokens that are among the candidate's.",
            "higher",
            unchanged=1.0,
            claims=True,
            start=0.85,
        ),
        Metric(
            "worst_slice_perplexity_ratio",
            "The perplexity ratio of the named subset of documents where it is largest.",
            "lower",
            unchanged=1.0,
            high=_INF,
            start=1.05,
        ),
    ),
    "retrieval": _table(
        Metric(
            "result_overlap",
            "The mean share of the reference's k best documents that are among the candidate's.",
            "higher",
            unchanged=1.0,
            claims=True,
            start=0.9,
        ),
        Metric(
            "first_result_agreement",
            "The share of queries for which both models put one document first.",
            "higher",
            unchanged=1.0,
            claims=True,
            start=0.95,
        ),
        Metric(
            "result_rank_correlation",
            "The mean of Kendall's tau-b of both models' scores of the reference's k best documents.",
            "higher",
            unchanged=1.0,
            low=-1.0,
            claims=True,
            source="Kendall 1945, The treatment of ties in ranking problems",
            start=0.8,
        ),
        Metric(
            "min_slice_result_overlap",
            "The result overlap of the named subset of queries where it is least.",
            "higher",
            unchanged=1.0,
            start=0.85,
        ),
        Metric(
            "recall",
            "The mean share of a query's relevant documents that are among the candidate's k best.",
            "higher",
            claims=True,
            source=_TREC,
        ),
        Metric(
            "reference_recall",
            "The mean share of a query's relevant documents that are among the reference's k best.",
            None,
            claims=True,
            source=_TREC,
        ),
        Metric(
            "recall_drop",
            "The reference's recall minus the candidate's.",
            "lower",
            unchanged=0.0,
            low=-1.0,
            claims=True,
            start=0.02,
        ),
        Metric(
            "mrr",
            "The candidate's mean reciprocal rank of the first relevant document among the k best.",
            "higher",
            claims=True,
            source=_TREC,
        ),
        Metric(
            "reference_mrr",
            "The reference's mean reciprocal rank of the first relevant document among the k best.",
            None,
            claims=True,
            source=_TREC,
        ),
        Metric(
            "mrr_drop",
            "The reference's mean reciprocal rank minus the candidate's.",
            "lower",
            unchanged=0.0,
            low=-1.0,
            claims=True,
            start=0.02,
        ),
        Metric(
            "ndcg",
            "The candidate's normalised discounted cumulative gain over the k best documents.",
            "higher",
            claims=True,
            source="Järvelin and Kekäläinen 2002, Cumulated gain-based evaluation of IR techniques",
        ),
        Metric(
            "reference_ndcg",
            "The reference's normalised discounted cumulative gain over the k best documents.",
            None,
            claims=True,
            source="Järvelin and Kekäläinen 2002, Cumulated gain-based evaluation of IR techniques",
        ),
        Metric(
            "ndcg_drop",
            "The reference's normalised discounted cumulative gain minus the candidate's.",
            "lower",
            unchanged=0.0,
            low=-1.0,
            claims=True,
            start=0.02,
        ),
        Metric(
            "max_slice_ndcg_drop",
            "The drop of that gain in the named subset of queries that loses most.",
            "lower",
            unchanged=0.0,
            low=-1.0,
            start=0.05,
        ),
    ),
    "detections": _table(
        Metric(
            "matched_f1",
            "Twice the number of objects that both models find, over the number of objects of both.",
            "higher",
            unchanged=1.0,
            claims=True,
            start=0.9,
        ),
        Metric(
            "min_class_f1",
            "That share for the class where it is least.",
            "higher",
            unchanged=1.0,
            start=0.8,
        ),
        Metric(
            "min_slice_f1",
            "That share in the named subset of images where it is least.",
            "higher",
            unchanged=1.0,
            start=0.85,
        ),
        Metric(
            "mean_matched_iou",
            "The mean intersection over union of the boxes of objects that both models find.",
            "higher",
            unchanged=1.0,
            claims=True,
            start=0.9,
        ),
        Metric(
            "mean_score_change",
            "The mean absolute change of the score of objects that both models find.",
            "lower",
            unchanged=0.0,
            claims=True,
            start=0.05,
        ),
        Metric(
            "lost_objects",
            "The share of the reference's objects that the candidate does not find.",
            "lower",
            unchanged=0.0,
            claims=True,
            start=0.1,
        ),
        Metric(
            "new_objects",
            "The share of the candidate's objects that the reference does not find.",
            "lower",
            unchanged=0.0,
            claims=True,
            start=0.1,
        ),
        Metric(
            "map",
            "The candidate's mean over classes of the average precision over IoU thresholds of 0.5 to 0.95.",
            "higher",
            source=_COCO,
        ),
        Metric(
            "reference_map",
            "The reference's mean over classes of that average precision.",
            None,
            source=_COCO,
        ),
        Metric(
            "map_drop",
            "The reference's mean average precision minus the candidate's.",
            "lower",
            unchanged=0.0,
            low=-1.0,
            source=_COCO,
            start=0.02,
        ),
        Metric(
            "map_50_drop",
            "The reference's mean average precision at an IoU of 0.5 minus the candidate's.",
            "lower",
            unchanged=0.0,
            low=-1.0,
            source=_COCO,
            start=0.02,
        ),
        Metric(
            "max_class_ap_drop",
            "The drop of the average precision of the class that loses most.",
            "lower",
            unchanged=0.0,
            low=-1.0,
            source=_COCO,
            start=0.05,
        ),
    ),
    "generation": _table(
        Metric(
            "exact_generations",
            "The share of prompts for which both models generate the same.",
            "higher",
            unchanged=1.0,
            claims=True,
            start=0.6,
        ),
        Metric(
            "common_prefix",
            "The mean share of a generation that both models write before they part.",
            "higher",
            unchanged=1.0,
            claims=True,
            start=0.7,
        ),
        Metric(
            "edit_distance",
            "The mean number of changed tokens between both generations, over the longer one.",
            "lower",
            unchanged=0.0,
            claims=True,
            source="Levenshtein 1966, Binary codes capable of correcting deletions, insertions and reversals",
            start=0.2,
        ),
        Metric(
            "median_first_difference",
            "The median number of tokens before both part, where those that never do are censored.",
            "higher",
            unchanged=_INF,
            high=_INF,
            unit="tokens",
            source="Kaplan and Meier 1958, Nonparametric estimation from incomplete observations",
        ),
        Metric(
            "damaged_generations",
            "The share of prompts where both part though the reference's best token is no tie.",
            "lower",
            unchanged=0.0,
            claims=True,
            start=0.2,
        ),
        Metric(
            "mean_parting_margin",
            "The mean lead of the reference's best token where both part.",
            None,
            high=_INF,
            unit="logits",
        ),
        Metric(
            "min_slice_exact_generations",
            "The share of equal generations in the named subset of prompts where it is least.",
            "higher",
            unchanged=1.0,
            start=0.5,
        ),
        Metric(
            "word_error_rate",
            "The candidate's wrong words over the words of the true texts.",
            "lower",
            high=_INF,
            source="Morris et al. 2004, From WER and RIL to MER and WIL",
        ),
        Metric(
            "reference_word_error_rate",
            "The reference's wrong words over the words of the true texts.",
            None,
            high=_INF,
            source="Morris et al. 2004, From WER and RIL to MER and WIL",
        ),
        Metric(
            "word_error_rate_rise",
            "The candidate's word error rate minus the reference's.",
            "lower",
            unchanged=0.0,
            low=-_INF,
            high=_INF,
            start=0.01,
        ),
    ),
    "attributions": _table(
        Metric(
            "mean_iou",
            "The mean weighted Jaccard index of the two models' attribution maps.",
            "higher",
            unchanged=1.0,
            claims=True,
            source=_JOSEPH,
            start=0.6,
        ),
        Metric("median_iou", "The median of the index over examples.", "higher", unchanged=1.0, claims=True, start=0.6),
        Metric(
            "iou_quantile",
            "A quantile of the index over examples, written with its level: iou_quantile_0.1.",
            "higher",
            unchanged=1.0,
            claims=True,
            leveled=True,
            start=0.4,
        ),
        Metric("chance_iou", "The mean index of maps of different examples.", None, claims=True),
        Metric(
            "corrected_iou",
            "The mean index on a scale from 0 at chance to 1 for equal maps.",
            "higher",
            unchanged=1.0,
            low=-_INF,
            claims=True,
            start=0.4,
        ),
        Metric(
            "agreeing_mean_iou",
            "The mean index over the examples on which both models predict one class.",
            "higher",
            unchanged=1.0,
            claims=True,
            start=0.6,
        ),
        Metric(
            "rank_correlation",
            "The mean rank correlation of the two models' attribution maps.",
            "higher",
            unchanged=1.0,
            low=-1.0,
            claims=True,
            source="Adebayo et al. 2018, Sanity checks for saliency maps",
            start=0.7,
        ),
        Metric(
            "top_fraction_iou",
            "The mean intersection over union of the strongest places of the two maps.",
            "higher",
            unchanged=1.0,
            claims=True,
            start=0.5,
        ),
    ),
    "pointing": _table(
        Metric(
            "pointing_mass",
            "The mean share of the candidate's attribution inside the mask where it must look.",
            "higher",
            claims=True,
        ),
        Metric(
            "pointing_mass_drop",
            "The reference's share inside the mask minus the candidate's, on average.",
            "lower",
            unchanged=0.0,
            low=-1.0,
            claims=True,
            start=0.05,
        ),
        Metric(
            "pointing_hits",
            "The share of examples whose strongest place is inside the mask where the candidate must look.",
            "higher",
            claims=True,
            source="Zhang et al. 2018, Top-down neural attention by excitation backprop",
        ),
        Metric(
            "forbidden_mass",
            "The mean share of the candidate's attribution inside the mask where it must not look.",
            "lower",
            claims=True,
        ),
    ),
    "concepts": _table(
        Metric(
            "max_concept_change",
            "The largest change of a class's score for a concept.",
            "lower",
            unchanged=0.0,
            source=_TCAV,
            start=0.2,
        ),
        Metric(
            "mean_concept_change",
            "The mean absolute change of the classes' scores for concepts.",
            "lower",
            unchanged=0.0,
            source=_TCAV,
            start=0.05,
        ),
        Metric(
            "concept_agreement",
            "The share of examples and concepts whose sensitivity keeps its sign.",
            "higher",
            unchanged=1.0,
            claims=True,
            source=_TCAV,
            start=0.9,
        ),
    ),
    "boundaries": _table(
        Metric(
            "median_change",
            "The median over examples of the relative change of the distance to the decision boundary.",
            "lower",
            unchanged=0.0,
            high=_INF,
            claims=True,
            start=0.15,
        ),
        Metric(
            "mean_abs_log_ratio",
            "The mean absolute logarithm of the ratio of the two distances.",
            "lower",
            unchanged=0.0,
            high=_INF,
            start=0.2,
        ),
        Metric(
            "median_distance_ratio",
            "The candidate's median distance over the reference's, with censored rays counted.",
            "higher",
            unchanged=1.0,
            high=_INF,
            source="Kaplan and Meier 1958, Nonparametric estimation from incomplete observations",
            start=0.8,
        ),
        Metric(
            "preserved_fraction",
            "The share of rays whose distance changes by no more than the tolerance.",
            "higher",
            unchanged=1.0,
            claims=True,
            start=0.8,
        ),
        Metric(
            "censored_fraction",
            "The share of rays along which a model meets no other class.",
            "lower",
            claims=True,
            start=0.5,
        ),
    ),
    "robustness": _table(
        Metric(
            "corrupted_agreement",
            "The mean agreement over all corruptions and severities.",
            "higher",
            unchanged=1.0,
            claims=True,
            source=_CORRUPTIONS,
            rests_on="answers",
            start=0.95,
        ),
        Metric(
            "worst_corrupted_agreement",
            "The agreement under the corruption and severity where it is least.",
            "higher",
            unchanged=1.0,
            source=_CORRUPTIONS,
            rests_on="answers",
            start=0.85,
        ),
        Metric(
            "corrupted_accuracy_drop",
            "The mean accuracy drop over all corruptions and severities.",
            "lower",
            unchanged=0.0,
            low=-1.0,
            source=_CORRUPTIONS,
            rests_on="labels",
            start=0.02,
        ),
        Metric(
            "worst_corrupted_accuracy_drop",
            "The accuracy drop under the corruption and severity where it is largest.",
            "lower",
            unchanged=0.0,
            low=-1.0,
            source=_CORRUPTIONS,
            rests_on="labels",
            start=0.08,
        ),
        Metric(
            "corruption_error_ratio",
            "The candidate's errors on corrupted images over the reference's.",
            "lower",
            unchanged=1.0,
            high=_INF,
            source=_CORRUPTIONS,
            rests_on="labels",
            start=1.1,
        ),
    ),
    "divergence": _table(
        Metric(
            "divergence_rate",
            "The share of examples near which an input was found on which the two models disagree.",
            "lower",
            unchanged=0.0,
            claims=True,
            start=0.1,
        ),
        Metric(
            "mean_queries",
            "The mean number of inputs that the search tried before it found one.",
            None,
            high=_INF,
        ),
        Metric(
            "median_linf",
            "The median largest change of a value among the inputs that were found.",
            None,
            high=_INF,
            unit="inputs",
        ),
        Metric(
            "median_l2",
            "The median Euclidean distance of the inputs that were found from their examples.",
            None,
            high=_INF,
            unit="inputs",
        ),
    ),
    "outputs": _table(
        Metric(
            "relative_error",
            "The mean over examples of the norm of the difference over the norm of the reference's output.",
            "lower",
            unchanged=0.0,
            high=_INF,
            start=0.05,
        ),
        Metric(
            "relative_error_quantile",
            "A quantile of that error over examples, written with its level: relative_error_quantile_0.9.",
            "lower",
            unchanged=0.0,
            high=_INF,
            claims=True,
            leveled=True,
        ),
        Metric(
            "worst_relative_error",
            "The relative error of the example where it is largest.",
            "lower",
            unchanged=0.0,
            high=_INF,
            start=0.2,
        ),
        Metric(
            "within_tolerance",
            "The share of examples whose relative error is at most the tolerance.",
            "higher",
            unchanged=1.0,
            claims=True,
            start=0.95,
        ),
        Metric(
            "sqnr",
            "The signal to quantisation noise ratio: the reference's sum of squares over that of the difference.",
            "higher",
            unchanged=_INF,
            low=-_INF,
            high=_INF,
            unit="dB",
            start=26.0,
        ),
        Metric(
            "output_rmse",
            "The root of the mean squared difference of the two models' outputs.",
            "lower",
            unchanged=0.0,
            high=_INF,
            unit="output",
        ),
        Metric(
            "output_error",
            "The largest absolute difference of the two models' outputs.",
            "lower",
            unchanged=0.0,
            high=_INF,
            unit="output",
        ),
        Metric(
            "own_error",
            "The mean over examples of a distance of your own between the two models' outputs.",
            "lower",
            low=-_INF,
            high=_INF,
        ),
    ),
    "reconstruction": _table(
        Metric(
            "max_error",
            "The largest absolute difference between decoded and original values.",
            "lower",
            unchanged=0.0,
            high=_INF,
            unit="inputs",
        ),
        Metric(
            "rmse",
            "The root of the mean squared difference over all values.",
            "lower",
            unchanged=0.0,
            high=_INF,
            unit="inputs",
        ),
        Metric(
            "psnr",
            "The peak signal-to-noise ratio.",
            "higher",
            unchanged=_INF,
            low=-_INF,
            high=_INF,
            unit="dB",
            start=30.0,
        ),
        Metric(
            "ssim",
            "The mean structural similarity of decoded and original images.",
            "higher",
            unchanged=1.0,
            low=-1.0,
            claims=True,
            source="Wang et al. 2004, Image quality assessment",
            start=0.95,
        ),
        Metric(
            "bytes_per_example",
            "The mean number of bytes that an example is stored in.",
            "lower",
            high=_INF,
            unit="bytes",
        ),
    ),
    "footprint": _table(
        Metric(
            "compression",
            "The reference's file size over the candidate's.",
            "higher",
            unchanged=1.0,
            high=_INF,
            start=1.5,
        ),
        Metric(
            "flops_ratio",
            "The candidate's floating-point operations over the reference's.",
            "lower",
            unchanged=1.0,
            high=_INF,
            start=1.0,
        ),
        Metric(
            "speedup",
            "The reference's median latency over the candidate's.",
            "higher",
            unchanged=1.0,
            high=_INF,
            start=1.0,
        ),
        Metric("coverage", "The share of the reference's weights that the candidate changed.", "higher", unchanged=0.0),
    ),
}
"""The metrics of each comparison of this package, by name."""


def known_metrics() -> Mapping[str, Mapping[str, Metric]]:
    """Return the metrics of each comparison, those of comparisons that users have added included."""
    own = {name: {metric.name: metric for metric in one.metrics} for name, one in added("comparison").items()}
    return {**METRICS, **own}


def known_metric(name: str) -> Metric | None:
    """Return the metric of a name, or None for one that no comparison gives.

    >>> known_metric("iou_quantile_0.1").argument
    'min_iou_quantile'
    """
    for metrics in known_metrics().values():
        for metric in metrics.values():
            if metric.name == name or (metric.leveled and name.startswith(f"{metric.name}_")):
                return metric
    return None


def find_metric(name: str) -> Metric:
    """Return the metric of a name; raises InvalidArgumentError for one that no comparison gives.

    A quantile over examples is written with its level: "iou_quantile_0.1".
    """
    metric = known_metric(name)
    if metric is not None:
        return metric
    names = _metric_names()
    bare = name.removeprefix("min_").removeprefix("max_")
    if bare != name and bare in names:
        reject("measurement", "metric", name, f"the metric is {bare}; min_ and max_ belong to the assertions")
    counted = (
        f"known are {', '.join(names[:_LISTED])} and {len(names) - _LISTED} more: see `cp-compress compare --help`"
    )
    reject("measurement", "metric", name, f"no comparison gives it; {near_metrics(name) or counted}")


_ALSO_CALLED = {
    "compression": ("size", "bytes", "memory", "ratio", "compression_ratio", "size_ratio"),
    "speedup": ("latency", "time", "throughput"),
    "flops_ratio": ("flops", "macs", "operations"),
    "mean_iou": ("jaccard",),
    "accuracy_drop": ("error", "loss", "degradation"),
    "accuracy": ("top1", "top_1"),
    "agreement": ("top1", "top_1", "fidelity", "match"),
    "cka": ("similarity", "embedding_similarity"),
    "token_kl": ("kld",),
}
"""What else people call a metric."""


def near_metrics(name: str) -> str:
    """Return which metrics a name may stand for that is none, also as the argument of an assertion or in short.

    >>> near_metrics("min_agrement"), near_metrics("iou")
    ('did you mean agreement?', 'did you mean mean_iou or median_iou or iou_quantile_0.1?')
    """
    bare = name.removeprefix("min_").removeprefix("max_")
    other = [known for known, words in _ALSO_CALLED.items() if bare.lower() in words]
    near = other or nearest(bare, [one for one in _metric_names() if _can_be_required(one)])
    told = [f"{one}_0.1" if getattr(known_metric(one), "leveled", False) else one for one in near]
    return f"did you mean {' or '.join(told)}?" if told else ""


def _can_be_required(name: str) -> bool:
    metric = known_metric(name)
    return metric is not None and metric.direction is not None


def _metric_names() -> list[str]:
    return [one.name for metrics in known_metrics().values() for one in metrics.values()]


def check_level(owner: str, name: str, metric: Metric) -> None:
    """Raise InvalidArgumentError unless the name of a metric of a family ends with a level in (0, 1)."""
    if not metric.leveled:
        return
    try:
        level = float(name.removeprefix(f"{metric.name}_"))
    except ValueError:
        level = math.nan
    if not 0 < level < 1:
        reject(owner, "metric", name, f"must end with the level of the quantile, in (0, 1), as {metric.name}_0.1 does")


def find_comparison(metric: str) -> str:
    """Return the name of the comparison that gives a metric; raises InvalidArgumentError for one that none gives."""
    found = find_metric(metric)
    return next(name for name, metrics in known_metrics().items() if found in metrics.values())


def without_labels(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return those metrics that do not rest on labels.

    >>> without_labels({"agreement": 0.9, "accuracy": 0.8})
    {'agreement': 0.9}
    """
    return {
        name: value
        for name, value in metrics.items()
        if getattr(known_metric(name), "rests_on", None) not in ("labels", "classes")
    }
