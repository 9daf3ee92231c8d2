"""What compression did to a model, layer by layer: facts read off both models, joined with what schemes recorded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.arguments import explains_keywords, reject
from cp_compress.base.holdings.tensors import count_nonzero, is_plain, numbers_of, value_of
from cp_compress.base.showing.brief import Brief
from cp_compress.base.showing.mistaken import reject_kind
from cp_compress.model.coverage import Coverage, measure_coverage
from cp_compress.model.layers import resolve, used_value
from cp_compress.model.record import compression_steps, read_steps
from cp_compress.model.representations.registry import held_weights, stored_numbers


@explains_keywords
@dataclass(frozen=True)
class LayerReport:
    """One tensor before and after; the facts after it are None where the candidate has no such tensor.

    Attributes:
        name: The name of the tensor in the reference.
        shape_before: Its shape in the reference.
        shape_after: Its shape in the candidate.
        dtype_before: Its dtype in the reference.
        dtype_after: The dtype, or format such as "int8", in which the candidate stores it.
        nonzero_before: How many of its values in the reference are not zero.
        nonzero_after: How many of the numbers that the candidate stores for it are not zero.
        density: `nonzero_after` as a share of all values in the reference.
        changed: Whether dtype, shape or any value differs.
        actions: What each recorded step did to it.
    """

    name: str
    shape_before: tuple[int, ...]
    shape_after: tuple[int, ...] | None
    dtype_before: str
    dtype_after: str | None
    nonzero_before: int
    nonzero_after: int | None
    density: float | None
    changed: bool
    actions: tuple[str, ...]


@dataclass(frozen=True)
class SkippedLayer:
    """A tensor that a scheme left alone, and why."""

    name: str
    scheme: str
    reason: str


@explains_keywords
@dataclass(frozen=True, repr=False)
class CompressionReport(Brief):
    """What changed and what was skipped.

    Attributes:
        steps: The expressions of the schemes that made the candidate, as far as it records them.
        layers: One entry for each tensor.
        skipped: The tensors that a scheme left unchanged, and why.
        added: The parameters of the candidate that the reference does not have.
        coverage: The share of layers and weights that changed, and what was left out.
    """

    steps: tuple[str, ...]
    layers: tuple[LayerReport, ...]
    skipped: tuple[SkippedLayer, ...]
    added: tuple[str, ...]
    coverage: Coverage

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain Python types."""
        content: dict[str, Any] = _plain(dataclasses.asdict(self))
        return content | {"coverage": self.coverage.to_json()}

    def __str__(self) -> str:
        rows = [("layer", "shape", "dtype", "density", "what was done")]
        for layer in self.layers:
            if not layer.changed:
                continue
            density = "" if layer.density is None else f"{layer.density:.4g}"
            done = "; ".join(layer.actions) or "changed"
            shape = _arrow(_size(layer.shape_before), _size(layer.shape_after))
            rows.append((layer.name, shape, _arrow(layer.dtype_before, layer.dtype_after), density, done))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [" | ".join(self.steps) or "(no recorded scheme)"]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)) + f"  {row[4]}"
            for row in rows
        ]
        lines += [f"changed: {self.coverage}", *(f"  {text}" for text in self.coverage.step_texts)]
        unchanged = sum(not layer.changed for layer in self.layers)
        lines.append(f"{unchanged} of {len(self.layers)} tensors unchanged")
        lines += [f"skipped {skip.name} ({skip.scheme}): {skip.reason}" for skip in self.skipped]
        lines += [f"added {name}" for name in self.added]
        lines += [f"note: {note}" for note in self.coverage.notes]
        return "\n".join(line.rstrip() for line in lines)


@explains_keywords
def compression_report(reference: nn.Module, candidate: nn.Module) -> CompressionReport:
    """Compare two models tensor by tensor and say what was done to each, what was skipped, and why.

    Every parameter of the reference is listed once, and of its buffers of floating point those that a step names or
    that differ, such as re-estimated statistics. A candidate that no scheme made gets the facts alone. Raises
    InvalidArgumentError for anything but modules, and when only the reference was made by a scheme.

    >>> from cp_compress.model import Prune
    >>> model = nn.Linear(4, 4)
    >>> compression_report(model, Prune(0.25).compress(model)).layers[0].density
    0.25
    """
    for name, model in (("reference", reference), ("candidate", candidate)):
        if not isinstance(model, nn.Module):
            reject_kind("compression_report", name, model, "must be a torch.nn.Module", "model")
    steps = read_steps(candidate)
    if read_steps(reference) and not steps:
        made = " | ".join(compression_steps(reference))
        reject("compression_report", "reference", made, "it was made by a scheme and the candidate was not: swapped?")
    parts = _parts(candidate)
    actions: dict[str, list[str]] = {}
    for step in steps:
        for change in step.changes:
            actions.setdefault(parts.get(change.tensor, change.tensor), []).append(change.action)
    layers = [
        _layer(name, tensor, _find(candidate, name), tuple(actions.get(name, ())))
        for name, tensor in reference.named_parameters()
    ]
    buffers = [
        _layer(name, tensor, _find(candidate, name), tuple(actions.get(name, ())))
        for name, tensor in reference.named_buffers()
        if tensor.is_floating_point()
    ]
    layers += [layer for layer in buffers if layer.changed or layer.actions]
    known = {name for name, _ in reference.named_parameters(remove_duplicate=False)} | set(parts)
    return CompressionReport(
        compression_steps(candidate),
        tuple(layers),
        tuple(SkippedLayer(skip.tensor, step.scheme, skip.reason) for step in steps for skip in step.skips),
        tuple(name for name, _ in candidate.named_parameters() if name not in known),
        measure_coverage(candidate, reference),
    )


def _parts(model: nn.Module) -> dict[str, str]:
    """Return the names of the weights that are held in other tensors, by the names of those."""
    weights: dict[str, str] = {}
    for name, _, held in held_weights(model):
        path = name.rpartition(".")[0]
        weights |= {f"{path}.{part}".lstrip("."): name for part in held.parts}
    return weights


def _layer(
    name: str, before: Tensor, after: tuple[Tensor, str, Tensor] | None, actions: tuple[str, ...]
) -> LayerReport:
    facts = (name, tuple(before.shape))
    was = count_nonzero(numbers_of(before)[0])
    if after is None:
        return LayerReport(*facts, None, _dtype(before), None, was, None, None, True, actions)
    stored, dtype, value = after
    now = count_nonzero(stored)
    same = _dtype(before) == dtype and _equal(value_of(before), value)
    density = now / before.numel() if before.numel() else None
    return LayerReport(*facts, tuple(value.shape), _dtype(before), dtype, was, now, density, not same, actions)


def _find(model: nn.Module, name: str) -> tuple[Tensor, str, Tensor] | None:
    """Return a tensor of a model as it is stored, the name of its format, and as it is used."""
    value = used_value(model, name)
    return None if value is None else (*stored_numbers(*resolve(model, name)), value)


def _equal(before: Tensor, after: Tensor) -> bool:
    if not (is_plain(before) and is_plain(after)):  # nobody can read the values
        return before is after
    return before.shape == after.shape and torch.equal(before.cpu(), after.cpu())


def _dtype(tensor: Tensor) -> str:
    return numbers_of(tensor)[1]


def _size(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else "×".join(map(str, shape))


def _arrow(before: str, after: str | None) -> str:
    return before if before == after else f"{before} → {after or 'none'}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
