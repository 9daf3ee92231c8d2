"""The steps of training under compression: a batch, its loss with preservation terms, gradients, an update."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.arguments import reject
from cp_compress.base.batching import BatchSize, is_out_of_memory, slices
from cp_compress.base.errors import ObservationError, TrainingError
from cp_compress.fidelity.observing.hooks import CallHook, watching
from cp_compress.fidelity.observing.layouts import UNKNOWN_LAYOUT, following, has_one_place, mean_over_places
from cp_compress.fidelity.observing.nested_tensors import tensors_in
from cp_compress.fidelity.observing.runner import Runner
from cp_compress.inputs.reading import LabeledData
from cp_compress.model.projection import project
from cp_compress.model.pruning.masks import apply_masks
from cp_compress.training.distributed import sum_gradients, sum_values, world
from cp_compress.training.losses import Batch, Preservation, find_layers, name_terms
from cp_compress.training.multipliers import Multipliers
from cp_compress.training.stages import Stage, Subject

Optimizer = torch.optim.Optimizer
Augment = Callable[[Tensor, torch.Generator], Tensor]
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, eq=False)
class Task:
    """What training is done on and for; it does not change while it goes on."""

    data: LabeledData
    class_names: tuple[str, ...]
    loss: Callable[[Tensor, Tensor], Tensor]
    terms: tuple[Preservation, ...]
    batch_size: int
    seed: int
    augment: Augment | None
    precision: str
    device: torch.device

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches only, but for data that does not fill one."""
        return max(1, len(self.data) // self.batch_size)

    def batch(self, step: int) -> Tensor:
        """Return the indices of this process' part of the batch of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = torch.randperm(len(self.data), generator=self.generator(epoch, 0))
        rank, processes = world()
        whole = order[place * self.batch_size : (place + 1) * self.batch_size]
        return whole[rank::processes]

    def generator(self, number: int, use: int) -> torch.Generator:
        """Return the generator of an epoch or step, the same whatever happened before."""
        # numbers of different uses and seeds must not meet
        return torch.Generator().manual_seed((self.seed * 2 + use) * 1_000_003 + number)


class Loop:
    """A subject in training: makes one step at a time and says what it found."""

    def __init__(self, task: Task, subject: Subject, stage: Stage, optimizer: Optimizer, rate: float) -> None:
        self.task, self.subject, self.stage, self.optimizer = task, subject, stage, optimizer
        self.reference = Runner(subject.reference, task.device)
        self.multipliers = Multipliers([term.at_most for term in task.terms], rate)
        self.scaler = torch.amp.GradScaler(task.device.type, enabled=task.precision == "float16")
        self._terms = [term.bind(task.class_names, task.device) for term in task.terms]
        self._limit = BatchSize(task.batch_size)

    def step(self, number: int) -> dict[str, float]:
        """Make one step; raises TrainingError when the loss is no finite number."""
        replaced = self.stage.before_step(number)
        if replaced is not None:
            rebind(self.optimizer, replaced, self.subject.model)
        inputs, labels = self._read(number)
        with self._rounded():
            found = self._backward(inputs, labels, number)
        self.scaler.unscale_(self.optimizer)
        self.stage.add_penalty()
        self._mask_gradients()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        apply_masks(self.subject.model, self.subject.masks)
        self.multipliers.update(found[1:])
        names = ["loss", *name_terms(self.task.terms)]
        return dict(zip(names, found.tolist(), strict=True))

    def _read(self, number: int) -> tuple[Tensor, Tensor]:
        inputs, labels = self.task.data.select(self.task.batch(number))
        if self.task.augment is not None:
            inputs = self.task.augment(inputs, self.task.generator(number, 1))
            if not isinstance(inputs, Tensor) or len(inputs) != len(labels):
                reject("train_compressed", "augment", self.task.augment, "it must return the same number of inputs")
        return inputs.to(self.task.device), labels.to(self.task.device)

    def _backward(self, inputs: Tensor, labels: Tensor, number: int) -> Tensor:
        """Fill the gradients of all parameters and return loss and terms, means over all processes' examples."""
        examples = float(sum_values(torch.tensor(float(len(inputs)), device=self.task.device)))
        sums: list[Tensor] = []

        def run(part: slice) -> None:
            share = len(inputs[part]) / examples
            values = self._values(inputs[part], labels[part])
            total = self.multipliers.combine(values[0], values[1:])
            self.scaler.scale(total * share).backward()  # type: ignore[no-untyped-call]
            sums.append(torch.stack([value.detach().float() for value in values]) * share)

        while True:
            self.optimizer.zero_grad(set_to_none=True)
            sums.clear()
            try:
                for part in slices(len(inputs), self._limit.limit):
                    run(part)
                break
            except (RuntimeError, MemoryError) as error:  # gradients may be half added: begin the step again
                if not is_out_of_memory(error) or not self._limit.halve():
                    raise
        empty = torch.zeros(1 + len(self._terms), device=self.task.device)
        found = sum_values(torch.stack(sums).sum(0) if sums else empty)
        if not bool(torch.isfinite(found).all()):
            raise TrainingError(
                f"the loss is {found.tolist()} at step {number + 1}: training has diverged; use a smaller learning "
                "rate, or check the data"
            )
        sum_gradients(self.subject.model.parameters())
        return found

    def _values(self, inputs: Tensor, labels: Tensor) -> list[Tensor]:
        dtype = PRECISIONS[self.task.precision]
        with torch.autocast(self.task.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            batch = see(self.task, inputs, Runner(self.subject.model, self.task.device), self.reference)
            return [self._loss(batch.logits, labels), *(term(batch) for term in self._terms)]

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        try:
            loss = self.task.loss(logits, labels)
        except IndexError as error:
            raise ObservationError(f"a label lies outside the model's {logits.shape[1]} classes: {error}") from error
        if not isinstance(loss, Tensor) or loss.ndim or not loss.requires_grad:
            reject("train_compressed", "loss", loss, "it must return a scalar tensor that depends on the logits")
        return loss

    @contextlib.contextmanager
    def _rounded(self) -> Iterator[None]:
        """Compute with rounded numbers: gradients at them go to the numbers behind them (straight-through)."""
        if not self.subject.settled or self.subject.rounding is None:
            yield
            return
        found = project(self.subject.rounding, self.subject.model)
        kept = {}
        for name, parameter in self.subject.model.named_parameters():
            if name in found:
                kept[name], parameter.data = parameter.data, found[name]
        try:
            yield
        finally:
            for name, parameter in self.subject.model.named_parameters():
                if name in kept:
                    parameter.data = kept[name]

    def _mask_gradients(self) -> None:
        # else momentum would gather at places that are held at zero
        for name, parameter in self.subject.model.named_parameters():
            if name in self.subject.masks and parameter.grad is not None:
                parameter.grad.masked_fill_(~self.subject.masks[name], 0)


def see(task: Task, inputs: Tensor, candidate: Runner, reference: Runner) -> Batch:
    """Return a batch of inputs as both models see it, with what the task's terms need."""
    terms = task.terms
    needed = any(term.needs_input_gradients for term in terms)
    inputs = inputs.detach().requires_grad_(needed)
    layers = find_layers(terms, candidate.model, "candidate")  # type: ignore[arg-type]
    reference_layers = find_layers(terms, reference.model, "reference")  # type: ignore[arg-type]

    def reference_at(points: Tensor) -> Tensor:
        with reference.evaluating():
            return reference.logits(points)

    with torch.no_grad(), reference.evaluating(), _features(reference, reference_layers) as reference_features:
        reference_logits = reference.logits(inputs) if terms else torch.empty(0)
    with _features(candidate, layers) as features:
        logits = candidate.logits(inputs)
    return Batch(inputs, logits, reference_logits, features, reference_features, reference_at)


def rebind(optimizer: Optimizer, before: nn.Module, after: nn.Module) -> None:
    """Let an optimiser go on with another model's parameters; what it knows of those of one name and shape is kept."""
    names = {id(parameter): name for name, parameter in before.named_parameters()}
    new = dict(after.named_parameters())
    known, placed = set(names.values()), set[str]()
    for group in optimizer.param_groups:
        old: list[nn.Parameter] = group["params"]
        group["params"] = []
        for parameter in old:
            name = names[id(parameter)]
            state = optimizer.state.pop(parameter, None)
            if name in new:
                group["params"].append(new[name])
                placed.add(name)
                if state is not None and new[name].shape == parameter.shape:
                    optimizer.state[new[name]] = state
        names_here = {names[id(parameter)].rpartition(".")[0] for parameter in old}
        for name, parameter in new.items():  # such as factors of a layer whose weight was here
            if name not in placed and name not in known and name.rpartition(".")[0] in names_here:
                group["params"].append(parameter)
                placed.add(name)


@contextlib.contextmanager
def _features(runner: Runner, layers: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Give the features (n, width), float32, of layers once the model has run: means over places, as at level B."""
    found: dict[str, Tensor] = {}
    if not layers:
        yield found
        return
    assert runner.module is not None  # it has layers
    with following(runner.module, layers.values()) as layouts:

        def keep(path: str) -> CallHook:
            def hook(args: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
                tensors = tensors_in(output)
                if not tensors:
                    return
                value = tensors[0]  # of several, such as those of a recurrent layer, the first
                layout = None if value.ndim < 3 else layouts.of(layers[path], value)
                if layout is not None:
                    value = mean_over_places(value.float(), layout)
                elif value.ndim > 2 and not has_one_place(value):
                    raise ObservationError(f"layer {path} returns shape {tuple(value.shape)}, and {UNKNOWN_LAYOUT}")
                found[path] = value.flatten(1).to(torch.float32, copy=True)  # later parts may work on it in place

            return hook

        with watching(runner.module, {path: keep(path) for path in layers}):
            yield found
