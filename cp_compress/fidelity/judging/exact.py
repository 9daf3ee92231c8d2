"""Exact tests without `scipy.stats`, which takes most of a second to import in every session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cp_compress.base.lazy import LazyModule

if TYPE_CHECKING:
    from scipy import special
else:
    special = LazyModule("scipy.special")


def hypergeometric_tails(hits: Any, marked: Any, drawn: Any, count: int) -> list[float]:
    """Return the probability of `hits` marked ones or more among `drawn` of `count`, for arrays (classes,) of floats.

    >>> [round(tail, 6) for tail in hypergeometric_tails(*np.array([[1.0], [2.0], [3.0]]), 6)]
    [0.8]
    """
    terms = (np.minimum(marked, drawn) - hits + 1).astype(int)
    places = np.repeat(np.arange(len(hits)), terms)
    found = np.arange(len(places)) - np.repeat(np.cumsum(terms) - terms, terms) + hits[places]
    marked, drawn = marked[places], drawn[places]
    chosen = _log_choices(marked, found) + _log_choices(count - marked, drawn - found) - _log_choices(count, drawn)
    return [float(tail) for tail in np.bincount(places, weights=np.exp(chosen), minlength=len(hits))]


def _log_choices(of: Any, number: Any) -> Any:
    """Return the logarithm of the binomial coefficient, -inf where there are none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = special.gammaln(of + 1) - special.gammaln(number + 1) - special.gammaln(of - number + 1)
    return np.where((number >= 0) & (number <= of), found, -np.inf)
