"""Training steps on pairs: the candidate reads a decoded example, the reference the original of the same example."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cp_compress.base.batching import BatchSize
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.observing.runner import Runner
from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.trees import Inputs
from cp_compress.training.loop import Loop, Optimizer, Task
from cp_compress.training.losses import Batch, PreserveAgreement
from cp_compress.training.stages import Stage, Subject


class PairedLoop(Loop):
    """A loop whose terms compare the candidate on decoded inputs with the reference on the originals.

    The task's data is what the candidate reads; `originals` holds the same examples in the same order, which the
    candidate reads too, in the same call, when `with_clean` is set. The task's loss is called with the places of the
    examples instead of labels, those of the originals read after those of the decoded ones: see `towards`.
    """

    def __init__(
        self,
        task: Task,
        subject: Subject,
        stage: Stage,
        optimizer: Optimizer,
        rate: float,
        originals: LabeledData,
        with_clean: bool,
    ) -> None:
        super().__init__(task, subject, stage, optimizer, rate)
        self._on_originals = _OnOriginals(subject.reference, task.device)
        self.reference = self._on_originals
        self._originals, self._with_clean = originals, with_clean
        self._needs_originals = with_clean or bool(task.terms)

    def _read(self, number: int) -> tuple[Tensor, Tensor]:
        places = self.task.batch(number)
        decoded = self.task.data.inputs(places)
        return decoded.to(self.task.device), places

    def _values(self, inputs: Tensor, labels: Tensor) -> list[Tensor]:
        if self._needs_originals:
            originals = self._originals.inputs(labels).to(inputs.device)
            shift = originals - inputs
            if self._with_clean:
                # in one call, so that batch normalisation sees in training the mixture that its statistics are of
                inputs, labels = torch.cat([inputs, originals]), torch.cat([labels, labels])
                shift = torch.cat([shift, torch.zeros_like(shift)])
            self._on_originals.shift = shift
        return super()._values(inputs, labels)


class _OnOriginals(Runner):
    """The reference: given decoded inputs, it returns its outputs for the originals, with a gradient at the inputs."""

    shift: Tensor

    def logits(self, inputs: Inputs) -> Tensor:
        assert isinstance(inputs, Tensor)  # decoded by a codec
        return super().logits(inputs + self.shift)


def logits_of(model: nn.Module, data: LabeledData, device: torch.device, batch_size: int) -> Tensor:
    """Return the logits (n, classes) of a model on data whose labels may be anything; raises for NaN and Inf."""
    runner, parts = Runner(model, device), []

    def run(part: slice) -> None:
        parts.append(runner.logits(data.inputs(range(part.start, part.stop))).float())

    with torch.inference_mode(False), torch.no_grad(), runner.evaluating():
        BatchSize(batch_size).run(len(data), run)
    found = torch.cat(parts)
    if not bool(torch.isfinite(found).all()):
        place = int((~torch.isfinite(found).all(1)).nonzero()[0])
        raise ObservationError(
            f"the reference returns NaN or infinite logits on the originals, first at example #{place}"
        )
    return found


def towards(
    targets: Tensor, temperature: float, clean_weight: float, class_names: tuple[str, ...]
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss of a `PairedLoop`: the divergence from the reference's logits (n, classes) on the originals.

    It is that of `PreserveAgreement`, on decoded examples, plus `clean_weight` times that on the originals.
    """
    divergence = PreserveAgreement(1.0, temperature).bind(class_names, targets.device)

    def loss(logits: Tensor, places: Tensor) -> Tensor:
        wanted = targets[places.to(targets.device)]
        if not clean_weight:
            return divergence(Batch(logits, logits, wanted))
        decoded, clean = (
            divergence(Batch(part, part, goal)) for part, goal in zip(logits.chunk(2), wanted.chunk(2), strict=True)
        )
        return decoded + clean_weight * clean

    return loss
