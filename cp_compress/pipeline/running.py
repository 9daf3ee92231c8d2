"""One pass of a pipeline: batches are loaded, moved and run, and each stage's seconds are added up."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, Dataset, default_collate

from cp_compress.base.arguments import reject
from cp_compress.base.batching import is_out_of_memory
from cp_compress.base.devices import wait_for
from cp_compress.base.error_reasons import shortened
from cp_compress.base.errors import FORESEEN, CompressionError, MissingExtraError
from cp_compress.model.tracing import running
from cp_compress.pipeline.sources import COEFFICIENTS, DECODE, READ, Source

COLLATE, TRANSFORM, TRANSFER, FORWARD, BACKWARD = "collate", "transform", "transfer", "forward", "backward"
STAGES = (READ, DECODE, COEFFICIENTS, COLLATE, TRANSFORM, TRANSFER, FORWARD, BACKWARD)
Seconds = dict[str, float]
_REMEDY = "; a transform may make of a batch what the model takes"
_ALIKE = "; all must have one shape and type, as by a transform of the data set"
_PREFETCHED = 2  # batches that a DataLoader's worker prepares ahead, by torch's own default


@dataclass
class Pass:
    """What one pass took: `seconds` on the clock for so many `examples`, and the seconds of each stage.

    With workers, the stages of loading are the sum over all of them, and `waiting` is how long the process that runs
    the model waited for a batch.
    """

    seconds: float
    examples: int
    stages: Seconds
    waiting: float


@dataclass(frozen=True, eq=False)
class Course:
    """What is run: a source, the model or None, and how batches are made."""

    source: Source
    model: Callable[..., Any] | None
    transform: Callable[[Any], Any] | None
    batch_size: int
    workers: int
    batches: int
    device: torch.device
    loss: Callable[[Any, Tensor], Tensor] | None  # None without a backward pass

    @property
    def loading(self) -> list[str]:
        """The stages that workers do."""
        second = [] if self.source.second is None else [self.source.second]
        return [READ, *second, COLLATE, *([TRANSFORM] if self.transform is not None else [])]

    @property
    def computing(self) -> list[str]:
        """The stages of the process that runs the model."""
        stages = [TRANSFER] if self.device.type != "cpu" else []
        stages += [FORWARD] if self.model is not None else []
        return stages + ([BACKWARD] if self.loss is not None else [])

    @property
    def warm_up(self) -> int:
        """The batches that are not counted: those that were prepared while workers started, and the first one."""
        return 1 + _PREFETCHED * self.workers


@dataclass
class Clock:
    """Adds up the seconds of stages; on a device, without waiting for it, so that work overlaps as it does in a run."""

    stages: Seconds = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time inside to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - start


Stage = Callable[[str], contextlib.AbstractContextManager[None]]


def run_pass(course: Course) -> Pass:
    """Run a pass and return what it took; the model is left as it was."""
    clock = Clock()
    begun, waiting = 0.0, 0.0
    with loading(course) as batches, ready(course):
        for number in range(course.warm_up + course.batches):
            if number == course.warm_up:
                clock.stages, waiting = {}, 0.0
                wait_for(course.device)
                begun = time.perf_counter()
            start = time.perf_counter()
            inputs, labels, seconds = next_batch(batches)
            waiting += time.perf_counter() - start
            for name, value in seconds.items():
                clock.stages[name] = clock.stages.get(name, 0.0) + value
            compute(course, inputs, labels, clock.stage)
        wait_for(course.device)
        ended = time.perf_counter()
    names = [*course.loading, *course.computing]
    stages = {name: clock.stages.get(name, 0.0) for name in names}
    return Pass(ended - begun, course.batches * course.batch_size, stages, waiting if course.workers else 0.0)


def compute(course: Course, inputs: Any, labels: Any, stage: Stage) -> None:
    """Move a batch to the device and run the model on it, each within its stage."""
    if course.device.type != "cpu":
        with stage(TRANSFER):
            inputs, labels = tree_map(
                lambda leaf: leaf.to(course.device, non_blocking=True) if isinstance(leaf, Tensor) else leaf,
                (inputs, labels),
            )
    if course.model is None:
        return
    with stage(FORWARD):
        with _explained(f"the model cannot be run on {_described(inputs)}", _REMEDY):
            output = course.model(inputs)
        loss = None
        if course.loss is not None:
            with _explained("the loss of the model's output and the labels cannot be computed"):
                loss = course.loss(output, labels)
    if loss is not None:
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            reject("profile_pipeline", "loss", found, "must return one number, a tensor")
        if not loss.requires_grad:
            reject("profile_pipeline", "backward", True, "no parameter of the model has a gradient: all are frozen")
        with stage(BACKWARD), _explained("the loss has no gradients"):
            loss.backward()  # type: ignore[no-untyped-call]
        if isinstance(course.model, nn.Module):
            course.model.zero_grad(set_to_none=True)


def next_batch(batches: Iterator[Any]) -> tuple[Any, Any, Seconds]:
    """Return the next batch, its labels and what it took; raises what kept a worker or this process from making it."""
    inputs, labels, seconds = next(batches)
    if isinstance(inputs, _Failed):
        raise inputs.error
    return inputs, labels, seconds


@contextlib.contextmanager
def ready(course: Course) -> Iterator[None]:
    """Hold the model in evaluation mode without gradients, or in training mode where there is a backward pass."""
    with contextlib.ExitStack() as stack:
        if course.loss is None:
            stack.enter_context(torch.no_grad())
            if isinstance(course.model, nn.Module):
                stack.enter_context(running(course.model))
        elif isinstance(course.model, nn.Module):
            course.model.train()  # a copy of its own
        yield


@contextlib.contextmanager
def loading(course: Course) -> Iterator[Iterator[Any]]:
    """Give the batches with what they took to load, and end the workers afterwards."""
    count = len(course.source)
    size = course.batch_size
    plan = [
        [(start + place) % count for place in range(size)]
        for start in range(0, (course.warm_up + course.batches) * size, size)
    ]
    loader: DataLoader[Any] = DataLoader(
        _Loading(course.source),
        batch_sampler=plan,
        num_workers=course.workers,
        collate_fn=_Collate(course.transform),
        pin_memory=course.device.type == "cuda",
    )
    batches = iter(loader)
    try:
        yield batches
    finally:
        del batches  # the workers end


class _Loading(Dataset[Any]):
    """A data set that a DataLoader asks for whole batches, and that says what each step of them took."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitems__(self, positions: Sequence[int]) -> tuple[Any, Seconds]:
        clock = Clock()
        try:
            with _explained(f"of the examples #{min(positions)} to #{max(positions)} one cannot be read"):
                with clock.stage(READ):
                    given = self._source.read(positions)
                with clock.stage(self._source.second or READ):
                    rows = self._source.decode(given)
        except FORESEEN as error:
            return _Failed(error), {}
        return rows, clock.stages


