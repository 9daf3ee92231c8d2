"""Train a network from scratch on labelled, optionally weighted, examples, and read its last layer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.arguments import check_integer, explains_keywords, reject
from cp_compress.base.batching import BatchSize
from cp_compress.base.devices import keeping_random_state, usable_device
from cp_compress.base.errors import ObservationError, TrainingError
from cp_compress.fidelity.observing.runner import Runner
from cp_compress.inputs.calls import first_input
from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.seen import mark_as_used
from cp_compress.training.arguments import check_module, check_optimizer
from cp_compress.training.stages import set_training

MakeModel = Callable[[], nn.Module]
MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
_OWNER = "fit"


@explains_keywords
@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained model in evaluation mode, on the CPU, and which of its examples it predicted correctly.

    `correct` (epochs, n), bool, holds the correct examples after each epoch (for `forgetting_scores`); it has no rows
    unless `history` was set.
    """

    model: nn.Module
    correct: Tensor


@explains_keywords
@dataclass(frozen=True, eq=False)
class LastLayer:
    """The inputs and results of a network's last linear layer for each example.

    `embeddings` (n, d) are its inputs, `probabilities` (n, classes) those of the network's logits, `labels` are (n,).
    """

    embeddings: Tensor
    probabilities: Tensor
    labels: Tensor


@explains_keywords
def fit(
    make_model: MakeModel,
    dataset: Any,
    *,
    steps: int,
    weights: Tensor | None = None,
    batch_size: int = 64,
    optimizer: MakeOptimizer | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    history: bool = False,
) -> Fitted:
    """Train a new network by cross entropy on the examples of a labelled data set.

    Frozen parameters keep their values, and frozen layers in evaluation mode stay in evaluation mode.

    Args:
        make_model: A function without arguments that returns a new network with random initial values; torch's seed is
            set before it is called.
        dataset: Labelled data in any form that comparisons accept.
        steps: The number of training steps.
        weights: The weight (n,) of each example's loss, such as those of a `Selection`; None for equal weights.
        batch_size: The number of examples per step.
        optimizer: A function from parameters to a `torch.optim.Optimizer`, whose learning rate is lowered along a
            cosine to 0; by default SGD at 0.05, momentum 0.9, weight decay 5e-4.
        seed: The seed of the initial values and of the order of examples, 0…2³⁰.
        device: Where to train; by default the CPU.
        history: Whether to record after each epoch which examples are predicted correctly.

    Returns:
        The trained network, and which examples it predicted correctly if `history` is set.

    Raises:
        InvalidArgumentError: If an argument is not as described.
        ObservationError: If a label lies outside the network's classes.
        TrainingError: If the loss is NaN or infinite.
    """
    if optimizer is not None and not callable(optimizer):
        reject(_OWNER, "optimizer", optimizer, "must be a function of parameters that returns a torch.optim.Optimizer")
    if not callable(make_model) or isinstance(make_model, nn.Module):
        reject(_OWNER, "make_model", make_model, "must be a function without arguments that returns a new network")
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        check_integer(_OWNER, name, value, "must be a whole number of 1 or more", at_least=1)
    check_integer(_OWNER, "seed", seed, "must be a whole number in 0…2³⁰", at_least=0, at_most=2**30)
    target = usable_device(device or "cpu", f"{_OWNER}(device={str(device)!r}): it")
    data = dataset if isinstance(dataset, LabeledData) else LabeledData(dataset)
    shares = _as_shares(weights, len(data))
    with keeping_random_state(), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(seed)
        model = set_training(_copy(make_model()).to(target))  # it may be one that the caller keeps
        correct = _train(model, data, shares, steps, batch_size, optimizer or _default_optimizer, seed, target, history)
    mark_as_used(model, "training", data)
    return Fitted(model.cpu().eval(), correct)


def _copy(made: object) -> nn.Module:
    """Return a copy of a new network, or reject what is none, cannot be copied, or has nothing to train."""
    network = check_module(_OWNER, "make_model", made, "must return a torch.nn.Module")
    if not any(parameter.requires_grad for parameter in network.parameters()):
        reject(_OWNER, "make_model", type(made).__name__, "none of the network's parameters requires gradients")
    try:
        return copy.deepcopy(network)
    except Exception as error:
        rule = f"the network must be copyable, because a copy of it is trained: {error}"
        reject(_OWNER, "make_model", type(made).__name__, rule)


