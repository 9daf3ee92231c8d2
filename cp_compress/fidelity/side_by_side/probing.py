"""Whether a model that runs side by side with another one is repeatable, and how its answers depend on the batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cp_compress.fidelity.observing.batch_dependence import look_again
from cp_compress.fidelity.side_by_side.sides import Side

ASKED = 4
"""How many rows are asked about again."""


def probe_batches(side: Side, ask: Callable[[list[int]], Tensor], known: Tensor) -> None:
    """Set `batch_dependence` of a model from what it says of a few rows when it is asked again, in other batches.

    Raises ObservationError for a model that answers at random.

    Args:
        side: The model.
        ask: Returns numbers (k, ...), of one shape for each row, on the CPU, for rows of `known` by their place there.
        known: What it said of these rows (m, ...) within a batch; the first four are asked about.
    """
    known = known[:ASKED]
    found = look_again(lambda some: ask(some.tolist()), torch.arange(len(known)), known, _no_answers, side.runner)
    side.batch_dependence = found.dependence


def _no_answers(found: Tensor) -> Tensor:
    """Return answers that never change: numbers without an argmax depend by how far they move alone."""
    return torch.zeros(len(found), dtype=torch.int64)
