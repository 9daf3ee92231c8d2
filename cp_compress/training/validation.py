"""The evaluation of a compressed model on validation examples during training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.batching import BatchSize
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.observing.runner import Runner
from cp_compress.inputs.reading import LabeledData

MONITORS = {"agreement": 1.0, "accuracy": 1.0, "loss": -1.0}
_NAMES = {"loss": "validation_loss"}


class Validation:
    """Judges models on one data set, against the predictions of the reference."""

    def __init__(self, data: Any, reference: nn.Module, monitor: str, device: torch.device, batch_size: int) -> None:
        self.data = LabeledData(data)
        self.device, self.batch_size = device, BatchSize(batch_size)
        self.monitor, self.sign = _NAMES.get(monitor, monitor), MONITORS[monitor]
        logits, self.labels = self._run(reference)
        self.predictions = logits.argmax(1)
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= logits.shape[1]:
            raise ObservationError(f"a label of the validation data lies outside the model's {logits.shape[1]} classes")

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return `agreement`, `accuracy` and `validation_loss` (cross entropy) of a model."""
        logits, labels = self._run(model)
        predictions = logits.argmax(1)
        return {
            "agreement": float((predictions == self.predictions).double().mean()),
            "accuracy": float((predictions == labels).double().mean()),
            "validation_loss": float(nn.functional.cross_entropy(logits, labels)),
        }

    def _run(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        runner = Runner(model, self.device)
        logits: list[Tensor] = []
        labels: list[Tensor] = []

        def run(part: slice) -> None:
            inputs, truth = self.data.select(range(part.start, part.stop))
            found = runner.logits(inputs).float().cpu()
            logits.append(found)
            labels.append(truth)

        with torch.no_grad(), runner.evaluating():
            self.batch_size.run(len(self.data), run)
        found = torch.cat(logits)
        wrong = found.isfinite().all(1).logical_not().nonzero()
        if len(wrong):
            first = int(wrong[0])
            raise ObservationError(
                f"validation: the model returns NaN or Inf for example #{first}, and {len(wrong) - 1} more"
            )
        return found, torch.cat(labels)
