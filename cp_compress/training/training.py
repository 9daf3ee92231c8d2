"""Train a model under compression: one function for every scheme and method."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.arguments import check_integer, check_real, explains_keywords, reject
from cp_compress.base.devices import keeping_random_state, usable_device
from cp_compress.base.showing.brief import Brief
from cp_compress.fidelity.observing.runner import model_device
from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.seen import mark_as_used
from cp_compress.inputs.wrapping import said_by
from cp_compress.model.layers import copy_model
from cp_compress.model.scheme import Scheme, as_scheme
from cp_compress.training.arguments import (
    check_checkpoint,
    check_optimizer,
    check_schedule,
    check_terms,
    check_training,
    identify_training,
)
from cp_compress.training.checkpoints import read_checkpoint, write_checkpoint
from cp_compress.training.distributed import world
from cp_compress.training.epochs import Run
from cp_compress.training.loop import Augment, Loop, Optimizer, Task
from cp_compress.training.losses import Preservation, find_layers
from cp_compress.training.methods import Direct, Method
from cp_compress.training.stages import Subject, set_training, start_stage
from cp_compress.training.term_results import TermResult, measure_terms
from cp_compress.training.validation import Validation

_OWNER = "train_compressed"
MakeOptimizer = Callable[[list[nn.Parameter]], Optimizer]
MakeSchedule = Callable[[Optimizer, int], Any]


@explains_keywords
@dataclass(frozen=True, eq=False, repr=False)
class TrainingResult(Brief):
    """A compressed, trained model and the history of its training.

    Attributes:
        model: The compressed model.
        history: One row of numbers per epoch: `step`, `learning_rate`, the means of `loss` and of every term over the
            epoch, the multiplier of every term ("multiplier of …"), the method's own numbers, and with validation data
            `agreement`, `accuracy` and `validation_loss`.
        best_step: The step after which the model was taken.
        stopped_early: Whether `patience` ended the training.
        terms: For each constraint of `preserve`, its value for the returned model on the training data, and whether it
            holds. Training does not guarantee that.
    """

    model: nn.Module
    history: tuple[dict[str, float], ...]
    best_step: int
    stopped_early: bool
    terms: tuple[TermResult, ...] = ()

    @property
    def constraints_held(self) -> bool:
        """Whether every constraint of `preserve` holds on the training data."""
        return all(term.held for term in self.terms)

    def __str__(self) -> str:
        end = ", stopped early" if self.stopped_early else ""
        last = self.history[-1] if self.history else {}
        shown = [f"{name} {last[name]:.4g}" for name in ("loss", "agreement", "accuracy") if name in last]
        lines = [f"trained for {int(last.get('step', 0))} steps{end}, taken after {self.best_step}: {', '.join(shown)}"]
        return "\n".join([*lines, *(f"  {term}" for term in self.terms)])


@explains_keywords
def train_compressed(
    model: nn.Module,
    scheme: Scheme | str,
    dataset: Any,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    method: Method | None = None,
    preserve: Sequence[Preservation] = (),
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    optimizer: MakeOptimizer | None = None,
    schedule: MakeSchedule | None = None,
    batch_size: int = 128,
    augment: Augment | None = None,
    validation: Any = None,
    monitor: str = "agreement",
    patience: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    multiplier_rate: float = 0.05,
    precision: str = "float32",
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> TrainingResult:
    """Return a model compressed by a scheme and trained on labelled examples; the given model is not changed.

    The result is what the scheme produces, with its record: zeros are zero, removed channels are gone, numbers are
    rounded. Frozen parameters are compressed, not trained; frozen layers in evaluation mode keep their statistics.

    If `torch.distributed` is initialised, every process computes its share of each batch; all return the same model,
    and the first writes checkpoints.

    Args:
        model: The network to compress and train.
        scheme: The compression scheme, such as `Prune(0.1)`, or its expression, "prune(density=0.1)".
        dataset: Labelled examples in any form that comparisons accept.

    Args: Duration
        epochs: The number of epochs; give either this or `steps`. An incomplete last batch of an epoch is left out.
        steps: The number of training steps.
        patience: The number of epochs without a better model after which training stops; needs `validation`.

    Args: Compression and behaviour
        method: `Direct()` (the default), `Gradual()` or `LC()`.
        preserve: Terms such as `PreserveAgreement(at_most=0.05)`: constraints whose weights are Lagrange multipliers.
            The result's `terms` state whether they hold at the end.
        multiplier_rate: By how much a multiplier grows per step, at most, while its constraint is violated.

    Args: Optimisation
        loss: A function of logits and labels that returns a scalar.
        optimizer: A function from parameters to a torch optimiser; by default SGD at 0.02, momentum 0.9.
        schedule: A function (optimiser, number of steps) to a learning-rate schedule, which is stepped after each
            training step; by default a cosine to zero.
        batch_size: The number of examples per step, computed in as many calls as memory requires.
        augment: A function (inputs, generator) that changes a batch of inputs, with the generator for random numbers.
        precision: "float32", or "bfloat16" or "float16" for torch's automatic mixed precision.

    Args: Choice of the model
        validation: Labelled examples on which the compressed model is judged after each epoch; the best one is
            returned. Without them the last model is returned.
        monitor: What is best on `validation`: "agreement" with the given model, "accuracy", or "loss".

    Args: The run
        checkpoint: A file that is replaced after each epoch. An interrupted run continues from it and ends with the
            same model.
        device: Where to train; by default the device of `model`.
        seed: The seed of everything random, 0…2³⁰.
        progress: Whether to show a progress bar.

    Returns:
        The compressed model with the history of its training.

    Raises:
        InvalidArgumentError: If an argument is not as described, or the checkpoint belongs to another run.
        CompressionError: If the method cannot train under the scheme.
        ObservationError: If the data cannot be read, or a label lies outside the model's classes.
        TrainingError: If the loss is NaN or infinite.

    >>> from cp_compress.examples import digits_cnn, digits_training
    >>> from cp_compress.model import Prune
    >>> result = train_compressed(digits_cnn(), Prune(0.1), digits_training(), steps=5)
    >>> weights = [value for name, value in result.model.named_parameters() if value.ndim > 1]
    >>> round(sum(int(value.count_nonzero()) for value in weights) / sum(value.numel() for value in weights), 4)
    0.1
    """
    method = Direct() if method is None else method
    scheme = as_scheme(_OWNER, scheme)
    check_training(model, scheme, method, loss, optimizer, schedule, precision, monitor, validation, patience, preserve)
    data = LabeledData(dataset)
    check_checkpoint(checkpoint)
    check_terms(preserve, data)
    rule = "must be a whole number of 1 or more"
    batch_size = check_integer(_OWNER, "batch_size", batch_size, rule, at_least=1)
    seed = check_integer(_OWNER, "seed", seed, "must be a whole number in 0…2³⁰", at_least=0, at_most=2**30)
    check_real(_OWNER, "multiplier_rate", multiplier_rate, "must be a number above 0", above=0)
    target = model_device(model) or torch.device("cpu")
    if device is not None:
        target = usable_device(device, f"{_OWNER}(device={str(device)!r}): it")
    reference = copy_model(_OWNER, model).to(target).eval().requires_grad_(False)
    terms = tuple(preserve)
    find_layers(terms, reference, "model")
    names = _class_names(dataset, reference, data, target)
    task = Task(data, names, loss, terms, batch_size, seed, augment, precision, target)
    total = _total_steps(epochs, steps, task)
    working = set_training(copy_model(_OWNER, model).to(target))
    judge = None if validation is None else Validation(validation, reference, monitor, target, batch_size)
    identity: dict[str, str] = {}
    if checkpoint is not None:
        factories = {"optimizer": optimizer, "schedule": schedule, "multiplier_rate": multiplier_rate}
        judged = None if judge is None else judge.data.digest()
        stopping = {"validation": judged, "monitor": monitor, "patience": patience}
        identity = identify_training(model, scheme, method, data, task, total, **factories, **stopping)
    with keeping_random_state(), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(seed * 1_000 + world()[0])
        subject = Subject(working, reference, scheme)
        stage = start_stage(method, subject, total)
        make = optimizer or _default_optimizer
        made = check_optimizer(make([each for each in working.parameters() if each.requires_grad]), working)
        steps_of_rate = check_schedule((schedule or _default_schedule)(made, total))
        run = Run(Loop(task, subject, stage, made, multiplier_rate), steps_of_rate, total, judge, patience)
        if checkpoint is not None:
            run.resume(read_checkpoint(checkpoint, identity, target), model)
        run.train(lambda state: None if checkpoint is None else write_checkpoint(checkpoint, identity, state), progress)
        found, step = run.result(model)
        held = measure_terms(task, found, reference)
    given = as_given(found, model)
    mark_as_used(given, "training", data)
    return TrainingResult(given, tuple(run.history), step, run.stopped, held)


def _default_optimizer(parameters: list[nn.Parameter]) -> Optimizer:
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9, nesterov=True)


def _default_schedule(optimizer: Optimizer, steps: int) -> Any:
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)


def as_given(found: nn.Module, model: nn.Module) -> nn.Module:
    """Return the result on the device and in the train/eval state of the model given, without gradients."""
    device = model_device(model)
    found = found if device is None else found.to(device)
    found.zero_grad(set_to_none=True)
    states = {path: module.training for path, module in model.named_modules()}
    for path, module in found.named_modules():
        module.training = states.get(path, model.training)
    return found


def _class_names(dataset: Any, model: nn.Module, data: LabeledData, device: torch.device) -> tuple[str, ...]:
    from cp_compress.fidelity.observing.runner import Runner

    runner = Runner(model, device)
    with torch.no_grad(), runner.evaluating():
        count = runner.logits(data.inputs([0])).shape[1]
    names = said_by(dataset, "classes")
    if isinstance(names, Sequence) and len(names) == count:
        return tuple(map(str, names))
    return tuple(map(str, range(count)))


def _total_steps(epochs: int | None, steps: int | None, task: Task) -> int:
    if (epochs is None) == (steps is None):
        reject(_OWNER, "epochs", epochs, f"give either epochs or steps (here steps={steps!r})")
    rule = "must be a whole number of 1 or more"
    if epochs is not None:
        return check_integer(_OWNER, "epochs", epochs, rule, at_least=1) * task.steps_per_epoch
    return check_integer(_OWNER, "steps", steps, rule, at_least=1)
