"""Whether the constraints of a training hold at the end: its terms, measured on the returned model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cp_compress.base.batching import BatchSize, is_out_of_memory
from cp_compress.base.numbers import bound_text, number
from cp_compress.fidelity.observing.runner import Runner
from cp_compress.training.loop import Task, see
from cp_compress.training.losses import Batch, name_terms


@dataclass(frozen=True)
class TermResult:
    """A constraint: the `value` of its term, a mean over the training data, and its bound `at_most`.

    If the term cannot be computed for the compressed model, the value is NaN and the constraint does not hold.
    """

    name: str
    value: float
    at_most: float

    @property
    def held(self) -> bool:
        """Whether the value is within the bound."""
        return self.value <= self.at_most

    def __str__(self) -> str:
        relation = "≤" if self.held else "is NOT ≤"
        return f"{self.name}: {number(self.value, self.at_most)} {relation} {bound_text(self.at_most)}"


def _value(term: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
    try:
        return term(batch).detach().double().cpu()
    except RuntimeError as error:  # integer arithmetic has no gradients, for one
        if is_out_of_memory(error):
            raise
        return torch.tensor(float("nan"), dtype=torch.float64)


def measure_terms(task: Task, model: nn.Module, reference: nn.Module) -> tuple[TermResult, ...]:
    """Return what each term of a task gives for a model in evaluation mode, in batches of the task's size."""
    if not task.terms:
        return ()
    model = model.to(task.device)
    candidate, original = Runner(model, task.device), Runner(reference, task.device)
    terms = [term.bind(task.class_names, task.device) for term in task.terms]
    sums = torch.zeros(len(terms), dtype=torch.float64)

    def run(part: slice) -> None:
        inputs = task.data.inputs(range(part.start, part.stop))
        batch = see(task, inputs.to(task.device), candidate, original)
        values = torch.stack([_value(term, batch) for term in terms])
        sums.add_(values * (part.stop - part.start))

    count = min(len(task.data), task.steps_per_epoch * task.batch_size)  # whole batches, as in training
    with candidate.evaluating():
        BatchSize(task.batch_size).run(count, run)
    means = (sums / count).tolist()
    names = name_terms(task.terms)
    return tuple(TermResult(*row) for row in zip(names, means, [term.at_most for term in task.terms], strict=True))
