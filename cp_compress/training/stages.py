"""What each method does between training steps: compress, lower the density, or move the compressed target."""

from __future__ import annotations

import contextlib
import copy
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cp_compress.base.errors import NoEffectError
from cp_compress.model.projection import project, split_rounding, with_density
from cp_compress.model.pruning.masks import apply_masks, find_masks
from cp_compress.model.pruning.zeroing import EmptiedLayerError
from cp_compress.model.scheme import Scheme, apply_scheme
from cp_compress.training.methods import LC, Direct, Gradual, Method


class Subject:
    """The model that is trained, what it must keep at zero, and the scheme it is trained for.

    Once `settled`, the model is what the scheme's choosing part made, its zeros are held by `masks`, and `rounding` is
    what remains to be done to it.
    """

    def __init__(self, model: nn.Module, reference: nn.Module, scheme: Scheme) -> None:
        self.model = model
        self.reference = reference
        self.scheme = scheme
        self.choosing, self.rounding = split_rounding(scheme)
        self.masks: dict[str, Tensor] = {}
        self.settled = False

    def settle(self) -> nn.Module:
        """Replace the model by what the choosing part of the scheme makes of it; return the one before."""
        before = self.model
        self.settle_as(before if self.choosing is None else apply_scheme(self.choosing, before))
        return before

    def settle_as(self, model: nn.Module) -> None:
        """Go on with a model that the choosing part of the scheme has made."""
        self.model = model
        self.masks = find_masks(model, self.reference)
        self.settled = True

    def compressed(self) -> nn.Module:
        """Return what the scheme makes of the model as it is now; the model itself is left alone."""
        if not self.settled:
            return apply_scheme(self.scheme, self.model)
        return copy.deepcopy(self.model) if self.rounding is None else apply_scheme(self.rounding, self.model)


def set_training(model: nn.Module) -> nn.Module:
    """Return a model that was set to training mode, in place, but for frozen layers in evaluation mode.

    Such a layer has parameters, none of which is trained: its statistics, if it keeps any, stay as they are too.
    """
    held = [module for module in model.modules() if not module.training and _is_frozen(module)]
    model.train()
    for module in held:
        module.eval()
    return model


def _is_frozen(module: nn.Module) -> bool:
    trained = [parameter.requires_grad for parameter in module.parameters()]
    return bool(trained) and not any(trained)


class Stage(Protocol):
    """A method at work."""

    def before_step(self, step: int) -> nn.Module | None:
        """Do what is due before a step; return the model that was replaced, if one was."""
        ...

    def add_penalty(self) -> None:
        """Add the method's own gradients."""
        ...

    def finish(self) -> nn.Module:
        """Return the compressed model."""
        ...

    def candidate(self) -> nn.Module:
        """Return the compressed model of now."""
        ...

    @property
    def complete(self) -> bool:
        """Whether the candidate is all that the scheme asks for."""
        ...

    @property
    def figures(self) -> dict[str, float]:
        """Numbers for the history."""
        ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: dict[str, Any]) -> None: ...


def start_stage(method: Method, subject: Subject, total: int) -> Stage:
    """Return a method at work on a subject for so many steps."""
    if isinstance(method, Gradual):
        return GradualStage(method, subject, total)
    if isinstance(method, LC):
        return LCStage(method, subject, total)
    assert isinstance(method, Direct)
    return DirectStage(subject)


class DirectStage:
    """Compress before the first step."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def before_step(self, step: int) -> nn.Module | None:
        """Settle before the first step."""
        return None if self.subject.settled else self.subject.settle()

    def add_penalty(self) -> None:
        """Add nothing."""

    def finish(self) -> nn.Module:
        """Return the compressed model."""
        if not self.subject.settled:
            self.subject.settle()
        return self.subject.compressed()

    def candidate(self) -> nn.Module:
        """Return the compressed model of now."""
        return self.subject.compressed()

    @property
    def complete(self) -> bool:
        """Whether the model is settled."""
        return self.subject.settled

    @property
    def figures(self) -> dict[str, float]:
        """No numbers of its own."""
        return {}

    def state(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class GradualStage(DirectStage):
    """Lower the density step by step.

    What is dropped keeps the value that it had, and may come back when the choice is made anew: Zhu and Gupta 2017.
    """

    def __init__(self, method: Gradual, subject: Subject, total: int) -> None:
        super().__init__(subject)
        self.method, self.total = method, total
        self.dropped = 0.0
        self.last_values: dict[str, Tensor] = {}
        if subject.choosing is None:
            with_density(subject.scheme, 1.0)  # says why not
        else:
            with_density(subject.choosing, 1.0)

    def before_step(self, step: int) -> nn.Module | None:
        """Drop more weights where that is due; settle at the scheme's own density."""
        share = None if self.subject.settled else self.method.progress(step, self.total)
        if share is None or self.subject.choosing is None:
            return None
        self.dropped = share
        self._refill()
        if step == self.method.last_change(self.total):
            return self.subject.settle()
        if share > 0:
            self._drop(with_density(self.subject.choosing, share))
        return None

    def _drop(self, scheme: Scheme) -> None:
        try:
            candidate = scheme.compress(self.subject.model)
        except NoEffectError:  # as many as are zero already
            return
        self.subject.masks = find_masks(candidate, self.subject.reference)
        named = self.subject.model.named_parameters()
        self.last_values = {name: value.detach().clone() for name, value in named if name in self.subject.masks}
        apply_masks(self.subject.model, self.subject.masks)

    @torch.no_grad()
    def _refill(self) -> None:
        for name, parameter in self.subject.model.named_parameters():
            if name in self.last_values:
                dropped = ~self.subject.masks[name]
                parameter[dropped] = self.last_values[name][dropped]
        self.last_values, self.subject.masks = {}, {}

    @property
    def figures(self) -> dict[str, float]:
        """The share of what the scheme drops that is dropped by now."""
        return {"dropped_share": self.dropped}

    def state(self) -> dict[str, Any]:
        """The share, and what dropped weights were."""
        return {"dropped": self.dropped, "last_values": self.last_values}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.dropped, self.last_values = state["dropped"], state["last_values"]


