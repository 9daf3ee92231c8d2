"""How much of a model a candidate has changed: its share of layers and weights, or why that is unknown.

A weight is a parameter of the reference with real values and two dimensions or more. It counts as changed, as a whole,
where the candidate holds it in another dtype, shape or form, or with another value anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from cp_compress.base.arguments import explains_keywords
from cp_compress.base.showing.brief import Brief
from cp_compress.model.counterparts import PLAIN, Counterparts, joined, layer_of
from cp_compress.model.layers import Owner, find_owners, is_table, used_value
from cp_compress.model.record import read_steps
from cp_compress.model.representations.registry import held_weights

ENOUGH = 0.9
"""Below this share of weights a reader is told."""

_LISTED = 5
_FLOAT8 = ("float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz")
_INTEGERS = ("int8", "uint8", "int16", "uint16", "int4", "uint4", "int2", "uint2")
_NARROW = ("float16", "bfloat16", *_FLOAT8, *_INTEGERS)


class Unchanged(NamedTuple):
    """A weight that the candidate holds as the reference does: its name, its number of values, and why, if known."""

    name: str
    size: int
    reason: str


class StepCoverage(NamedTuple):
    """What one recorded step changed of the reference's layers and weights."""

    scheme: str
    layers: int
    weights: int


@explains_keywords
@dataclass(frozen=True, repr=False)
class Coverage(Brief):
    """How much of a reference a candidate has changed.

    Attributes:
        layers: The number of layers of the reference that hold weights.
        changed_layers: How many of them hold a weight that the candidate has changed; None where that is unknown.
        weights: The number of values in the reference's weights, each counted once where it is tied.
        changed_weights: How many lie in weights that the candidate has changed; None where that is unknown.
        unchanged: The weights that are as they were, largest first.
        steps: What each recorded step changed by itself, least first, where there are several.
        tied: The names under which each changed table of an embedding is used elsewhere too.
        unknown: Why the coverage is unknown; empty where it is known.
    """

    layers: int
    changed_layers: int | None
    weights: int
    changed_weights: int | None
    unchanged: tuple[Unchanged, ...] = ()
    steps: tuple[StepCoverage, ...] = ()
    tied: tuple[tuple[str, ...], ...] = ()
    unknown: str = ""

    @property
    def share(self) -> float | None:
        """The share of weights that changed, or None where it is unknown."""
        return self.changed_weights / self.weights if self.weights and self.changed_weights is not None else None

    def __str__(self) -> str:
        if self.share is None:
            return f"coverage unknown: {self.unknown}"
        return _amount(self.changed_layers or 0, self.layers, self.share)

    @property
    def step_texts(self) -> tuple[str, ...]:
        """What each of several steps changed by itself, as texts."""
        return tuple(
            f"{step.scheme}: {_amount(step.layers, self.layers, step.weights / self.weights)}" for step in self.steps
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must be told beside the share: what was left out, and which tables are tied."""
        told = []
        if self.share is not None and self.share < ENOUGH:
            rows = [f"{one.name} ({one.reason})" if one.reason else one.name for one in self.unchanged[:_LISTED]]
            more = len(self.unchanged) - _LISTED
            left = "; ".join(rows) + (f"; and {more} more" if more > 0 else "")
            told.append(f"only {self} changed, the others are as in the reference; unchanged, largest first: {left}")
        for names in self.tied:
            told.append(f"{names[0]} is the table of an embedding, tied to {', '.join(names[1:])}: both changed")
        return tuple(told)

    def to_json(self) -> dict[str, Any]:
        """Return the coverage as plain Python types, with the largest of the unchanged weights."""
        return {
            "text": str(self),
            "share": self.share,
            "layers": self.layers,
            "changed_layers": self.changed_layers,
            "weights": self.weights,
            "changed_weights": self.changed_weights,
            "unchanged": [one._asdict() for one in self.unchanged[: 4 * _LISTED]],
            "steps": list(self.step_texts),
            "tied": [list(names) for names in self.tied],
            "notes": list(self.notes),
        }


@explains_keywords
def measure_coverage(candidate: object, reference: object) -> Coverage:
    """Return how much of a reference a candidate has changed, read off both; unknown where that cannot be told.

    Weights are found by their names, within a wrapper too; a layer of another class that holds packed or other tensors
    in the place of a weight has changed it. Of an ONNX file the dtypes of its tensors tell how many are narrower than
    the reference's. Nothing is taken from what a candidate says of itself.

    >>> from cp_compress.model import Quantize
    >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    >>> str(measure_coverage(Quantize("int8", include="0").compress(model), model))
    '1 of 2 layers, 66 % of weights'
    >>> str(measure_coverage(lambda batch: batch, model))
    'coverage unknown: the candidate is a function, whose weights cannot be read'
    """
    told = getattr(candidate, "weight_dtypes", None)
    if not isinstance(reference, nn.Module):
        before = getattr(reference, "weight_dtypes", None)
        if isinstance(told, Mapping) and told and isinstance(before, Mapping) and before:
            return _by_dtype(told, before)
        return _unknown(f"the reference is a {_kind(reference)}, whose weights cannot be read")
    owners = find_owners(reference)
    weights = _weights(reference)
    layers = {name: layer_of(name) for name in weights}
    total = sum(weight.numel() for weight in weights.values())
    count = len(set(layers.values()))
    if not weights:
        return _unknown("the reference holds no weight of two dimensions")
    if isinstance(told, Mapping) and told and not isinstance(candidate, nn.Module):
        return _by_dtype(told, {str(weight.dtype).removeprefix("torch.") for weight in weights.values()})
    if not isinstance(candidate, nn.Module):
        reason = f"the candidate is a {_kind(candidate)}, whose weights cannot be read"
        return Coverage(count, None, total, None, unknown=reason)
    places = Counterparts(candidate, list(layers.values()))
    states = {name: places.state(name, weight, reference) for name, weight in weights.items()}
    missing = [name for name, state in states.items() if state is None]
    if missing and places.has_others(states):
        reason = f"{len(missing)} of {len(weights)} weights of the reference have no counterpart, first: {missing[0]}"
        return Coverage(count, None, total, None, unknown=reason)
    changed = [name for name, state in states.items() if state is not False]
    if places.hidden:
        reason = f"what {places.hidden[0]} has become holds no tensor that can be seen"
        return Coverage(count, None, total, None, unknown=reason)
    reasons = places.reasons()
    left = [Unchanged(name, weights[name].numel(), reasons.get(name, "")) for name in weights if name not in changed]
    return Coverage(
        count,
        len({layers[name] for name in changed}),
        total,
        sum(weights[name].numel() for name in changed),
        tuple(sorted(left, key=lambda one: -one.size)),
        _steps(places, weights, layers),
        tuple(
            _tied(owners[id(weights[name])]) for name in changed if _is_tied_table(owners.get(id(weights[name]), ()))
        ),
    )


def _by_dtype(told: Mapping[str, tuple[int, int]], before: Collection[str]) -> Coverage:
    """Return what dtypes tell of a file of another format: how many of its own tensors are narrower than before."""
    kept = {dtype: amounts for dtype, amounts in told.items() if dtype in before}
    narrow = {dtype: amounts for dtype, amounts in told.items() if dtype in _NARROW and dtype not in before}
    layers, values = (sum(amounts[part] for amounts in [*kept.values(), *narrow.values()]) for part in (0, 1))
    if not narrow:
        held = ", ".join(told)
        return Coverage(
            layers, None, values, None, unknown=f"its weights are {held}, which does not tell whether values changed"
        )
    changed, changed_values = (sum(amounts[part] for amounts in narrow.values()) for part in (0, 1))
    left = tuple(Unchanged(f"{count} tensors of {dtype}", size, "") for dtype, (count, size) in kept.items())
    return Coverage(layers, changed, values, changed_values, left)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a model by their first names; those that it holds as integers are among them."""
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if not is_lazy(parameter) and parameter.ndim > 1 and parameter.numel() and _is_real(parameter):
            found[name] = parameter
    for name, _, held in held_weights(model):
        value = used_value(model, name)
        if held.numbers is not None and value is not None:
            found.setdefault(name, value)
    return found


def _is_real(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex() or type(tensor) not in PLAIN


def _steps(places: Counterparts, weights: Mapping[str, Tensor], layers: Mapping[str, str]) -> tuple[StepCoverage, ...]:
    steps = [step for step in read_steps(places.candidate) if step.changes]
    if len(steps) < 2:
        return ()
    found = []
    for step in steps:
        theirs = places.step_names(step)
        names = [name for name in weights if places.name(name) in theirs]
        changed = {layers[name] for name in names}
        found.append(StepCoverage(step.scheme, len(changed), sum(weights[name].numel() for name in names)))
    return tuple(sorted(found, key=lambda step: step.weights))


def _is_tied_table(owners: Iterable[Owner]) -> bool:
    owners = tuple(owners)
    return len(owners) > 1 and any(map(is_table, owners))


def _tied(owners: Iterable[Owner]) -> tuple[str, ...]:
    """Return the names of a tied table: its own first."""
    ordered = sorted(owners, key=lambda owner: not is_table(owner))
    return tuple(joined(owner.path, owner.attribute) for owner in ordered)


def _amount(layers: int, all_layers: int, share: float) -> str:
    """Return a number of layers and a share of weights, rounded so that nothing less than all reads as 100 %."""
    percent = 100 * share
    text = f"{percent:.1g}" if 0 < percent < 1 else f"{math.floor(percent)}"
    return f"{layers} of {all_layers} layers, {text} % of weights"


def _unknown(reason: str) -> Coverage:
    return Coverage(0, None, 0, None, unknown=reason)


def _kind(value: object) -> str:
    return type(value).__name__
