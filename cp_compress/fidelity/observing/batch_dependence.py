"""Whether a model's answers depend on the batch that an example stands in: on its neighbours, or on the batch's size.

One activation scale for a whole batch (dynamic quantisation), batch statistics, or a callable that was left in training
mode make the answer to an example depend on who is asked about together with it. A few examples, which are asked
about a second time anyway, are asked about in other batches than before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from cp_compress.base.batching import BatchSize
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.observing.determinism import beyond_rounding, require_repeatable
from cp_compress.fidelity.observing.runner import Runner
from cp_compress.inputs.trees import Inputs, join_inputs, split_rows

KEY = "batch_dependence"
"""The key under which the details of a measurement say it."""
# rounding to eight bits moves a value by less than half a percent of the range
_MORE_THAN_ROUNDING = 0.05
_LEAST_COMPARED = 4


@dataclasses.dataclass(frozen=True)
class BatchDependence:
    """How far the answers to a few examples moved when they were asked about in other batches.

    Attributes:
        on_neighbours: Whether they moved within batches of one size too, when their neighbours changed. Otherwise the
            batch's size may explain it, by which kernels are chosen; of fewer than four examples more is not known.
        difference: The largest change of a logit.
        share: That change as a share of the largest logit.
        changed: The number of answers that changed.
        asked: The number of answers that were compared.
    """

    on_neighbours: bool
    difference: float
    share: float
    changed: int
    asked: int

    @property
    def decides(self) -> bool:
        """Whether the neighbours decide answers, or move logits by more than rounding to eight bits does."""
        return self.on_neighbours and (self.changed > 0 or self.share > _MORE_THAN_ROUNDING)

    def __str__(self) -> str:
        what = "who else is in the batch" if self.on_neighbours else "the batch"
        moved = f"logits move by up to {self.difference:.3g}, {self.share:.1%} of the largest one"
        return f"depend on {what} (in other batches {self.changed} of {self.asked} answers change, and {moved})"


class Batched(Protocol):
    """A model that was run on data, with what is known of its batches; `Observation` is one."""

    @property
    def batch_dependence(self) -> BatchDependence | None:
        """How answers depend on the batch that an example stands in, None where they do not."""

    @property
    def batches(self) -> tuple[int, int]:
        """The sizes of the first and of the last batch."""

    @property
    def chosen_batch(self) -> int | None:
        """The size of batches that was chosen by measuring, None where it was not."""

    @property
    def deployed(self) -> bool:
        """Whether batches were of the deployed size."""

    @property
    def batch_size(self) -> BatchSize:
        """The largest number of examples in one call."""


@dataclasses.dataclass(frozen=True, eq=False)
class SecondLook:
    """A few examples that were asked about again: their inputs and answers, and in how large batches."""

    inputs: Inputs
    answers: Tensor
    size: int
    dependence: BatchDependence | None = None

    def holds(self, ask: Callable[[Inputs], Tensor]) -> bool:
        """Tell whether a model still gives these answers, to the bit, when it is asked in the same batches."""
        return torch.equal(torch.cat([ask(part) for part in split_rows(self.inputs, self.size)]), self.answers)


def look_again(
    ask: Callable[[Any], Tensor],
    inputs: Inputs,
    known: Tensor,
    answers: Callable[[Tensor], Tensor],
    runner: Runner,
) -> SecondLook:
    """Ask about a few examples once more, in halves, and find how their answers depend on the batch.

    Raises ObservationError for a model that answers at random.

    Args:
        ask: Returns the logits of inputs as one batch, on the CPU.
        inputs: The first inputs (k, ...) of a batch that was run.
        known: What the model answered to them within that batch.
        answers: The predictions that logits give.
        runner: The model.
    """
    dtype = coarsest_dtype(runner, known)
    size = half = -(-len(inputs) // 2)
    try:
        apart = torch.cat([ask(part) for part in split_rows(inputs, half)])
    except ObservationError:  # a model of fixed batches, or one that cannot take a single example
        return SecondLook(inputs, require_repeatable(lambda: ask(inputs), known, dtype), len(inputs))
    if beyond_rounding(apart, known, dtype) <= 0:
        return SecondLook(inputs, apart, half)
    require_repeatable(lambda: torch.cat([ask(part) for part in split_rows(inputs, half)]), apart, dtype)
    if len(inputs) == 1:
        return SecondLook(inputs, apart, half)
    half = len(inputs) // 2
    pairs = [(known, apart)]
    on_neighbours = False
    if len(inputs) >= _LEAST_COMPARED:
        # of one size, and each at its own place: nothing but the neighbours differs
        quarter, even = half // 2, 2 * half
        apart = apart if len(inputs) == even else torch.cat([ask(part) for part in split_rows(inputs[:even], half)])
        mixed = [
            join_inputs([inputs[:quarter], inputs[half + quarter : even]]),
            join_inputs([inputs[half : half + quarter], inputs[quarter:half]]),
        ]
        one, other = (ask(batch) for batch in mixed)
        again = torch.cat([one[:quarter], other[quarter:], other[:quarter], one[quarter:]])
        on_neighbours = beyond_rounding(again, apart, dtype) > 0
        pairs += [(apart, again)] if on_neighbours else []
    difference = max(float((before.double() - after.double()).abs().max()) for before, after in pairs)
    moved = torch.zeros(answers(known).shape, dtype=torch.bool)
    for before, after in pairs:
        moved[: len(before)] |= answers(before) != answers(after)
    largest = float(known.double().abs().max())
    share = difference / largest if largest else 1.0
    found = BatchDependence(on_neighbours, difference, share, int(moved.sum()), moved.numel())
    return SecondLook(inputs, pairs[0][1], size, found)


def coarsest_dtype(runner: Runner, logits: Tensor) -> torch.dtype:
    """Return the dtype whose rounding the model's logits have: that of its parameters, or of a GPU's TF32."""
    module = runner.module
    held = [] if module is None else [*module.parameters(), *module.buffers()]
    found = {tensor.dtype for tensor in (logits, *held) if tensor.dtype.is_floating_point and tensor.dtype.itemsize > 1}
    if runner.device.type == "cuda" and (torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32):
        found.add(torch.float16)  # TF32 has as many digits
    return max(found, key=lambda dtype: torch.finfo(dtype).eps)