class LCStage(DirectStage):
    """Draw the weights towards the compressed ones: the augmented Lagrangian of learning-compression."""

    def __init__(self, method: LC, subject: Subject, total: int) -> None:
        super().__init__(subject)
        self.method, self.total = method, total
        self.compressions = 0
        self.targets: dict[str, Tensor] = {}
        self.multipliers: dict[str, Tensor] = {}
        with contextlib.suppress(EmptiedLayerError):  # training may fill the layer again
            subject.scheme.compress(subject.model)  # says at once where the scheme cannot be applied

    @property
    def mu(self) -> float:
        """The weight of the penalty."""
        return self.method.weight(max(0, self.compressions - 1), self.total)

    def before_step(self, step: int) -> nn.Module | None:
        """Compress where that is due; settle at the end of the free steps."""
        if self.subject.settled:
            return None
        if step >= self.method.free_steps(self.total):
            return self._settle()
        if step % self.method.every == 0:
            self.compress()
        return None

    @torch.no_grad()
    def compress(self) -> None:
        """Make one C step: θ = Π(w − λ/μ), then λ ← λ − μ(w − θ), then a larger μ."""
        first = self.compressions == 0
        shifted = self._shifted()
        found = project(self.subject.scheme, shifted)
        values = dict(shifted.named_parameters())
        for name, parameter in self.subject.model.named_parameters():
            if name in found or name in self.targets:
                target = found.get(name, values[name]).detach()
                self.targets[name] = target
                multiplier = self.multipliers.setdefault(name, torch.zeros_like(target))
                if not first:
                    multiplier.sub_(self.mu * (parameter - target))
        self.compressions += 1

    def _shifted(self) -> nn.Module:
        """Return a copy of the model with w − λ/μ in place of w."""
        shifted = copy.deepcopy(self.subject.model)
        for name, parameter in shifted.named_parameters():
            if name in self.multipliers:
                parameter.data.sub_(self.multipliers[name] / self.mu)
        return shifted

    def _settle(self) -> nn.Module:
        before = self.subject.model
        self.subject.model = self._shifted()
        self.subject.settle()
        return before

    @torch.no_grad()
    def add_penalty(self) -> None:
        """Add the gradient of μ/2‖w − θ‖² − λᵀ(w − θ)."""
        if self.subject.settled:
            return
        for name, parameter in self.subject.model.named_parameters():
            if name in self.targets and parameter.grad is not None:
                difference = parameter - self.targets[name]
                parameter.grad.add_(self.mu * difference - self.multipliers[name])

    def finish(self) -> nn.Module:
        """Return the compressed model."""
        if not self.subject.settled:
            self._settle()
        return self.subject.compressed()

    def candidate(self) -> nn.Module:
        """Return what the scheme makes of w − λ/μ."""
        return self.subject.compressed() if self.subject.settled else apply_scheme(self.subject.scheme, self._shifted())

    @property
    def complete(self) -> bool:
        """Always: the candidate is a projection."""
        return True

    @property
    def figures(self) -> dict[str, float]:
        """μ and ‖w − θ‖ while the weights are free."""
        if self.subject.settled:
            return {}
        parameters = dict(self.subject.model.named_parameters())
        squares = [float((parameters[name].detach() - self.targets[name]).square().sum()) for name in self.targets]
        return {"mu": self.mu, "distance": sum(squares) ** 0.5}

    def state(self) -> dict[str, Any]:
        """θ, λ and the number of C steps."""
        return {"targets": self.targets, "multipliers": self.multipliers, "compressions": self.compressions}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.targets, self.multipliers = state["targets"], state["multipliers"]
        self.compressions = state["compressions"]
