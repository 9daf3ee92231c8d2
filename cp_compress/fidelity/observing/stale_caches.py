"""The refusal of a candidate that answers from what calls of its reference have left in it.

A model may keep what a call has computed of its weights. A copy has a copy of it, and would answer from the weights of
the model before compression until it is built or loaded anew.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cp_compress.base.errors import CompressionError, ObservationError
from cp_compress.base.holdings.foreign import is_setting
from cp_compress.base.holdings.reach import modules_within
from cp_compress.fidelity.observing.runner import Model, Runner
from cp_compress.inputs.trees import Inputs
from cp_compress.model.call_caches import (
    ABSENT,
    BUFFERS,
    OWN,
    UNKNOWN,
    Place,
    built_with,
    filled_in_place,
    holds_tensor,
    is_own_object,
    put,
    state_of,
    written_by_calls,
)
from cp_compress.model.copying import copy_whole
from cp_compress.model.record import read_steps
from cp_compress.model.sources import read_sources

_ROUNDING = 2
_NOISE = 10
_Key = tuple[int, Place]


@dataclass(frozen=True, eq=False)
class _Anew:
    """An object as its class makes it without arguments, or where it takes some, without the tensors in it."""

    of: Any

    def __repr__(self) -> str:
        return f"{type(self.of).__qualname__}(…)"

    def make(self) -> Any:
        try:
            return type(self.of)()
        except TypeError:
            made = copy.copy(self.of)
            for name, part in list(vars(made).items()):
                if holds_tensor(part):
                    setattr(made, name, type(part)() if isinstance(part, (dict, list)) else None)
            return made


@dataclass(frozen=True, eq=False)
class _Kept:
    """An attribute or buffer of a module that may be what calls left there, and what it is when nothing was called."""

    path: str
    module: nn.Module
    place: Place
    unused: Any

    @property
    def key(self) -> _Key:
        return id(self.module), self.place

    @property
    def value(self) -> Any:
        return state_of(self.module).get(self.place, ABSENT)

    @property
    def is_table(self) -> bool:
        """Whether it may be made of weights; other numbers may say how far a table reaches."""
        if isinstance(self.value, Tensor) and isinstance(self.unused, Tensor):
            return self.value.numel() > 1
        return holds_tensor(self.value) or (self.unused is None and is_setting(self.value))


def require_own_caches(runner: Runner, inputs: Inputs) -> None:
    """Raise ObservationError where a model that this package made answers from what another model's calls left in it.

    A copy of the model, in which all attributes with tensors are as its class builds them, is asked about the same few
    inputs (n, ...). One of them is a stale cache if a call fills it anew, with content that does not depend on the
    inputs and is not what it held, and if answers move beyond rounding.
    """
    found = [module for module in modules_within(runner.model) if read_steps(module) or read_sources(module)]
    if not found or not any(kept.is_table for kept in _kept_in(runner.model)):
        return
    with contextlib.suppress(CompressionError):
        if runner.module is not None:
            places = runner.places
            runner = Runner(copy_whole(runner.module), runner.device, runner.task, runner.part)
            runner.places = places
    kept = _kept_in(runner.model)
    was = {one.key: one.value for one in kept}
    known, again = (runner.compared(inputs).cpu() for _ in range(2))
    noise = _distance(known, again)
    allowed = _NOISE * noise + _ROUNDING * torch.finfo(known.dtype).eps * float(known.double().abs().max())
    for at, group in enumerate(_groups(kept)):
        stale = _stale_in(group, was, runner, inputs, known, allowed)
        if stale:
            settings = [one for one in kept if not one.is_table and any(one.module is other.module for other in stale)]
            moved = _moved(_answer([*stale, *settings], runner, inputs), known)
            if moved is not None and moved > allowed:
                raise ObservationError(_told(stale[0], moved, known))
        if stale is not None and at == 0:
            return


def _groups(kept: Sequence[_Kept]) -> Iterator[list[_Kept]]:
    """Yield everything, then the attributes of one name and class at a time, with the numbers beside them."""
    yield list(kept)
    kinds = dict.fromkeys((type(one.module), one.place) for one in kept if one.is_table)
    for kind, place in kinds:
        group = [one for one in kept if type(one.module) is kind and (one.place == place or not one.is_table)]
        yield group
        if any(isinstance(one.value, Tensor) and one.unused is None for one in group):
            for empty in (lambda value: value.new_empty(0), torch.zeros_like):
                yield [replace(one, unused=empty(one.value)) if isinstance(one.value, Tensor) else one for one in group]


def _kept_in(model: Model) -> list[_Kept]:
    paths = {id(part): path for path, part in model.named_modules()} if isinstance(model, nn.Module) else {}
    found = []
    for module in modules_within(model):
        kind, path = type(module), paths.get(id(module), "")
        if kind.__module__.startswith("cp_compress."):
            continue
        written, in_place = written_by_calls(module), filled_in_place(module)
        for place, value in sorted(state_of(module).items(), key=lambda item: str(item[0])):
            where, name = place
            if where not in (OWN, BUFFERS) or str(name).startswith("_cp_"):
                continue
            table = holds_tensor(value) and (where == OWN or name in written)
            filled = where == BUFFERS and name in in_place and isinstance(value, Tensor)
            if filled and (name not in written or value.numel() == 1):
                unused = torch.zeros_like(value)  # as what is to be filled, or says whether it is, is built most often
            elif table or (where == OWN and name in written and is_setting(value)):
                unused = _unused(module, place, value)
            else:
                continue
            full = f"{path}.{name}" if path else str(name)
            found += [] if unused is UNKNOWN or unused is value else [_Kept(full, module, place, unused)]
    return found


def _unused(module: nn.Module, place: Place, value: Any) -> Any:
    """Return what a place is before any call; UNKNOWN for a number of which that cannot be told."""
    built = None if place[0] == BUFFERS else built_with(module, str(place[1]))
    if built is not UNKNOWN or is_setting(value):
        return UNKNOWN if built is ABSENT and is_setting(value) else built
    if type(value) is list:
        return [None] * len(value)
    return _Anew(value) if is_own_object(value) else {} if type(value) is dict else None


def _stale_in(
    group: Sequence[_Kept], was: dict[_Key, Any], runner: Runner, inputs: Inputs, known: Tensor, allowed: float
) -> list[_Kept] | None:
    """Return what of a group calls fill anew with other content, where answers move; None where no call is possible."""
    filled: dict[_Key, Any] = {}
    moved = _moved(_answer(group, runner, inputs, filled), known)
    if moved is None:
        return None
    emptied = [one for one in group if one.is_table and not _equal(filled[one.key], one.unused)]
    changed = [one for one in emptied if not _equal(filled[one.key], was[one.key])]
    if moved <= allowed or not changed:
        return []
    half = len(inputs) // 2
    if half == 0:
        return changed
    parts: list[dict[_Key, Any]] = [{}, {}]
    for part, into in zip((inputs[:half], inputs[half : 2 * half]), parts, strict=True):
        _answer(group, runner, part, into)
    return [one for one in changed if parts[0] and parts[1] and _equal(parts[0][one.key], parts[1][one.key])]


def _answer(
    group: Sequence[_Kept], runner: Runner, inputs: Inputs, filled: dict[_Key, Any] | None = None
) -> Tensor | None:
    """Return the answers of a model that a group is emptied in, or None where it cannot be called so.

    What calls fill is put into `filled`. The model is as it was afterwards.
    """
    with _restored(runner.model):
        try:
            for one in group:
                put(one.module, one.place, _fresh(one.unused))
        except Exception:  # a class of a user's own may raise anything
            return None
        if runner.module is not None:
            for module in runner.module.modules():
                if type(module).train is not nn.Module.train and any(one.module is module for one in group):
                    module.train(True)  # a model may keep its tables by its mode
                    module.train(False)
        try:
            answers = runner.compared(inputs).cpu()
        except Exception:  # it was no cache: the model cannot do without it
            return None
        if filled is not None:
            filled |= {one.key: one.value for one in group}
        return answers


def _fresh(value: Any) -> Any:
    if isinstance(value, _Anew):
        return value.make()
    if isinstance(value, Tensor):
        return value.clone()
    return type(value)(value) if isinstance(value, (dict, list)) else value


@contextlib.contextmanager
def _restored(model: Model) -> Iterator[None]:
    before = [(module, state_of(module)) for module in modules_within(model)]
    try:
        yield
    finally:
        for module, state in before:
            for place in {*state_of(module), *state}:
                if place[0] in (OWN, BUFFERS):  # a dict is put back as a whole
                    put(module, place, state.get(place, ABSENT))


def _moved(answers: Tensor | None, known: Tensor) -> float | None:
    if answers is None or answers.shape != known.shape:
        return None
    return _distance(answers, known)


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).abs().max())


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        same = one.shape == other.shape and one.dtype == other.dtype
        return same and bool(torch.equal(one.detach().cpu(), other.detach().cpu()))
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, _Anew) or isinstance(other, _Anew):
        return False
    if is_own_object(one) and type(one) is type(other):
        return _equal(vars(one), vars(other))
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one is other or (is_setting(one) and is_setting(other) and bool(one == other))


def _told(kept: _Kept, moved: float, known: Tensor) -> str:
    largest = float(known.double().abs().max())
    share = f", {moved / largest:.1%} of the largest one" if largest else ""
    empty = f"del model.{kept.path}" if kept.unused is ABSENT else f"model.{kept.path} = {kept.unused!r}"
    if isinstance(kept.unused, Tensor):
        empty = f"model.{kept.path}.zero_(), and what says that it is filled"
    return (
        f"{kept.path} holds what a call of the model before compression has left there, and the candidate answers from "
        f"it: as its class builds it, it gives other logits (by up to {moved:.3g}{share}), and so it would once it is "
        f"loaded. Compress a model that was not called yet, or empty this in it first: {empty}"
    )