class _Failed:
    """What kept a batch from being made, as a worker hands it over; raised there, it would be buried in a traceback."""

    def __init__(self, error: Exception) -> None:
        self.error = CompressionError(str(error)) if isinstance(error, MissingExtraError) else error  # not picklable


class _Collate:
    """Rows as one batch, as torch's own loader makes it, and what the transform gives for it."""

    def __init__(self, transform: Callable[[Any], Any] | None) -> None:
        self._transform = transform

    def __call__(self, loaded: Any) -> tuple[Any, Any, Seconds]:
        rows, seconds = loaded  # what `_Loading` gives for a batch
        if isinstance(rows, _Failed):
            return rows, None, seconds
        clock = Clock(seconds)
        try:
            with clock.stage(COLLATE), _explained("examples cannot be put into one batch", _ALIKE):
                inputs, labels = default_collate(rows)
            if self._transform is not None:
                with clock.stage(TRANSFORM), _explained(f"the transform cannot take {_described(inputs)}"):
                    inputs = self._transform(inputs)
        except FORESEEN as error:
            return _Failed(error), None, seconds
        return inputs, labels, clock.stages


@contextlib.contextmanager
def _explained(told: str, remedy: str = "") -> Iterator[None]:
    """Say, of an exception that the code of a user or of a library raises inside, what could not be done."""
    try:
        yield
    except FORESEEN:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise CompressionError(f"{told}: {type(error).__name__}: {shortened(error)}{remedy}") from error


def _described(inputs: Any) -> str:
    if not isinstance(inputs, Tensor):
        return f"inputs of type {type(inputs).__name__}"
    return f"inputs {tuple(inputs.shape)}, {inputs.dtype}"
