"""The refusal of models with random outputs, because a comparison of two would measure chance."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cp_compress.base.errors import ObservationError

REPEATED_EXAMPLES = 16


def require_repeatable(ask: Callable[[], Tensor], known: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Raise ObservationError unless a model returns the same outputs whenever `ask` gives it the same few inputs.

    `known` (n, ...) is what it gave before, perhaps within a larger batch; where that differs, as with scales that are
    taken from the batch, it is asked twice more. Rounding is that of `dtype`, by default that of the outputs. What it
    gave first is returned.
    """
    given = again = ask()
    if beyond_rounding(again, known, dtype or again.dtype) <= 0:
        return given
    again, once_more = ask(), ask()
    if beyond_rounding(again, once_more, dtype or again.dtype) > 0:
        largest = float((again.double() - once_more.double()).abs().max())
        raise ObservationError(
            f"the model returns other logits when it is run again on the same {len(known)} examples, by up to "
            f"{largest:.3g}: something in it is random in evaluation mode, such as F.dropout without "
            "training=self.training, so that comparisons would measure chance; make it deterministic"
        )
    return given


def beyond_rounding(first: Tensor, second: Tensor, dtype: torch.dtype) -> float:
    """Return how far two outputs differ beyond what rounding in a dtype and the order of additions can change."""
    precision = torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
    largest = float(second.double().abs().max())
    return float((first.double() - second.double()).abs().max()) - math.sqrt(precision) * largest
