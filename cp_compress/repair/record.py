"""How a repair is recorded: one step in the record that a candidate carries into every check of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.wrapping import said_by
from cp_compress.model.record import Change, Skip, Step, add_step


def record_repair(
    model: nn.Module,
    name: str,
    data: LabeledData,
    settings: dict[str, Any],
    changes: Iterable[Change],
    skips: Iterable[Skip] = (),
) -> None:
    """Record a repair on a model, in place: its name, its settings, and the data that it was made on.

    >>> from cp_compress.model import compression_steps
    >>> model = nn.Linear(2, 2)
    >>> record_repair(model, "adapt", LabeledData([(0, 1)]), {"epochs": 6}, [])
    >>> compression_steps(model)
    ('adapt(epochs=6, data=list)',)
    """
    codec = said_by(data, "codec")
    source = type(data.source).__name__ if codec is None else repr(str(codec))
    written = ", ".join([*(f"{key}={_write(value)}" for key, value in settings.items()), f"data={source}"])
    add_step(model, Step(f"{name}({written})", tuple(changes), tuple(skips)))


def _write(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
