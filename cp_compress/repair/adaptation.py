"""A model trained on decoded data to behave as the reference does on the originals."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cp_compress.base.arguments import check_integer, check_real, explains_keywords
from cp_compress.base.devices import keeping_random_state, usable_device
from cp_compress.base.showing.brief import Brief
from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.observing.observation import observe
from cp_compress.fidelity.observing.runner import model_device
from cp_compress.fidelity.predictions.comparison import compare_predictions
from cp_compress.inputs.seen import mark_as_used
from cp_compress.model.layers import copy_model, named_tensors
from cp_compress.model.pruning.magnitude import Prune
from cp_compress.model.record import Change, compression_steps
from cp_compress.repair.arguments import (
    Pairs,
    check_adaptation,
    check_pairs,
    check_validation,
    identify_adaptation,
    refuse_rounded,
)
from cp_compress.repair.record import record_repair
from cp_compress.training.arguments import check_optimizer, check_schedule, check_terms
from cp_compress.training.checkpoints import read_checkpoint, write_checkpoint
from cp_compress.training.distributed import world
from cp_compress.training.epochs import Run
from cp_compress.training.loop import Optimizer, Task
from cp_compress.training.losses import Preservation, find_layers
from cp_compress.training.paired_loop import PairedLoop, logits_of, towards
from cp_compress.training.stages import DirectStage, Subject, set_training
from cp_compress.training.training import MakeOptimizer, MakeSchedule, as_given

_OWNER = "adapt"
_LARGEST_RATE = 0.02


@explains_keywords
@dataclass(frozen=True, eq=False, repr=False)
class BeforeAfter(Brief):
    """One comparison with the reference, made before and after a repair."""

    before: Measurement
    after: Measurement

    def __str__(self) -> str:
        names = ("accuracy", "agreement")
        shown = ", ".join(f"{name} {self.before.metrics[name]:.4f} → {self.after.metrics[name]:.4f}" for name in names)
        return f"{shown} (the reference's accuracy {self.after.metrics['reference_accuracy']:.4f})"

    def to_json(self) -> dict[str, Any]:
        """Return both measurements as plain Python types."""
        return {"before": self.before.to_json(), "after": self.after.to_json()}


@explains_keywords
@dataclass(frozen=True, eq=False, repr=False)
class AdaptationResult(Brief):
    """An adapted model, its training history, and its comparisons with the reference on the validation data.

    Attributes:
        model: The adapted model.
        history: One row of numbers per epoch: `step`, `learning_rate`, the means of `loss` and of every term over the
            epoch, and the multiplier of every term.
        decoded: The candidate on decoded examples, compared with the reference on the originals.
        clean: The candidate on the originals, compared with the reference on the originals.
    """

    model: nn.Module
    history: tuple[dict[str, float], ...]
    decoded: BeforeAfter
    clean: BeforeAfter

    def __str__(self) -> str:
        count = self.decoded.after.counts["accuracy"]
        steps = " | ".join(compression_steps(self.model))
        return f"{steps} on {count} examples\n  decoded: {self.decoded}\n  clean: {self.clean}"

    def to_json(self) -> dict[str, Any]:
        """Return everything but the model as plain Python types."""
        return {
            "steps": list(compression_steps(self.model)),
            "history": [dict(row) for row in self.history],
            "decoded": self.decoded.to_json(),
            "clean": self.clean.to_json(),
        }


@explains_keywords
def adapt(
    model: nn.Module,
    reference: nn.Module,
    decoded: Any,
    originals: Any,
    *,
    validation: tuple[Any, Any],
    epochs: int = 6,
    temperature: float = 2.0,
    clean_weight: float = 0.0,
    preserve: Sequence[Preservation] = (),
    optimizer: MakeOptimizer | None = None,
    schedule: MakeSchedule | None = None,
    batch_size: int = 64,
    checkpoint: str | os.PathLike[str] | None = None,
    multiplier_rate: float = 0.05,
    precision: str = "float32",
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> AdaptationResult:
    """Return a copy of a model, trained on decoded data towards the reference's outputs on the originals.

    The loss is the Kullback–Leibler divergence of `PreserveAgreement` on the decoded examples, plus `clean_weight`
    times that on the originals. Labels of the training data are not used. Zeros of a pruned candidate stay zero. Frozen
    parameters keep their values, and frozen layers in evaluation mode their statistics.

    The result compares the model with the reference on `validation`, decoded and clean, before and after: a gain on
    decoded data is often paid for on clean data. The comparison chooses nothing: the model after the last epoch is
    returned.

    Args:
        model: The network to adapt: often the reference itself, or a pruned or factored candidate.
        reference: The network whose outputs on the originals are the target.
        decoded: The training examples after decoding, such as a `CompressedDataset`.
        originals: The same examples in the same order, such as the data that `decoded` was made from.
        validation: A pair (decoded, originals) of labelled data, without any example that is trained on.

    Args: Loss
        temperature: The temperature of the divergence, above 0.
        clean_weight: The weight of the divergence on the originals, 0 or more; above 0 it doubles the work.
        preserve: Further terms on the examples of the loss, with the reference on the originals: constraints whose
            weights are Lagrange multipliers.
        multiplier_rate: By how much a multiplier moves per step, at most.

    Args: Optimisation
        epochs: The number of epochs. An incomplete last batch of an epoch is left out.
        optimizer: A function from parameters to a torch optimiser; by default SGD, momentum 0.9.
        schedule: A function (optimiser, number of steps) to a learning-rate schedule, which is stepped after each
            training step; by default one cycle to 0.02.
        batch_size: The number of examples per step.
        precision: "float32", or "bfloat16" or "float16" for torch's automatic mixed precision.

    Args: The run
        checkpoint: A file that is replaced after each epoch. An interrupted run continues from it and ends with the
            same model.
        device: Where to train; by default the device of `model`.
        seed: The seed of everything random, 0…2³⁰.
        progress: Whether to show a progress bar.

    Returns:
        The adapted model, its history and its comparisons with the reference.

    Raises:
        InvalidArgumentError: If an argument is not as described, the checkpoint belongs to another run, or validation
            data was trained on.
        NoEffectError: If the decoded data equals the original data.
        CompressionError: If a scheme has rounded the model's numbers, which training would undo.
        ObservationError: If the two data sets do not hold the same examples, as far as a sample of 64 shows.
        TrainingError: If the loss is NaN or infinite.

    >>> from cp_compress.data import JPEG, CompressedDataset
    >>> from cp_compress.examples import digits, digits_cnn, digits_training
    >>> training, test = digits_training(), digits()
    >>> model, (decoded, seen) = digits_cnn(), (CompressedDataset(data, JPEG(5)) for data in (training, test))
    >>> print(adapt(model, model, decoded, training, validation=(seen, test), epochs=1))
    adapt(epochs=1, temperature=2, seed=0, examples=1197, data='jpeg(quality=5)') on 600 examples
      decoded: accuracy 0.8... → 0.9..., agreement ...
      clean: accuracy 0.99... → 0.9..., agreement 1.0000 → 0.9... (the reference's accuracy 0.99...)
    """
    check_adaptation(model, reference, preserve, optimizer, schedule, precision)
    rule = "must be a whole number of 1 or more"
    epochs = check_integer(_OWNER, "epochs", epochs, rule, at_least=1)
    batch_size = check_integer(_OWNER, "batch_size", batch_size, rule, at_least=1)
    seed = check_integer(_OWNER, "seed", seed, "must be a whole number in 0…2³⁰", at_least=0, at_most=2**30)
    temperature = check_real(_OWNER, "temperature", temperature, "must be a number above 0", above=0)
    clean_weight = check_real(_OWNER, "clean_weight", clean_weight, "must be a number of 0 or more", at_least=0)
    multiplier_rate = check_real(_OWNER, "multiplier_rate", multiplier_rate, "must be a number above 0", above=0)
    refuse_rounded(model)
    pairs = check_pairs(decoded, originals)
    check_terms(preserve, pairs.decoded, _OWNER)
    judged = check_validation(validation, pairs.originals)
    target = model_device(model) or torch.device("cpu")
    if device is not None:
        target = usable_device(device, f"{_OWNER}(device={str(device)!r}): it")
    terms = tuple(preserve)
    held = copy_model(_OWNER, reference).to(target).eval().requires_grad_(False)
    working = set_training(copy_model(_OWNER, model).to(target))
    find_layers(terms, held, "reference")
    find_layers(terms, working, "model")
    before = _judge(model, reference, judged, target, batch_size)
    targets = logits_of(held, pairs.originals, target, batch_size)
    names = tuple(map(str, range(targets.shape[1])))
    loss = towards(targets, temperature, clean_weight, names)
    task = Task(pairs.decoded, names, loss, terms, batch_size, seed, None, precision, target)
    settings = _settings(epochs, temperature, clean_weight, terms, seed, len(targets))
    identity: dict[str, str] = {}
    if checkpoint is not None:
        identity = identify_adaptation(model, reference, pairs, task, settings, optimizer, schedule, multiplier_rate)
    total = epochs * task.steps_per_epoch
    with keeping_random_state(), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(seed * 1_000 + world()[0])
        subject = Subject(working, held, Prune(1.0))
        subject.settle_as(working)  # nothing is compressed here
        made = check_optimizer((optimizer or _default_optimizer)(_trainable(working)), working, _OWNER)
        rates = check_schedule((schedule or _default_schedule)(made, total), _OWNER)
        stage, with_clean = DirectStage(subject), clean_weight > 0
        loop = PairedLoop(task, subject, stage, made, multiplier_rate, pairs.originals, with_clean)
        run = Run(loop, rates, total, None, None)
        if checkpoint is not None:
            run.resume(read_checkpoint(checkpoint, identity, target, _OWNER), model)
        run.train(lambda state: None if checkpoint is None else write_checkpoint(checkpoint, identity, state), progress)
        adapted = as_given(run.result(model)[0], model)
    record_repair(adapted, _OWNER, pairs.decoded, settings, _changes(model, adapted))
    for used in (pairs.decoded, pairs.originals):
        mark_as_used(adapted, "adaptation", used)
    after = _judge(adapted, reference, judged, target, batch_size)
    found = (BeforeAfter(*measured) for measured in zip(before, after, strict=True))
    return AdaptationResult(adapted, tuple(run.history), *found)


def _settings(
    epochs: int, temperature: float, clean_weight: float, terms: tuple[Preservation, ...], seed: int, examples: int
) -> dict[str, Any]:
    """Return what the record of the step says, what is at its default left out."""
    settings: dict[str, Any] = {"epochs": epochs, "temperature": temperature}
    settings |= {"clean_weight": clean_weight} if clean_weight else {}
    settings |= {"preserve": repr(", ".join(map(str, terms)))} if terms else {}
    return settings | {"seed": seed, "examples": examples}


def _judge(
    model: nn.Module, reference: nn.Module, validation: Pairs, device: torch.device, batch_size: int
) -> tuple[Measurement, Measurement]:
    """Return what a model does on validation data, decoded and clean, beside the reference on the clean data."""
    original = observe(reference, validation.originals, device=device, batch_size=batch_size)
    decoded, clean = (
        compare_predictions(observe(model, data, device=device, batch_size=batch_size), original)
        for data in (validation.decoded, validation.originals)
    )
    return decoded, clean


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _default_optimizer(parameters: list[nn.Parameter]) -> Optimizer:
    return torch.optim.SGD(parameters, lr=_LARGEST_RATE, momentum=0.9, nesterov=True)


def _default_schedule(optimizer: Optimizer, steps: int) -> Any:
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=_LARGEST_RATE, total_steps=max(2, steps))


def _changes(before: nn.Module, after: nn.Module) -> list[Change]:
    old = dict(named_tensors(before))
    same = {name for name, value in named_tensors(after) if torch.equal(value.cpu(), old[name].cpu())}
    return [Change(name, "adapted") for name in old if name not in same]