@explains_keywords
def look_at_last_layer(model: nn.Module, dataset: Any, *, batch_size: int = 256) -> LastLayer:
    """Return the inputs and results of the last linear layer that a network runs, for labelled examples.

    Raises ObservationError if the network runs no linear layer, or its logits are not the outputs of the last one.
    """
    data = dataset if isinstance(dataset, LabeledData) else LabeledData(dataset)
    runner, parts, labels = Runner(model), [], []
    seen: list[tuple[Tensor, Tensor]] = []

    def see(layer: nn.Module, args: Any, keywords: Any, output: Tensor) -> None:
        # copies, because later parts of the model may work in place
        seen[:] = [(first_input(layer, args, keywords).detach().clone(), output.detach().clone())]

    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    hooks = [layer.register_forward_hook(see, with_kwargs=True) for layer in linear]

    def run(part: slice) -> None:
        seen.clear()
        inputs, truth = data.select(range(part.start, part.stop))
        logits = runner.logits(inputs)
        if not seen or seen[-1][1].shape != logits.shape or not torch.equal(seen[-1][1], logits):
            raise ObservationError(f"the logits of {type(model).__name__} are not the outputs of a linear layer")
        parts.append((seen[-1][0].float().cpu(), logits.float().softmax(1).cpu()))
        labels.append(truth)

    try:
        with torch.no_grad(), runner.evaluating():
            BatchSize(batch_size).run(len(data), run)
    finally:
        for hook in hooks:
            hook.remove()
    embeddings, probabilities = (torch.cat(rows) for rows in zip(*parts, strict=True))
    return LastLayer(embeddings, probabilities, torch.cat(labels))


def _train(
    model: nn.Module,
    data: LabeledData,
    shares: Tensor,
    steps: int,
    batch_size: int,
    make_optimizer: MakeOptimizer,
    seed: int,
    device: torch.device,
    history: bool,
) -> Tensor:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = check_optimizer(make_optimizer(trained), model, _OWNER)
    runner = Runner(model, device)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    order = torch.Generator().manual_seed(seed)
    size, rows, step = min(batch_size, len(data)), [], 0
    while step < steps:
        places = torch.randperm(len(data), generator=order)
        for start in range(0, len(data) - size + 1, size):
            if step == steps:
                break
            chosen = places[start : start + size]
            inputs, labels = (part.to(device) for part in data.select(chosen))
            optimizer.zero_grad(set_to_none=True)
            logits = runner.logits(inputs)
            if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
                raise ObservationError(f"a label lies outside the network's {logits.shape[1]} classes")
            losses = nn.functional.cross_entropy(logits, labels, reduction="none")
            loss = (losses * shares[chosen].to(losses)).mean()
            if not bool(loss.isfinite()):
                raise TrainingError(f"the loss is {loss.item()} at step {step + 1}: use a smaller learning rate")
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            step += 1
        if history:
            rows.append(_correct(runner, data))
    return torch.stack(rows) if rows else torch.zeros(0, len(data), dtype=torch.bool)


def _correct(runner: Runner, data: LabeledData) -> Tensor:
    found = []
    with torch.no_grad(), runner.evaluating():
        for inputs, labels in data.batches(256):
            found.append(runner.logits(inputs).argmax(1).cpu() == labels)
    return torch.cat(found)


def _as_shares(weights: Tensor | None, count: int) -> Tensor:
    if weights is None:
        return torch.ones(count)
    if not isinstance(weights, Tensor) or weights.shape != (count,):
        found = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
        reject(_OWNER, "weights", found, f"must be one number per example ({count},)")
    if not bool(weights.isfinite().all()) or bool((weights < 0).any()) or not bool(weights.any()):
        reject(_OWNER, "weights", weights, "must be finite, not negative and not all 0")
    return (weights.double() / weights.double().mean()).float().cpu()


def _default_optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
