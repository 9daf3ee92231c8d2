"""One model observed on one data set into a file, batch by batch: a run that was stopped continues where it was."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cp_compress.artifacts.observations.saving import as_bytes, write_observation
from cp_compress.artifacts.observations.spool import Spool, spooling
from cp_compress.base.arguments import explains_keywords
from cp_compress.base.digests import examine
from cp_compress.base.environment import describe_environment
from cp_compress.fidelity.frozen.content import DIGEST_BYTES, EXAMPLES, LOGITS
from cp_compress.fidelity.observing.gathering import LogitsGatherer
from cp_compress.fidelity.observing.observation import Observation, observe
from cp_compress.fidelity.observing.output_checks import check_finite
from cp_compress.fidelity.observing.outputs import Output
from cp_compress.fidelity.observing.runner import Model, Runner
from cp_compress.inputs.row_digests import digest_values
from cp_compress.inputs.tasks import Task
from cp_compress.inputs.trees import Inputs


@explains_keywords
def observe_to_file(
    model: Model,
    dataset: Any,
    path: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    batch_size: int = 256,
    deployed_batch_size: int | None = None,
    output: Output = None,
    layers: Sequence[str] | str = (),
    pool: str = "mean",
    top_k: int | None = None,
    noise: Mapping[str, Model] | None = None,
) -> str:
    """Write what a model does on a data set to a file, as `save_observation` does of `observe`, and return its digest.

    Logits are kept on disk while the pass goes on, in a folder beside the file, so that they take no memory. A run that
    was stopped continues there when it is started again with the same model, data and settings; a model that does not
    tell its content is run anew, and so is one of dense or sequence data.

    Args:
        model: The model, as `observe` takes it.
        dataset: The data set, as `observe` takes it.
        path: The file to write.
        device: Where to run; by default where the model is.
        batch_size: The largest number of examples in one call.
        deployed_batch_size: The batch size of the deployed model, as `observe` takes it.
        output: The part of what the model gives that is observed.
        layers: Layers whose embeddings are written, as `save_observation` takes them.
        pool: How their outputs are pooled.
        top_k: How many of the largest logits of each example are written; by default all.
        noise: References that are as good, by names, as `save_observation` takes their observations.

    Returns:
        The digest of the file.

    Raises:
        ObservationError: As `save_observation`, and while another process writes the file.
        InvalidArgumentError: If an argument is not as described.
        OSError: If the file cannot be written.
    """
    sizes: dict[str, Any] = {"batch_size": batch_size, "deployed_batch_size": deployed_batch_size}
    seen = observe(model, dataset, device=device, output=output, **sizes)
    equals = {name: observe(one, dataset, device=device, output=output, **sizes) for name, one in (noise or {}).items()}
    settings: dict[str, Any] = {"layers": layers, "pool": pool, "top_k": top_k, "noise": equals}
    content = examine(model)
    known = content.digest is not None and not content.uncovered and (output is None or isinstance(output, (str, int)))
    if seen.has_run or not known or seen.data.task not in ("single_label", "multi_label"):
        return write_observation(seen, path, **settings)
    about = {
        "environment": describe_environment(),
        "model": content.digest,
        "examples": len(seen.data),
        "task": seen.data.task,
        "sizes": [batch_size, deployed_batch_size],
        "device": str(seen.runner.device),
        "output": output,
    }
    while True:
        limit = seen.batch_size.limit
        own = Observation(model, seen.data, device, limit, output=output, deployed=seen.deployed, content=content)
        with spooling(path, about) as spool:
            try:
                own.run_with(SpoolingGatherer(seen.data.task, spool))
            except OtherRowsError:  # the data has changed since the run that was stopped
                spool.drop()
                continue
            return write_observation(own, path, digests=spool.column(EXAMPLES), **settings)


class SpoolingGatherer(LogitsGatherer):
    """Keeps logits in a spool; examples whose logits are there already are not asked about again.

    Raises OtherRowsError where what is there is of other examples.
    """

    def __init__(self, task: Task, spool: Spool) -> None:
        super().__init__(task)
        self._spool = spool
        self._first: Tensor | None = None
        self._taken: list[tuple[Tensor, Tensor]] = []
        known = spool.column(EXAMPLES).numpy() if spool.rows(EXAMPLES) else ()
        self._kept = {row.tobytes(): place for place, row in enumerate(known)}

    def take(self, runner: Runner, inputs: Inputs, labels: Tensor | None) -> Tensor:
        """Return the logits of a batch: those that were kept of these examples, or else what the model gives."""
        digests = as_bytes(digest_values(inputs, 2 * DIGEST_BYTES))
        places = [self._kept.get(row.tobytes(), -1) for row in digests.numpy()]
        kept = min(places) >= 0
        logits = self._spool.column(LOGITS)[places] if kept else super().take(runner, inputs, labels)
        self._taken.append((logits, digests))
        return logits

    def add(self, found: list[Tensor]) -> None:
        """Keep what was taken."""
        for logits, digests in [pair for pair in self._taken if any(pair[0] is one for one in found)]:
            start, self._first = sum(self.sizes), logits.cpu() if self._first is None else self._first
            self.sizes.append(len(logits))
            there = max(0, min(self._spool.rows(EXAMPLES) - start, len(logits)))
            if there and not torch.equal(self._spool.column(EXAMPLES)[start : start + there], digests[:there]):
                raise OtherRowsError
            if there < len(logits):
                self._spool.append({LOGITS: logits[there:].cpu(), EXAMPLES: digests[there:]})
        self._taken.clear()

    def beginning(self, count: int) -> Tensor:
        """Return what the model gave for the first examples, on the CPU."""
        assert self._first is not None  # no data set is empty
        return self._first[:count].clone()

    def joined(self) -> Tensor:
        """Return all logits as one tensor, which lies on the disk; raises ObservationError unless they are finite."""
        logits = self._spool.column(LOGITS)
        check_finite(logits)
        return logits


class OtherRowsError(Exception):
    """Rows that were kept are not those of the examples at their places."""
