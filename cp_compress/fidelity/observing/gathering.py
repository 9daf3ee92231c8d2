"""What is kept of a forward pass over a data set: the logits, or of any other outputs a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cp_compress.base.digests import digest_text, start_digest, update_with_bytes
from cp_compress.fidelity.observing.batch_dependence import SecondLook
from cp_compress.fidelity.observing.output_checks import check_finite, check_fit
from cp_compress.fidelity.observing.outputs import floating_tensors
from cp_compress.fidelity.observing.runner import Runner
from cp_compress.inputs.tasks import IGNORED, UNKNOWN, Task, join_batches
from cp_compress.inputs.trees import Inputs, mask_of

_MOST_KEPT = 2**28


@dataclass(frozen=True, eq=False)
class Pass:
    """What one pass of a model over a data set gave.

    Attributes:
        targets: The true classes (n,), int64, or as the task has them; `UNKNOWN` where there are no labels.
        digest: The digest of the inputs and labels that were read.
        second: A few examples that were asked about again.
        sizes: The sizes of the batches, of those that were not tried out, and of the last one.
        chosen: The size that was chosen by measuring, None where it was not.
        logits: The logits (n, classes), None for outputs that are none.
        outputs: The digest of outputs that are no logits.
        kept: Those outputs (n, ...) by name, on the CPU, where they take 256 MiB or less.
    """

    targets: Tensor
    digest: str
    second: SecondLook
    sizes: tuple[int, int]
    chosen: int | None = None
    logits: Tensor | None = None
    outputs: str | None = None
    kept: Mapping[str, Tensor] | None = None


class LogitsGatherer:
    """Keeps logits, of which there are some in every batch."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.sizes: list[int] = []
        self._logits: list[Tensor] = []

    def take(self, runner: Runner, inputs: Inputs, labels: Tensor | None) -> Tensor:
        """Return what the model gives for a batch; raises as `Runner.logits`, and for labels that do not fit."""
        if self.task == "dense" and labels is not None:
            runner.places = tuple(labels.shape[1:])
        logits = runner.logits(inputs)
        if labels is not None:
            check_fit(labels, logits, self.task)
        return logits

    def targets(self, found: list[Tensor], inputs: Inputs, labels: Tensor | None) -> Tensor:
        """Return the labels of a batch, or which answers count where there are none."""
        if labels is not None:
            return labels
        if self.task == "single_label":
            return torch.full((len(inputs),), UNKNOWN)
        shape = (len(inputs), *found[0].shape[1 if self.task == "multi_label" else 2 :])
        mask = mask_of(inputs)
        targets = torch.full(shape, UNKNOWN)
        return targets if mask is None or mask.shape != shape else targets.masked_fill(~mask.cpu(), IGNORED)

    def add(self, found: list[Tensor]) -> None:
        """Keep what was taken."""
        self._logits += found
        self.sizes += map(len, found)

    def beginning(self, count: int) -> Tensor:
        """Return what the model gave for the first examples, on the CPU."""
        return self._logits[0][:count].cpu().clone()

    def joined(self) -> Tensor:
        """Return all logits as one tensor on the CPU, finite; raises ObservationError for others."""
        logits = join_batches(self._logits, self.task, own=2, fill=0).cpu()
        self._logits.clear()  # of many classes they are too large to be held twice
        logits = logits.clone() if logits._version else logits
        check_finite(logits)
        return logits


class DigestGatherer:
    """Keeps of outputs of any form no more than what tells whether another model gives the same."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.sizes: list[int] = []
        self._digests: dict[str, hashlib._Hash] = {}
        self._beginning: Tensor | None = None
        self._kept: list[dict[str, Tensor]] | None = []
        self._bytes = 0

    def take(self, runner: Runner, inputs: Inputs, labels: Tensor | None) -> dict[str, Tensor]:
        """Return what the model gives for a batch, by name; raises ObservationError for no or no finite numbers."""
        found = floating_tensors(runner.output(inputs), len(inputs))
        start = sum(self.sizes)
        for name, tensor in found.items():
            check_finite(tensor, torch.arange(start, start + len(tensor)), "examples", name or "outputs")
        return {name: tensor.cpu() for name, tensor in found.items()}

    def targets(self, found: list[dict[str, Tensor]], inputs: Inputs, labels: Tensor | None) -> Tensor:
        """Return the labels of a batch, or that there are none."""
        return torch.full((len(inputs),), UNKNOWN) if labels is None else labels

    def add(self, found: list[dict[str, Tensor]]) -> None:
        """Keep what was taken."""
        if self._beginning is None:
            self._beginning = torch.cat([tensor.flatten(1) for tensor in found[0].values()], dim=1)
        for batch in found:
            for name, tensor in batch.items():
                update_with_bytes(self._digests.setdefault(name, start_digest()), tensor)
            self.sizes.append(len(next(iter(batch.values()))))
            self._bytes += sum(tensor.numel() * tensor.element_size() for tensor in batch.values())
            if self._kept is not None:
                self._kept = None if self._bytes > _MOST_KEPT else [*self._kept, batch]

    def beginning(self, count: int) -> Tensor:
        """Return what the model gave for the first examples, (count, values)."""
        assert self._beginning is not None  # no data set is empty
        return self._beginning[:count].clone()

    def kept(self) -> dict[str, Tensor] | None:
        """Return all outputs by name, None where they are too large, or of several shapes."""
        if self._kept is None:
            return None
        shapes = {tuple((name, tuple(one.shape[1:])) for name, one in batch.items()) for batch in self._kept}
        if len(shapes) > 1:
            return None
        return {name: torch.cat([batch[name] for batch in self._kept]) for name in self._kept[0]}

    def digest(self) -> str:
        """Return the digest of all outputs."""
        return digest_text(*(f"{name} {each.hexdigest()}" for name, each in sorted(self._digests.items())))
