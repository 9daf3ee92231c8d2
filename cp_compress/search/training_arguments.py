"""What `train_compressed` is asked for: checked before any work, and described so that a checkpoint is known again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from cp_compress.base.arguments import check_choice, check_integer, reject
from cp_compress.base.datasets import LabeledData
from cp_compress.base.digests import digest_model, digest_text
from cp_compress.model.schemes import Scheme
from cp_compress.search.loop import PRECISIONS, Task
from cp_compress.search.methods import LC, Direct, Gradual, Method
from cp_compress.search.ranks import world
from cp_compress.search.texts import describe
from cp_compress.search.validation import MONITORS

_OWNER = "train_compressed"


def identify_training(
    model: nn.Module, scheme: Scheme, method: Method, data: LabeledData, task: Task, total: int, *factories: Any
) -> dict[str, str]:
    """Return what makes this training another than the next, as texts."""
    *makers, rate = factories
    return {
        "model": str(digest_model(model)),
        "scheme": str(scheme),
        "method": str(method),
        "data": data.digest(),
        "steps": str(total),
        "batch_size": str(task.batch_size),
        "seed": str(task.seed),
        "precision": task.precision,
        "processes": str(world()[1]),
        "preserve": digest_text(*map(repr, task.terms)),
        "loss": describe(task.loss),
        "optimizer": ", ".join("default" if maker is None else describe(maker) for maker in makers),
        "augment": "none" if task.augment is None else describe(task.augment),
        "multiplier_rate": str(rate),
    }


def check_training(
    model: object,
    scheme: object,
    method: object,
    loss: object,
    optimizer: object,
    schedule: object,
    precision: str,
    monitor: str,
    validation: object,
    patience: int | None,
    preserve: object,
) -> None:
    """Reject arguments of `train_compressed` that are not what they must be."""
    if not isinstance(model, nn.Module):
        reject(_OWNER, "model", type(model).__name__, "must be a torch.nn.Module")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        reject(_OWNER, "model", type(model).__name__, "none of its parameters requires gradients: all are frozen")
    if isinstance(scheme, type) or not isinstance(scheme, Scheme):
        reject(_OWNER, "scheme", scheme, "must be a scheme, such as Prune(density=0.1)")
    if not isinstance(method, (Direct, Gradual, LC)):
        reject(_OWNER, "method", method, "must be Direct(), Gradual() or LC()")
    for name, value in (("loss", loss), ("optimizer", optimizer), ("schedule", schedule)):
        if value is not None and not callable(value):
            reject(
                _OWNER, name, value, f"must be a callable: {'a factory' if name != 'loss' else 'loss(logits, labels)'}"
            )
    check_choice(_OWNER, "precision", precision, tuple(PRECISIONS))
    check_choice(_OWNER, "monitor", monitor, tuple(MONITORS))
    if patience is not None:
        if validation is None:
            reject(_OWNER, "patience", patience, "early stopping needs validation data")
        check_integer(_OWNER, "patience", patience, "must be a whole number of 1 or more", at_least=1)
    terms = preserve if isinstance(preserve, Sequence) else [None]
    if not all(callable(getattr(term, "bind", None)) for term in terms):
        reject(_OWNER, "preserve", preserve, "must be terms such as [PreserveAgreement(at_most=0.05)]")
