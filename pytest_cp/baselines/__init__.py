"""What did an earlier run find, and is this one no worse?"""

from __future__ import annotations

from pytest_cp.baselines.entries import entry_name
from pytest_cp.baselines.session import Baselines
from pytest_cp.baselines.tolerances import Policy, Tolerances
from pytest_cp.baselines.verdicts import brief_problem

__all__ = ["Baselines", "Policy", "Tolerances", "brief_problem", "entry_name"]
