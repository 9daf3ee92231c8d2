"""Gaussian processes of scikit-optimize: predictions of objectives and margins at points that were not tried."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def fit_predict(places: Floats, values: Floats, others: Floats, seed: int) -> tuple[Floats, Floats]:
    """Return mean and standard deviation at `others` (k, d) of a process fitted to values (n,) at places (n, d).

    The kernel is a Matérn 5/2 with one length a dimension; its lengths, its size and the noise are fitted to the
    standardised values. Places should lie in [0, 1].
    """
    from sklearn.exceptions import ConvergenceWarning
    from skopt.learning import GaussianProcessRegressor
    from skopt.learning.gaussian_process.kernels import ConstantKernel, Matern

    scale = float(values.std()) or 1.0
    standard = (values - values.mean()) / scale
    lengths = Matern(np.full(places.shape[1], 0.3), (0.02, 5.0), nu=2.5)
    kernel = ConstantKernel(1.0, (0.01, 1000.0)) * lengths
    process: Any = GaussianProcessRegressor(kernel, noise="gaussian", n_restarts_optimizer=2, random_state=seed)
    with warnings.catch_warnings():
        # a hyperparameter at its bound and a variance rounded to below 0 are usual with few points
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="Predicted variances smaller than 0")
        process.fit(places, standard)
        mean, deviation = process.predict(others, return_std=True)
    return np.asarray(mean) * scale + values.mean(), np.asarray(deviation) * scale


def fill_unknown(margins: Sequence[float | None], feasible: Sequence[bool]) -> list[float]:
    """Return margins with numbers for the unknown ones: the worst known for candidates that could not be judged.

    An unknown margin of a feasible candidate, which is an infinite one, counts as the best known.

    >>> fill_unknown([0.1, None, -0.4], [True, False, False])
    [0.1, -0.4, -0.4]
    """
    known = [margin for margin in margins if margin is not None]
    worst, best = min([*known, -1e-3]) if known else -1.0, max([*known, 1e-3])
    filled = zip(margins, feasible, strict=True)
    return [margin if margin is not None else best if holds else worst for margin, holds in filled]
