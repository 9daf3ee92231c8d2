"""How much worse than its baseline a metric may be: absolutely or relatively, for all metrics or for one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest


@dataclass(frozen=True)
class Tolerance:
    """An amount in the metric's own unit, or a share of the saved value's size."""

    amount: float = 0.0
    relative: bool = False

    def of(self, saved: float) -> float:
        """Return the tolerance around a saved value, in the metric's own unit."""
        return self.amount * abs(saved) if self.relative and math.isfinite(saved) else self.amount

    @classmethod
    def parse(cls, value: Any) -> Tolerance:
        """Read 0.01, "0.01" (absolute) or "2%" (relative); raises ValueError for anything else."""
        text = str(value).strip()
        relative = text.endswith("%")
        try:
            amount = float(text.removesuffix("%"))
        except ValueError:
            amount = -1.0
        if isinstance(value, bool) or not 0 <= amount < math.inf:
            raise ValueError(f'{value!r}: must be a number of 0 or more such as 0.01, or a percentage such as "2%"')
        return cls(amount / 100 if relative else amount, relative)

    def __str__(self) -> str:
        return f"{self.amount * 100:g}%" if self.relative else f"{self.amount:g}"


@dataclass(frozen=True)
class Tolerances:
    """A tolerance for every metric, and others for some."""

    default: Tolerance = Tolerance()
    by_metric: Mapping[str, Tolerance] = field(default_factory=dict)

    def of(self, metric: str, saved: float) -> float:
        """Return the tolerance of a metric around its saved value."""
        return self.by_metric.get(metric, self.default).of(saved)

    @classmethod
    def parse(cls, value: Any, base: Tolerances | None = None) -> Tolerances:
        """Read one tolerance, or a mapping from metrics to tolerances; what it does not name stays as in `base`.

        Raises ValueError for an invalid tolerance and for an unknown metric.
        """
        start = base if base is not None else cls()
        if not isinstance(value, Mapping):
            return cls(Tolerance.parse(value), {})
        named = {_known_metric(str(name)): Tolerance.parse(entry) for name, entry in value.items()}
        return cls(start.default, {**start.by_metric, **named})

    @classmethod
    def parse_lines(cls, text: str) -> Tolerances:
        """Read the ini key: a line for all metrics ("0.001"), and lines for single ones ("psnr 2%")."""
        found = cls()
        for line in filter(None, map(str.strip, text.splitlines())):
            words = line.replace("=", " ").split()
            if len(words) > 2:
                raise ValueError(f'{line!r}: must be a tolerance, or a metric and its tolerance, such as "psnr 2%"')
            if len(words) == 1:
                found = cls(Tolerance.parse(words[0]), found.by_metric)
            else:
                found = cls.parse({words[0]: words[1]}, found)
        return found


@dataclass(frozen=True)
class Policy:
    """How a test's checks are compared with baselines: tolerances, and whether improvements must be saved."""

    tolerances: Tolerances = Tolerances()
    ratchet: bool = False


def _known_metric(name: str) -> str:
    from cp_compress.base.errors import InvalidArgumentError
    from cp_compress.fidelity.judging.metrics import find_comparison

    try:
        find_comparison(name)
    except InvalidArgumentError as error:
        raise ValueError(str(error)) from error
    return name


def baseline_tolerances(config: pytest.Config) -> Tolerances:
    """Return how much worse than their baselines metrics may be."""
    try:
        return Tolerances.parse_lines(config.getini("cp_baseline_tolerance"))
    except ValueError as error:
        raise pytest.UsageError(f"cp_baseline_tolerance = {error}") from error
