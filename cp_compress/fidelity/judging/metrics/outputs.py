"""What is measured of outputs that are no classes."""

from __future__ import annotations

import math

from cp_compress.fidelity.judging.metric import Metric, declared

_INF = math.inf

OUTPUTS = declared(
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
)
