"""Gates without test code: one TOML file names the candidates, the data and the requirements."""

from __future__ import annotations

from pytest_cp.specification.errors import SpecificationError
from pytest_cp.specification.reading import read_specification, read_specified_waivers

__all__ = ["SpecificationError", "read_specification", "read_specified_waivers"]
