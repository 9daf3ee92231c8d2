"""The result of a search for the smallest setting of a codec: its trials, and the smallest that holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cp_compress.base.arguments import explains_keywords
from cp_compress.base.json_values import plain
from cp_compress.base.outcomes import SEVERITY, Outcome
from cp_compress.base.showing.brief import Brief
from cp_compress.search.constraints import conservative_margin
from cp_compress.search.results import describe_check, trial_table
from cp_compress.search.spaces import Point
from cp_compress.search.trials import Trial, finite_or_none

if TYPE_CHECKING:
    from torch import nn

    from cp_compress.data.codec import Codec
    from cp_compress.fidelity.judging.judgement import Check
    from cp_compress.fidelity.judging.measurement import Measurement


@explains_keywords
@dataclass(frozen=True, eq=False, repr=False)
class SettingTrial(Brief):
    """One setting that was tried: its size and how it was judged.

    Attributes:
        number: The number of the trial, from 1.
        point: The setting, by the names of the family's parameters.
        codec: The codec at this setting, or None if it could not be made.
        check: The check of the requirements, or None if it could not be made.
        payload_bytes: The mean size of an example's stream without its envelope, or None if the codec refused the data.
        stored_bytes: The same with the envelope.
        clean: The candidate on the original data, if a repair made one.
        error: The reason why there is no check.
    """

    number: int
    point: Mapping[str, Any]
    codec: Codec | None
    check: Check | None = None
    payload_bytes: float | None = None
    stored_bytes: float | None = None
    clean: Measurement | None = None
    error: str | None = None

    @property
    def outcome(self) -> Outcome:
        """The outcome of the check, or "error" if there is none."""
        return "error" if self.check is None else self.check.outcome

    def as_trial(self) -> Trial:
        """Return the record that strategies read; the objective is `payload_bytes`."""
        margins: tuple[float | None, ...] = (None,)
        values: tuple[dict[str, float | None], ...] = ()
        if self.check is not None:
            margins = (finite_or_none(conservative_margin(self.check)),)
            values = ({result.requirement.metric: finite_or_none(result.value) for result in self.check.results},)
        point: Point = dict(self.point)
        facts = (self.outcome, self.payload_bytes, margins, values, self.error)
        return Trial(self.number, point, str(self.codec), *facts)

    def to_json(self) -> dict[str, Any]:
        """Return the trial as plain Python types, without the values of single examples."""
        return {
            "number": self.number,
            "point": dict(self.point),
            "codec": str(self.codec),
            "outcome": self.outcome,
            "payload_bytes": self.payload_bytes,
            "stored_bytes": self.stored_bytes,
            "check": None if self.check is None else self.check.to_json(),
            "clean_metrics": None if self.clean is None else plain(dict(self.clean.metrics)),
            "error": self.error,
        }


@explains_keywords
@dataclass(frozen=True, eq=False, repr=False)
class SmallestSetting(Brief):
    """The smallest setting of a family of codecs at which the requirements hold, and how it was found.

    Attributes:
        family: The family of codecs, as text.
        requirements: The requirements, as text.
        best: The trial of the smallest setting that holds, or None if none does.
        trials: All trials, in order.
        model: The candidate at the best setting: the model itself, or what the repair made of it; None without one.
        gate: The check of the best setting and its candidate on fresh data, or None if there was no such data.
        search_digests: The digests of the examples judged on, for `shared_examples`.
        notes: Sentences that a reader must see beside the result.
    """

    family: str
    requirements: tuple[str, ...]
    best: SettingTrial | None
    trials: tuple[SettingTrial, ...]
    model: nn.Module | None
    gate: Check | None
    search_digests: frozenset[str]
    notes: tuple[str, ...]

    @property
    def codec(self) -> Codec | None:
        """The codec at the smallest setting that holds, or None."""
        return None if self.best is None else self.best.codec

    @property
    def check(self) -> Check | None:
        """The check of the smallest setting that holds, or None."""
        return None if self.best is None else self.best.check

    @property
    def outcome(self) -> Outcome:
        """The best outcome of all trials: "pass", or "inconclusive" if more data might show that a setting holds."""
        return min((trial.outcome for trial in self.trials), key=SEVERITY.index)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the model as plain Python types."""
        return {
            "family": self.family,
            "requirements": list(self.requirements),
            "outcome": self.outcome,
            "codec": None if self.codec is None else str(self.codec),
            "best_trial": None if self.best is None else self.best.number,
            "trials": [trial.to_json() for trial in self.trials],
            "gate": None if self.gate is None else self.gate.to_json(),
            "notes": list(self.notes),
            "search_digests": sorted(self.search_digests),
        }

    def __str__(self) -> str:
        first = f"no setting of {self.family} holds in {len(self.trials)} trials: {self.outcome}"
        if self.best is not None:
            size = f"{self.best.payload_bytes:.1f} bytes an example ({self.best.stored_bytes:.1f} with envelope)"
            first = f"smallest of {len(self.trials)} settings of {self.family}: {self.best.codec}, {size}"
        records = {trial.number: trial.as_trial() for trial in self.trials}
        lines = [
            first,
            *(f"  {requirement}" for requirement in self.requirements),
            trial_table(list(records.values()), None if self.best is None else records[self.best.number]),
            *([] if self.gate is None else [f"fresh data: {describe_check(self.gate)}"]),
            *(f"note: {note}" for note in self.notes),
        ]
        return "\n".join(lines)
