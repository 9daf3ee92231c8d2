"""Whether a model that runs side by side with another one is repeatable, and how its answers depend on the batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cp_compress.fidelity.observing.batch_dependence import look_again
from cp_compress.fidelity.side_by_side.sides import Side

_ASKED = 4


def probe_batches(side: Side, ask: Callable[[list[int]], Tensor], count: int) -> None:
    """Set `batch_dependence` of a model from what it says of a few of `count` rows in several batches.

    `ask` returns numbers (k, ...) on the CPU for k rows by position, of one shape for each row; raises ObservationError
    for a model that answers at random.
    """
    places = torch.arange(min(_ASKED, count))
    answers = lambda found: torch.zeros(len(found), dtype=torch.int64)  # noqa: E731
    # numbers without an argmax change by how far they move alone
    known = ask(places.tolist())
    side.batch_dependence = look_again(lambda some: ask(some.tolist()), places, known, answers, side.runner).dependence
