"""The verdict of a whole session in one line, which every report tells in the same words."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from pytest_cp.report.document import shown_outcome

_INTERRUPTED = 2
_BAD = ("fail", "error", "inconclusive")


class Verdict(NamedTuple):
    """Whether all that was required holds, and what to say about it."""

    kind: Literal["pass", "fail"]
    text: str


def session_verdict(document: dict[str, Any]) -> Verdict:
    """Return the verdict of a report; checks that are not asserted fail nothing, and an interrupted session failed."""
    status = document["exit_status"]
    if status == _INTERRUPTED:
        return Verdict("fail", "Interrupted: what follows is what was found until then")
    outcomes = [shown_outcome(record) for record in document["checks"] if record["asserted"]]
    bad = ", ".join(f"{outcomes.count(name)} {name}" for name in _BAD if name in outcomes)
    if bad:
        return Verdict("fail", f"Not preserved: {bad}")
    if status != 0:
        return Verdict("fail", "Failed: see what was not compared")
    if not outcomes:
        return Verdict("pass", "Passed: no check was asserted")
    waived = f", {outcomes.count('waived')} known deviations waived" if "waived" in outcomes else ""
    return Verdict("pass", f"Preserved: all {outcomes.count('pass')} checks hold{waived}")
