"""One pass of a model over a data set: every example once, the first few again, and what that shows."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Hashable, Iterator
from typing import Any

from torch import Tensor

from cp_compress.base.batching import BatchSize, Pace, rows_in_cache
from cp_compress.base.largest import first_largest
from cp_compress.fidelity.observing.batch_dependence import look_again
from cp_compress.fidelity.observing.determinism import REPEATED_EXAMPLES
from cp_compress.fidelity.observing.gathering import DigestGatherer, LogitsGatherer, Pass
from cp_compress.fidelity.observing.output_checks import check_labels
from cp_compress.fidelity.observing.runner import Runner
from cp_compress.fidelity.observing.stale_caches import require_own_caches
from cp_compress.inputs.reading import DataDigest, LabeledData
from cp_compress.inputs.tasks import IGNORED, Task, join_batches
from cp_compress.inputs.trees import Inputs, leaves_of, values_in

_FEWEST_CALLS = 4
_paces: dict[Hashable, Pace] = {}


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

    calls = _Calls(runner, batch_size, len(data))

    def run(part: slice) -> None:
        inputs, labels = data.read(range(part.start, part.stop))
        found: list[Any] = []
        for few in calls.of(inputs):
            found.append(gatherer.take(runner, inputs[few], None if labels is None else labels[few]))
        known = gatherer.targets(found, inputs, labels)
        # all that can run out of memory lies above, so that a repeated slice adds nothing twice
        gatherer.add(found)
        calls.keep()
        if not first:
            first.append(inputs[: min(REPEATED_EXAMPLES, rows_in_cache(values_in(inputs)) // 2, gatherer.sizes[0])])
        targets.append(known)
        digest.update(inputs, labels)

    batch_size.run(len(data), run)
    calls.close()
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
    chosen = None if calls.pace is None else batch_size.limit
    found = Pass(truth, digest.hexdigest(), second, (chosen or gatherer.sizes[0], gatherer.sizes[-1]), chosen, logits)
    if isinstance(gatherer, DigestGatherer):
        return dataclasses.replace(found, outputs=gatherer.digest(), kept=gatherer.kept())
    return found


def answers_in(logits: Tensor, task: Task) -> Tensor:
    """Return the answers, int64, that logits (n, ...) of a task give, as `Observation.predictions` has them."""
    return (logits > 0).long() if task == "multi_label" else first_largest(logits)


class _Calls:
    """Divides what is read into forward calls: on a CPU of so many rows as are quick, elsewhere of all that is allowed.

    Inputs of one shape have one `Pace` as long as the process lives.
    """

    def __init__(self, runner: Runner, batch_size: BatchSize, total: int) -> None:
        self.batch_size, self.total = batch_size, total
        self.free = runner.device.type == "cpu" and not batch_size.fixed
        self.pace: Pace | None = None
        self._values: int | None = None
        self._made = self._making = 0

    def of(self, inputs: Inputs) -> Iterator[slice]:
        """Yield the rows of each call, and time what is done with them until the next is asked for."""
        if self.free:
            self._fit(inputs)
        self._making, start = self._made, 0
        while start < len(inputs):
            size = self.batch_size.limit if self.pace is None else self.pace.size(self._making)
            few = slice(start, min(start + size, start + self.batch_size.limit, len(inputs)))
            began = time.perf_counter()
            yield few
            if self.pace is not None and few.stop - start == size:
                self.pace.took(self._making, time.perf_counter() - began)
                self._making += 1
            start = few.stop

    def _fit(self, inputs: Inputs) -> None:
        values = values_in(inputs)
        most = rows_in_cache(values)
        if self._values is None and most < self.batch_size.limit and _FEWEST_CALLS * most <= self.total:
            kind = tuple((tuple(leaf.shape[1:]), leaf.dtype) for leaf in leaves_of(inputs))
            self.pace = _paces.setdefault((kind, self.batch_size.limit), Pace(most, self.batch_size.limit))
        elif self.pace is None or values != self._values:
            self.batch_size.limit = min(self.batch_size.limit, most)
        self._values = values if self._values is None else self._values

    def keep(self) -> None:
        """Take it that the calls were made, so that they are not made again; what they found holds from now on."""
        self._made = self._making
        if self.pace is not None and self.pace.decided(self._made):
            self.close()

    def close(self) -> None:
        """Hold all later calls to the size that was found."""
        if self.pace is not None:
            self.batch_size.limit = min(self.batch_size.limit, self.pace.found(self._made))
