"""One pass of a model over a data set: every example once, the first few again, and what that shows."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cp_compress.base.batching import BatchSize, rows_in_cache, slices
from cp_compress.base.largest import first_largest
from cp_compress.fidelity.observing.batch_dependence import look_again
from cp_compress.fidelity.observing.determinism import REPEATED_EXAMPLES
from cp_compress.fidelity.observing.gathering import DigestGatherer, LogitsGatherer, Pass
from cp_compress.fidelity.observing.output_checks import check_labels
from cp_compress.fidelity.observing.runner import Runner
from cp_compress.fidelity.observing.stale_caches import require_own_caches
from cp_compress.inputs.reading import DataDigest, LabeledData
from cp_compress.inputs.tasks import IGNORED, Task, join_batches
from cp_compress.inputs.trees import Inputs, values_in


def run_pass(
    runner: Runner, data: LabeledData, batch_size: BatchSize, gatherer: LogitsGatherer | DigestGatherer
) -> Pass:
    """Run a model over a data set and return what `gatherer` keeps of it.

    Raises ObservationError for a model that cannot be run on the data or answers at random, and for outputs and labels
    that cannot be compared.
    """
    targets: list[Tensor] = []
    first: list[Inputs] = []
    digest = DataDigest()

    def run(part: slice) -> None:
        inputs, labels = data.read(range(part.start, part.stop))
        if runner.device.type == "cpu" and not batch_size.fixed:
            batch_size.limit = min(batch_size.limit, rows_in_cache(values_in(inputs)))
        found: list[Any] = [
            gatherer.take(runner, inputs[few], None if labels is None else labels[few])
            for few in slices(len(inputs), batch_size.limit)
        ]
        known = gatherer.targets(found, inputs, labels)
        # all that can run out of memory lies above, so that a repeated slice adds nothing twice
        gatherer.add(found)
        if not first:
            first.append(inputs[: min(REPEATED_EXAMPLES, gatherer.sizes[0])])
        targets.append(known)
        digest.update(inputs, labels)

    batch_size.run(len(data), run)
    if runner.places is not None:  # of the batch whose first examples are asked about again
        runner.places = tuple(targets[0].shape[1:])
    beginning = gatherer.beginning(len(first[0]))
    logits = gatherer.joined() if isinstance(gatherer, LogitsGatherer) else None
    truth = join_batches(targets, data.task, own=1, fill=IGNORED).clone()
    second = look_again(
        lambda inputs: runner.compared(inputs).cpu(),
        first[0],
        beginning,
        lambda few: answers_in(few, data.task) if logits is not None else few.argmax(dim=1),
        runner,
    )
    require_own_caches(runner, first[0])
    if logits is not None and data.labeled:
        check_labels(truth, logits, data.task)
    sizes = gatherer.sizes[0], gatherer.sizes[-1]
    if isinstance(gatherer, DigestGatherer):
        return Pass(truth, digest.hexdigest(), second, sizes, None, gatherer.digest(), gatherer.kept())
    return Pass(truth, digest.hexdigest(), second, sizes, logits)


def answers_in(logits: Tensor, task: Task) -> Tensor:
    """Return the answers, int64, that logits (n, ...) of a task give, as `Observation.predictions` has them."""
    return (logits > 0).long() if task == "multi_label" else first_largest(logits)
