"""Which stage of a pipeline causes the changed predictions, beside the layers that do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cp_compress.base.errors import ObservationError
from cp_compress.base.json_values import plain
from cp_compress.base.showing.work import require_time
from cp_compress.fidelity.observing.observation import Observation, observe
from cp_compress.fidelity.observing.pairing import check_comparable
from cp_compress.fidelity.observing.runner import Model
from cp_compress.fidelity.origin.layers import THE_DATA, find_origin
from cp_compress.fidelity.predictions.tables import changed_answers
from cp_compress.inputs.forms import TableDataset
from cp_compress.inputs.tasks import TaskDataset
from cp_compress.model.record import compression_steps
from cp_compress.model.registry import parse_scheme


@dataclass(frozen=True)
class StageDamage:
    """One stage of a pipeline: of `flips` changed predictions, how many differ from the reference from it on.

    `scheme` is the expression of the stage's scheme, or "the compressed data".
    """

    scheme: str
    introduced: int
    flips: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields, and the share of the flips, as plain Python types."""
        share = self.introduced / self.flips
        return {"scheme": self.scheme, "introduced": self.introduced, "flips": self.flips, "share": share}


def find_stages(candidate: Observation, reference: Observation) -> tuple[StageDamage, ...]:
    """Return which stage of its pipeline each of a candidate's changed predictions comes from.

    The candidate's schemes are applied to the reference again, one after the other, and each stage is observed on the
    examples whose prediction changed, as the candidate reads them. A prediction (of examples with many answers: an
    answer) counts for the first stage from which on it is not the reference's. Where the two read different data, the
    first stage is the reference on the candidate's data, "the compressed data": what the data changes is charged to no
    scheme.

    Raises ObservationError for a candidate that was not made by two schemes or more, whose predictions did not change,
    or whose stages, made again, do not end in its predictions, as after training.

    >>> from cp_compress.examples import digits, digits_cnn
    >>> model, data = digits_cnn(), digits()
    >>> candidate = parse_scheme("prune(density=0.2) | quantize(int8)").compress(model)
    >>> found = find_stages(observe(candidate, data), observe(model, data))
    >>> [stage.scheme for stage in found], found[0].introduced > found[1].introduced
    (['prune(density=0.2)', 'quantize(int8)'], True)
    """
    steps = compression_steps(candidate.model)
    if len(steps) < 2:
        raise ObservationError("the candidate was not made by two or more schemes, so it has no stages")
    check_comparable(candidate, reference, any_task=True)
    changed = changed_answers(candidate, reference)
    moved = changed.flatten(1).any(dim=1) if changed.ndim > 1 else changed
    if not bool(moved.any()):
        raise ObservationError("no prediction changed, so there is nothing to attribute to stages")
    before = reference.predictions[changed]
    other_data = candidate.data_digest != reference.data_digest
    names = [THE_DATA, *steps] if other_data else list(steps)
    models: list[Model] = [reference.model] if other_data else []
    models += _stages(reference.model, steps)
    rows = moved.nonzero().flatten().tolist()
    answers = [_predictions(model, candidate, rows) for model in models]
    if answers[-1].shape != changed[moved].shape:
        raise ObservationError("the changed examples alone are padded to another length than in the whole data")
    after = [found[changed[moved]] for found in answers]
    if not torch.equal(after[-1], candidate.predictions[changed]):
        raise ObservationError(
            "the schemes, applied again, do not give the candidate's predictions; it was changed since"
        )
    differs = torch.stack([found != before for found in after])
    # true at a stage when the example differs there and at every later one
    stays = differs.flip(0).long().cumprod(0).flip(0)
    counts = (len(names) - stays.sum(0)).bincount(minlength=len(names))
    return tuple(StageDamage(name, int(count), len(before)) for name, count in zip(names, counts.tolist(), strict=True))


def _stages(reference: Any, steps: Sequence[str]) -> list[nn.Module]:
    models: list[nn.Module] = []
    for step in steps:
        models.append(parse_scheme(step).compress(models[-1] if models else reference))
    return models


def _predictions(model: Model, candidate: Observation, rows: list[int]) -> torch.Tensor:
    data: Any = TableDataset(*candidate.data.read(rows))
    if candidate.task != "single_label":
        data = TaskDataset(data, candidate.task)
    size = candidate.batch_size.limit
    seen = observe(model, data, device=candidate.runner.device, batch_size=size, output=candidate.output)
    return seen.predictions


def explain_damage(candidate: Observation, reference: Observation, *, by_noise: bool = False) -> dict[str, Any]:
    """Return what `find_origin` and, for a pipeline, `find_stages` say, as plain Python types.

    With `by_noise` predictions have no part in it.

    It is made for a check that has failed already: what cannot be told is a note, never an exception.
    """
    explained: dict[str, Any] = {"layers": [], "notes": []}
    try:
        explained = find_origin(candidate, reference, by_noise=by_noise).to_json()
    except Exception as error:  # a model's own code may raise anything when its layers are called alone
        explained["notes"].append(f"the layers that cause the changes could not be found: {error}")
    explained["stages"] = []
    if len(compression_steps(candidate.model)) > 1 and explained.get("flips"):
        try:
            require_time()
            explained["stages"] = [stage.to_json() for stage in find_stages(candidate, reference)]
        except Exception as error:  # as above, and a scheme may need what is no longer there
            explained["notes"].append(f"the stages could not be separated: {error}")
    found: dict[str, Any] = plain(explained)
    return found
