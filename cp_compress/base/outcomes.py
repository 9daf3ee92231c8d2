"""The outcomes of a check, from the best to the worst; nothing heavy is imported for them."""

from __future__ import annotations

from typing import Literal

Outcome = Literal["pass", "fail", "inconclusive", "error"]
SEVERITY: tuple[Outcome, ...] = ("pass", "inconclusive", "fail", "error")
