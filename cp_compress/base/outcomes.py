"""The possible outcomes of a check or a command; importing this module loads nothing heavy."""

from __future__ import annotations

from typing import Literal

Outcome = Literal["pass", "fail", "inconclusive", "error"]
SEVERITY: tuple[Outcome, ...] = ("pass", "inconclusive", "fail", "error")
"""The outcomes of a check, from the best to the worst."""

INTERRUPTED = 130
"""The exit code of a command that a person has interrupted."""

NOTHING_JUDGED = 6
"""The exit code of a run of pytest whose tests failed because checks could not be made, and none found a failure."""

COMPLETION_VARIABLE = "CP_COMPRESS_COMPLETION"
"""The environment variable that names the file in which a child process leaves its exit code when it has finished."""
