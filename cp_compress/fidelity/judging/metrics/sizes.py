"""What is measured of sizes, of speed, and of stored data."""

from __future__ import annotations

import math

from cp_compress.fidelity.judging.metric import Metric, declared

_INF = math.inf

RECONSTRUCTION = declared(
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
)

END_TO_END = declared(
    Metric(
        "end_to_end_speedup",
        "The examples a second of the compressed pipeline, from stored data to answers, over the uncompressed one's.",
        "higher",
        unchanged=1.0,
        high=_INF,
        claims=True,
        start=1.0,
        called="speedup",
    ),
    Metric(
        "examples_per_second",
        "The examples a second of the compressed pipeline.",
        "higher",
        high=_INF,
        claims=True,
        unit="examples/s",
    ),
)

FOOTPRINT = declared(
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
)
