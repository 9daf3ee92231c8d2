"""What does one TOML file require, of which candidates, on which data, without test code?"""

from __future__ import annotations

from pytest_cp.specification.errors import SpecificationError
from pytest_cp.specification.reading import read_specification, read_specified_waivers

__all__ = ["SpecificationError", "read_specification", "read_specified_waivers"]
