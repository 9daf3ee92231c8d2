"""The verdict of a whole session in one line, with the same wording in every report."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal, NamedTuple

from pytest_cp.report.document import shown_outcome

_TESTS_FAILED, _INTERRUPTED = 1, 2
_NONE = "Passed: no check was asserted"
_BAD = ("fail", "error", "inconclusive")
# kinds of gates that compared nothing, the worst first, and how a headline counts them
_MISSING = {
    "no check": "failed without a check",
    "not run": "did not run",
    "deselected": "deselected",
    "skipped": "skipped",
}


class Verdict(NamedTuple):
    """Whether all requirements hold, and the sentence to show.

    "noted": all that were asserted hold, but others do not, or some gates compared nothing.
    """

    kind: Literal["pass", "fail", "noted"]
    text: str


def session_verdict(document: dict[str, Any]) -> Verdict:
    """Return the verdict of a report; checks that are not asserted fail nothing, and an interrupted session failed."""
    status, missing = document["exit_status"], count_missing(document)
    if not document.get("finished", True):
        return Verdict("fail", "Did not finish: the process is still running, or ended by itself")
    also = f"; {missing}" if missing else ""
    if status == _INTERRUPTED:
        return Verdict("fail", f"Interrupted: the results are incomplete{also}")
    outcomes = [shown_outcome(record) for record in document["checks"] if record["asserted"]]
    others = [shown_outcome(record) for record in document["checks"] if not record["asserted"]]
    bad, bad_others = _counted(outcomes), _counted(others)
    if bad:
        return Verdict("fail", f"Not preserved: {bad}{also}")
    if status != 0 and _unchosen(document):
        return Verdict("fail", f"Failed: some gates compared nothing{also}")
    if status == _TESTS_FAILED:
        return Verdict("fail", f"Failed: other tests failed{also}")
    if status != 0:
        return Verdict("fail", f"Failed: pytest ended with exit status {status}{also}")
    waived = f", {outcomes.count('waived')} known deviations waived" if "waived" in outcomes else ""
    others_told = f"; not asserted: {bad_others}" if bad_others else ""
    if missing:
        gates, left = document.get("gates", 0), len(document["not_compared"])
        if not outcomes and gates <= left:
            return Verdict("noted", f"No gate was compared: {missing}{others_told}")
        held = f"{gates - left} of {gates} gates" if gates else f"{outcomes.count('pass')} checks hold"
        return Verdict("noted", f"Preserved: {held}{waived}; {missing}{others_told}")
    if not outcomes:
        return Verdict("noted", f"No check was asserted: {bad_others}") if bad_others else Verdict("pass", _NONE)
    if bad_others:
        held = f"Preserved: all {outcomes.count('pass')} asserted checks hold{waived}"
        return Verdict("noted", f"{held}{others_told}")
    return Verdict("pass", f"Preserved: all {outcomes.count('pass')} checks hold{waived}")


def with_verdict(document: dict[str, Any]) -> dict[str, Any]:
    """Return a report that says its verdict too, for programs that read it."""
    verdict = session_verdict(document)
    return document | {"verdict": {"kind": verdict.kind, "text": verdict.text}}


def count_missing(document: dict[str, Any]) -> str:
    """Return how many gates compared nothing, and how that came, such as "1 deselected, 2 skipped"; empty for none."""
    kinds = Counter(entry.get("kind") for entry in document["not_compared"])  # older reports do not say it
    return ", ".join(f"{kinds[kind]} {told}" for kind, told in _MISSING.items() if kinds[kind])


def _unchosen(document: dict[str, Any]) -> bool:
    """Tell whether a gate compared nothing though nobody left it out."""
    return any(entry.get("kind") != "deselected" for entry in document["not_compared"])


def _counted(outcomes: list[str]) -> str:
    return ", ".join(f"{outcomes.count(name)} {name}" for name in _BAD if name in outcomes)
