"""The arguments of `train_compressed`: checked before any work, and described to recognise a checkpoint."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cp_compress.base.arguments import check_choice, check_integer, reject
from cp_compress.base.digests import digest_model, digest_text
from cp_compress.base.identity import identify
from cp_compress.base.showing.describing import describe_content
from cp_compress.base.showing.mistaken import reject_kind
from cp_compress.inputs.reading import LabeledData
from cp_compress.model.scheme import Scheme
from cp_compress.training.distributed import world
from cp_compress.training.loop import PRECISIONS, Task
from cp_compress.training.losses import Preservation
from cp_compress.training.methods import LC, Direct, Gradual, Method
from cp_compress.training.validation import MONITORS

_OWNER = "train_compressed"


def identify_training(
    model: nn.Module, scheme: Scheme, method: Method, data: LabeledData, task: Task, total: int, **others: Any
) -> dict[str, str]:
    """Return what makes this training another than the next, as texts; `others` are further arguments by name."""
    return {
        **{name: _tell(value) for name, value in others.items()},
        **identify_model(model),
        "scheme": str(scheme),
        "method": str(method),
        "data": data.digest(),
        "steps": str(total),
        "batch_size": str(task.batch_size),
        "seed": str(task.seed),
        "precision": task.precision,
        "processes": str(world()[1]),
        "preserve": digest_text(*map(identify, task.terms)),
        "loss": _tell(task.loss),
        "augment": _tell(task.augment),
    }


def identify_model(model: nn.Module) -> dict[str, str]:
    """Return what makes the model that is trained another than the next: its content, and which of it is frozen."""
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    return {"model": str(digest_model(model)), "set of frozen parameters": digest_text(*frozen)}


def _tell(value: object) -> str:
    return describe_content(value) if callable(value) else str(value)


def check_checkpoint(checkpoint: str | os.PathLike[str] | None) -> None:
    """Reject a checkpoint that could not be written, before an epoch is spent."""
    if checkpoint is None:
        return
    if Path(checkpoint).is_dir():
        reject(_OWNER, "checkpoint", os.fspath(checkpoint), "it is a folder; name a file")
    if not Path(checkpoint).parent.is_dir():
        reject(_OWNER, "checkpoint", os.fspath(checkpoint), "its folder does not exist")


def check_terms(terms: Sequence[Preservation], data: LabeledData, owner: str = _OWNER) -> None:
    """Reject terms that cannot be computed on the inputs of the training data, as `owner`."""
    inputs = data.inputs([0])
    for term in terms:
        if term.needs_input_gradients and not inputs.is_floating_point():
            rule = f"it needs gradients at the inputs, and those of the data set are {inputs.dtype}, not floating point"
            reject(owner, "preserve", term, rule)


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
    model = check_module(_OWNER, "model", model)
    if next(model.parameters(), None) is None:
        reject(_OWNER, "model", type(model).__name__, "it has no parameters, so there is nothing to train")
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
    if not all(callable(getattr(term, "bind", None)) and not isinstance(term, type) for term in terms):
        reject(_OWNER, "preserve", preserve, "must be terms such as [PreserveAgreement(at_most=0.05)]")


def check_module(owner: str, argument: str, given: object, rule: str = "must be a torch.nn.Module") -> nn.Module:
    """Return a network whose layers can be worked on, or reject it as `owner`."""
    if isinstance(given, torch.jit.ScriptModule):
        rule = "the layers of a ScriptModule can neither be copied nor trained; pass the original torch.nn.Module"
        reject(owner, argument, type(given).__name__, rule)
    if not isinstance(given, nn.Module):
        reject_kind(owner, argument, given, rule, "model")
    return given


def check_optimizer(made: object, model: nn.Module, owner: str = _OWNER) -> torch.optim.Optimizer:
    """Return the optimiser that a factory made, or reject it as `owner`."""
    if not isinstance(made, torch.optim.Optimizer):
        reject(owner, "optimizer", type(made).__name__, "the factory must return a torch.optim.Optimizer")
    closure = inspect.signature(made.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        reject(owner, "optimizer", type(made).__name__, "it needs a closure, which is not supported")
    own = {id(parameter) for parameter in model.parameters()}
    if not all(id(parameter) in own for group in made.param_groups for parameter in group["params"]):
        reject(owner, "optimizer", type(made).__name__, "it has parameters other than those that it was given")
    return made


def check_schedule(made: object, owner: str = _OWNER) -> Any:
    """Return the schedule that a factory made, or reject it as `owner`."""
    step = getattr(made, "step", None)
    if not callable(step) or not callable(getattr(made, "state_dict", None)):
        reject(owner, "schedule", type(made).__name__, "the factory must return a schedule of torch.optim.lr_scheduler")
    any_number = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(step).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in any_number]
    if required:
        reject(owner, "schedule", type(made).__name__, f"its step needs {', '.join(required)}, which is not available")
    return made
