"""What a scheme did to the weights of a model, found by comparing the models before and after it."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from cp_compress.model.layers import used_value
from cp_compress.model.order import leaves_of, left_by, loss_of, name_of, order_error, undoes_of
from cp_compress.model.record import Left, Step, read_steps

_DECLARE = "its class can declare in `undoes` what it undoes, or () where that is intended"


@dataclass(frozen=True, eq=False)
class Effect:
    """A scheme, with the models before and after it."""

    scheme: object
    before: nn.Module
    after: nn.Module

    @functools.cached_property
    def path(self) -> str:
        """The path of the model within the one after, which may hold it as a part; "" where it does not."""
        names = [name for name, _ in self.before.named_parameters()]
        for path, module in self.after.named_modules():
            if all(used_value(module, name) is not None for name in names):
                return str(path)
        return ""

    def earlier(self) -> tuple[Step, ...]:
        """Return the steps of the model before, with the names that their tensors have after."""
        steps = read_steps(self.before)
        return tuple(step.inside(self.path) for step in steps) if self.path else steps

    def require_kept(self) -> None:
        """Raise CompressionError when the scheme undid what an earlier step left behind.

        A scheme that declares `undoes` undoes that in every weight that it changed. One that declares nothing is
        judged by the values: it must not fill zeros that an earlier step left, nor change the shape of a weight with
        a pattern.
        """
        for step in read_steps(self.before):
            for left in step.leaves:
                for name in left.tensors:
                    reason = self._loss(left.kind, name)
                    if reason:
                        raise order_error(self.scheme, step.scheme, self._name(name), reason)

    def step(self) -> Step:
        """Return the step of a scheme that records none itself.

        Where the scheme does not declare what it leaves behind, zeros are left in the weights that had none in the
        same places before.
        """
        held = [(name, value) for name, value in self.before.named_parameters() if not is_lazy(value)]
        weights = [(name, value) for name, value in held if value.ndim > 1]
        leaves = left_by(self.scheme, (self._name(name) for name, _ in weights if self._changed(name)))
        if leaves_of(self.scheme) is None:
            zeroed = tuple(self._name(name) for name, value in weights if self._has_new_zeros(name, value.detach()))
            leaves = (Left("zeros", zeroed),) if zeroed else ()
        values = ((value, self._after(name)) for name, value in held)
        structural = any(now is not None and now.shape != value.shape for value, now in values)
        return Step(name_of(self.scheme), (), (), structural, leaves)

    def _loss(self, kind: str, name: str) -> str:
        """Return what of a kind was lost in a weight, or an empty text."""
        declared = undoes_of(self.scheme)
        if declared is None:
            return self._filled(kind, name)
        return loss_of(self.scheme, kind) if kind in declared and self._changed(name) else ""

    def _filled(self, kind: str, name: str) -> str:
        """Return how the values show that something of a kind was undone, or an empty text."""
        was, now = used_value(self.before, name), self._after(name)
        if kind not in ("zeros", "pattern") or was is None or not bool((zero := was == 0).any()):
            return ""
        if now is None:
            return f"it replaced this weight, so that its zeros cannot be found again; {_DECLARE}"
        if now.shape != was.shape:  # the zeros that remain are elsewhere now
            return f"it changed the shape of a weight with a pattern; {_DECLARE}" if kind == "pattern" else ""
        filled = int((now.to(was.device)[zero] != 0).sum())
        return f"it filled {filled} of {int(zero.sum())} zeros of this weight; {_DECLARE}" if filled else ""

    def _has_new_zeros(self, name: str, was: Tensor) -> bool:
        now = self._after(name)
        if now is None:
            return False
        if now.shape != was.shape:
            return bool((now == 0).any()) and not bool((was == 0).any())
        return bool(((now.to(was.device) == 0) & (was != 0)).any())

    def _changed(self, name: str) -> bool:
        was, now = used_value(self.before, name), self._after(name)
        if was is None or now is None:
            return was is not now
        return was.shape != now.shape or not torch.equal(was.cpu(), now.to(was.dtype).cpu())

    def _after(self, name: str) -> Tensor | None:
        value = used_value(self.after, self._name(name))
        return value if value is None or value.layout is torch.strided else value.to_dense()

    def _name(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name
