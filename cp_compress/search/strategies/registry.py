"""The strategies that expressions name."""

from __future__ import annotations

from cp_compress.base.arguments import explains_keywords
from cp_compress.base.expressions import parse_one
from cp_compress.search.strategies.bayesian import Bayesian
from cp_compress.search.strategies.bisection import Bisection
from cp_compress.search.strategies.drucb import DRUCB
from cp_compress.search.strategy import Strategy


@explains_keywords
def parse_strategy(text: str) -> Strategy:
    """Read a strategy from its expression: the inverse of `str(strategy)`.

    >>> parse_strategy("bisection(noise=0.01)")
    bisection(noise=0.01)
    """
    found: Strategy = parse_one(text, (Bisection, DRUCB, Bayesian), "strategy")
    return found
