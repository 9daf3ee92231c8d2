"""What two models say about the same inputs, asked for by label, and whether a disagreement is more than rounding."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from cp_compress.base.batching import BatchSize, is_out_of_memory
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.running import Model, Runner


class Labeler:
    """A model that is asked for classes only: anything that maps a batch to logits (n, classes) or classes (n,)."""

    def __init__(self, model: Model, device: torch.device | str | None, batch: BatchSize) -> None:
        self.runner = Runner(model, device)
        self.batch = batch

    def classes(self, inputs: Tensor) -> Tensor:
        """Return the classes (n,) of inputs (n, ...), int64 on the CPU."""
        return self.answers(inputs)[0]

    def answers(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return classes (n,) and margins (n,): largest minus second logit, NaN from a model that gives classes only.

        Both lie on the CPU; margins are float64. Raises ObservationError for NaN logits and other outputs.
        """
        classes = torch.empty(len(inputs), dtype=torch.int64)
        margins = torch.empty(len(inputs), dtype=torch.float64)

        def run(part: slice) -> None:
            classes[part], margins[part] = self._ask(inputs[part])

        with torch.inference_mode(False), torch.no_grad(), self.runner.evaluating():
            self.batch.run(len(inputs), run)
        return classes, margins

    def _ask(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        module = self.runner.module
        if module is None:
            output = self.runner.model(inputs.to(self.runner.device))
            if isinstance(output, Tensor) and output.shape == (len(inputs),) and not output.is_floating_point():
                return output.to("cpu", torch.int64), torch.full((len(inputs),), torch.nan, dtype=torch.float64)
        logits = self.runner.logits(inputs)
        if not bool(torch.isfinite(logits).all()):
            raise ObservationError("the model gives NaN or infinite logits on an input near a seed")
        top = logits.double().topk(2, dim=1)
        return top.indices[:, 0].cpu(), (top.values[:, 0] - top.values[:, 1]).cpu()


class Verifier:
    """Asks both models again about inputs on which they disagree: one input at a time, in float64 where that works.

    A float64 copy computes with the same (rounded, pruned, …) weights, so that it shows what compression changed and
    not how this machine adds. Where a model cannot run in float64, as integer kernels and other callables cannot, it
    is asked in its own precision.
    """

    def __init__(self, candidate: Labeler, reference: Labeler, example: Tensor, margin: float) -> None:
        self.margin = margin
        self._models = [(_in_float64(labeler, example), labeler) for labeler in (candidate, reference)]

    @property
    def precisions(self) -> tuple[str, str]:
        """The precisions in which candidate and reference are asked."""
        first, second = ("float64" if double is not None else "own precision" for double, _ in self._models)
        return first, second

    def confirm(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return which disagreements (n,) hold, the classes (n, 2) of candidate and reference, and the margins (n, 2).

        A disagreement holds when both models keep different classes, each by more than the margin.
        """
        classes = torch.empty(len(inputs), 2, dtype=torch.int64)
        margins = torch.empty(len(inputs), 2, dtype=torch.float64)
        for row in range(len(inputs)):  # one at a time is the point: a model may answer otherwise within a batch
            for column, (double, own) in enumerate(self._models):
                single = inputs[row : row + 1]
                answer = own.answers(single) if double is None else double.answers(single.double())
                classes[row, column], margins[row, column] = answer[0][0], answer[1][0]
                if double is not None and int(own.classes(single)[0]) != int(answer[0][0]):
                    margins[row, column] = 0.0  # its own precision says something else: rounding decides
        clear = (margins.isnan() | (margins > self.margin)).all(dim=1)
        return clear & (classes[:, 0] != classes[:, 1]), classes, margins


def _in_float64(labeler: Labeler, example: Tensor) -> Labeler | None:
    module = labeler.runner.module
    if module is None or not any(p.is_floating_point() for p in (*module.parameters(), *module.buffers())):
        return None
    try:
        double: nn.Module = copy.deepcopy(module).double()
        found = Labeler(double, labeler.runner.device, BatchSize(1))
        with torch.inference_mode(False), torch.no_grad(), found.runner.evaluating():
            logits = found.runner.logits(example.double())
    except Exception as error:  # casts, kernels and code of the model's own fail each in their own way
        if is_out_of_memory(error):
            raise
        return None
    return found if logits.dtype == torch.float64 else None
