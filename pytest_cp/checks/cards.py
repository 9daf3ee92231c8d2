"""A check that a notebook shows as the report does."""

from __future__ import annotations

from dataclasses import dataclass, field

from cp_compress.base.lazy import LazyModule
from cp_compress.fidelity.judging.judgement import Check
from pytest_cp.checks.recorder import Record

_report = LazyModule("pytest_cp.report.card")  # it lies above, since it reads records


@dataclass(frozen=True, repr=False)
class RecordedCheck(Check):
    """A check with its record, which names subjects and what explains the outcome.

    Attributes:
        record: The record, as reports read it.
    """

    record: Record = field(default_factory=dict, compare=False)

    def _repr_html_(self) -> str:
        """Return the card of the report's page, for a notebook."""
        shown: str = _report.render_card(self.record)
        return shown
