"""Baselines: checks saved from an earlier run, that later runs may not fall behind."""

from __future__ import annotations

from pytest_cp.baselines.entries import entry_name
from pytest_cp.baselines.session import Baselines
from pytest_cp.baselines.tolerances import Policy, Tolerances

__all__ = ["Baselines", "Policy", "Tolerances", "entry_name"]
