"""A model trained on decoded data to do what the reference does on the originals."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cp_compress.base.arguments import check_integer, check_real
from cp_compress.base.devices import usable_device
from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.observing.observation import observe
from cp_compress.fidelity.observing.runner import model_device
from cp_compress.fidelity.predictions.comparison import compare_predictions
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


@dataclass(frozen=True, eq=False)
class BeforeAfter:
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


@dataclass(frozen=True, eq=False)
class AdaptationResult:
    """An adapted model, one row of numbers an epoch, and what it does on the validation data, decoded and clean.

    `decoded` compares the candidate on decoded examples, `clean` on the originals, both with the reference on the
    originals. Each row of `history` holds `step`, `learning_rate`, the means of `loss` and of every term over the
    epoch, and the multiplier of every term.
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

    `decoded` and `originals` hold the same examples in the same order, such as a `CompressedDataset` and the data that
    it was made from; their labels are not used. `model` is often the reference itself, or a pruned or factored
    candidate, whose zeros stay zero. Frozen parameters stay as they are, and so do frozen layers in evaluation mode
    with the statistics that they keep. The loss is the Kullback–Leibler divergence of `PreserveAgreement` at this
    `temperature`, on the decoded examples, plus `clean_weight` times that on the originals, which doubles the work.
    `preserve` are further terms on the examples of the loss, with the reference on the originals, held as constraints
    by multipliers that move by up to `multiplier_rate` a step.

    `validation` is a pair (decoded, originals) of labelled examples, none of which is among those trained on. The
    result compares the model with the reference on it, decoded and clean, before and after: what is gained on decoded
    data is often paid for on clean data. It chooses nothing: the model after the last epoch is returned.

    `optimizer` makes a torch optimiser of parameters (default: SGD, momentum 0.9), `schedule` (optimiser, number of
    steps) a schedule of its learning rate that is stepped after each step (default: one cycle to 0.02). An incomplete
    last batch of an epoch is left out. `checkpoint` names a file that is replaced after each epoch; a run that was
    stopped goes on from it and ends with the same model. `precision` is "float32", or "bfloat16" or "float16" for
    torch's automatic mixed precision. `progress` shows a bar.

    Raises InvalidArgumentError for bad arguments, the checkpoint of another run and validation data that was trained
    on; NoEffectError when the decoded data is the original; CompressionError for a model whose numbers a scheme has
    rounded; ObservationError for data that is not of the same examples, as far as 64 of them show; TrainingError when
    the loss is no longer a number.

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
    devices = [target] if target.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.inference_mode(False), torch.enable_grad():
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
