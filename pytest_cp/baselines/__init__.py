"""Baselines: checks saved from an earlier run, which later runs must not fall below."""

from __future__ import annotations

from pytest_cp.baselines.entries import entry_name
from pytest_cp.baselines.session import Baselines
from pytest_cp.baselines.tolerances import Policy, Tolerances

__all__ = ["Baselines", "Policy", "Tolerances", "entry_name"]
