"""Hypothesis strategies that explore directions and shrink to a readable one.

A direction is drawn as a sparse integer combination over a named basis. Hypothesis cannot draw a dense image, and a
random seed does not shrink to anything useful, but such a combination shrinks to a single term within some twenty
calls. One Hypothesis example is one fixed-size batch of directions, so that exploration needs few, large forward
passes.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from cp_compress.base.arguments import check_integer, explains_keywords, reject
from cp_compress.fidelity.boundaries.directions import DirectionBasis, Directions, low_frequency_basis

_LARGEST_COEFFICIENT = 4


@explains_keywords
def direction_batches(
    input_shape: Sequence[int] | None = None,
    *,
    basis: DirectionBasis | None = None,
    size: int = 4,
    max_terms: int = 3,
) -> st.SearchStrategy[Directions]:
    """Return a strategy that draws batches of directions.

    A direction combines vectors of a basis with integer coefficients between −4 and 4, and shrinks towards a single
    term. Combinations that cancel, such as a vector and its opposite, are not drawn.

    Args:
        input_shape: The shape of one example, without the batch dimension; the basis then consists of low-frequency
            waves.
        basis: Another basis, instead of `input_shape`.
        size: The number of directions in a batch.
        max_terms: The largest number of vectors in a direction.

    Returns:
        A Hypothesis strategy of `Directions`.

    Raises:
        InvalidArgumentError: If an argument is not as described.

    >>> str(direction_batches((1, 8, 8)).example().names[0])  # doctest: +SKIP
    'one horizontal wave'
    """
    if (input_shape is None) == (basis is None):
        reject("direction_batches", "input_shape", input_shape, "give either input_shape or basis")
    known = basis if basis is not None else low_frequency_basis(tuple(input_shape or ()))
    rule = "must be a whole number of 1 or more"
    count = check_integer("direction_batches", "size", size, rule, at_least=1)
    terms = min(check_integer("direction_batches", "max_terms", max_terms, rule, at_least=1), len(known.names))
    coefficient = st.integers(1, _LARGEST_COEFFICIENT) | st.integers(-_LARGEST_COEFFICIENT, -1)
    term = st.tuples(st.integers(0, len(known.names) - 1), coefficient)
    combination = st.lists(term, min_size=1, max_size=terms, unique_by=lambda drawn: drawn[0])
    # some combinations of linearly dependent vectors are zero
    combination = combination.filter(lambda drawn: not known.cancels(dict(drawn)))
    return _combinations(known, st.lists(combination, min_size=count, max_size=count))


@st.composite
def _combinations(
    draw: st.DrawFn, basis: DirectionBasis, batches: st.SearchStrategy[list[list[tuple[int, int]]]]
) -> Directions:
    # a composite strategy is shown by the names of its directions, a mapped one by the numbers it was drawn from
    return basis.combine([dict(terms) for terms in draw(batches)])
