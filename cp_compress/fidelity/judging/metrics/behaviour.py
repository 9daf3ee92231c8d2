"""What is measured of embeddings, attributions, boundaries and answers on other inputs."""

from __future__ import annotations

import math

from cp_compress.fidelity.judging.metric import Metric, declared

_INF = math.inf
_TCAV = "Kim et al. 2018, Interpretability beyond feature attribution (TCAV)"
_CORRUPTIONS = "Hendrycks and Dietterich 2019, Benchmarking neural network robustness"
_JOSEPH = "Joseph et al. 2020, Correctness-preserving compression of datasets and neural network models"

EMBEDDINGS = declared(
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
)

ATTRIBUTIONS = declared(
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
)

POINTING = declared(
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
)

CONCEPTS = declared(
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
)

BOUNDARIES = declared(
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
)

ROBUSTNESS = declared(
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
)

DIVERGENCE = declared(
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
)
