"""What two models say about the same inputs, asked for by label, and whether a disagreement is more than rounding."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from cp_compress.base.batching import BatchSize, is_out_of_memory
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.determinism import REPEATED_EXAMPLES, require_repeatable
from cp_compress.fidelity.running import Model, Runner
from cp_compress.fidelity.sampling import choose_examples


class Labeler:
    """A model asked for classes only: anything that maps a batch to logits (n, classes) or classes (n,) or (n, 1)."""

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

    def outputs(self, inputs: Tensor) -> Tensor:
        """Return the logits (n, classes), or classes (n,) from a model that gives those, on the CPU.

        Raises as `answers`.
        """
        found: list[Tensor] = []

        def run(part: slice) -> None:
            output = self.runner.output(inputs[part])
            count = len(inputs[part])
            found.append((output.flatten() if _are_classes(output, count) else self._logits(output, count)).cpu())

        with torch.inference_mode(False), torch.no_grad(), self.runner.evaluating():
            self.batch.run(len(inputs), run)
        return torch.cat(found)

    def _ask(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        output = self.runner.output(inputs)
        if _are_classes(output, len(inputs)):
            return output.flatten().to("cpu", torch.int64), torch.full((len(inputs),), torch.nan, dtype=torch.float64)
        logits = self._logits(output, len(inputs))
        top = logits.double().topk(2, dim=1).values
        # of equal logits `topk` takes any, and `argmax` the first
        return logits.argmax(dim=1).cpu(), (top[:, 0] - top[:, 1]).cpu()

    def _logits(self, output: object, count: int) -> Tensor:
        logits = self.runner.as_logits(output, count)
        if not bool(torch.isfinite(logits).all()):
            raise ObservationError("the model gives NaN or infinite logits on an input near a seed")
        return logits


def _are_classes(output: object, count: int) -> bool:
    if not isinstance(output, Tensor) or output.shape not in ((count,), (count, 1)):
        return False
    return not (output.is_floating_point() or output.is_complex() or output.dtype == torch.bool)


class Verifier:
    """Asks both models again about inputs on which they disagree: one input at a time, in float64 where that works.

    A float64 copy computes with the same (rounded, pruned, …) weights, so that it shows what compression changed and
    not how this machine adds. Where a model cannot run in float64, as integer kernels and other callables cannot, it
    is asked in its own precision. `margin` is a share of the spread of each model's own logits on `examples` (n, ...):
    the mean of the largest minus the smallest. Raises ObservationError for a model that answers at random.
    """

    def __init__(self, candidate: Labeler, reference: Labeler, examples: Tensor, margin: float) -> None:
        labelers = (candidate, reference)
        self._models = [(_in_float64(labeler, examples[:1]), labeler) for labeler in labelers]
        few = examples[choose_examples("Verifier", REPEATED_EXAMPLES, len(examples)).to(examples.device)]
        self._margins = torch.tensor([margin * _spread(labeler, few) for labeler in labelers], dtype=torch.float64)

    @property
    def precisions(self) -> tuple[str, str]:
        """The precisions in which candidate and reference are asked."""
        first, second = ("float64" if double is not None else "own precision" for double, _ in self._models)
        return first, second

    def confirm(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return which disagreements (n,) hold, the classes (n, 2) of candidate and reference, and the margins (n, 2).

        A disagreement holds when the classes differ in the models' own precision and in float64, and one of the
        margins at least is clear: a change as small as rounding can turn an answer only where both models waver.
        """
        classes = torch.empty(len(inputs), 2, dtype=torch.int64)
        own_classes = torch.empty_like(classes)
        margins = torch.empty(len(inputs), 2, dtype=torch.float64)
        for row in range(len(inputs)):  # one at a time is the point: a model may answer otherwise within a batch
            for column, (double, own) in enumerate(self._models):
                single = inputs[row : row + 1]
                own_answer = own.answers(single)
                answer = own_answer if double is None else double.answers(single.double())
                own_classes[row, column] = own_answer[0][0]
                classes[row, column], margins[row, column] = answer[0][0], answer[1][0]
        margins[own_classes != classes] = 0.0  # its own precision says something else: rounding decides
        unknown = margins.isnan().all(dim=1)
        clear = unknown | (margins > self._margins).any(dim=1)
        differing = (classes[:, 0] != classes[:, 1]) & (own_classes[:, 0] != own_classes[:, 1])
        return clear & differing, classes, margins

    def both_clear(self, margins: Tensor) -> Tensor:
        """Tell where both margins (n, 2) are clear, or unknown: such a disagreement holds on another machine too."""
        clear: Tensor = (margins.isnan() | (margins > self._margins)).all(dim=1)
        return clear


def _spread(labeler: Labeler, examples: Tensor) -> float:
    """Return the mean of the largest minus the smallest logit, 0 from classes alone; raises for random answers."""
    outputs = labeler.outputs(examples)
    require_repeatable(lambda: labeler.outputs(examples), outputs)
    return float((outputs.amax(dim=1) - outputs.amin(dim=1)).double().mean()) if outputs.ndim == 2 else 0.0


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
