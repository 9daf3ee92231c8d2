"""The verdict of a whole session in one line, with the same wording in every report."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from pytest_cp.report.document import shown_outcome

_TESTS_FAILED, _INTERRUPTED = 1, 2
_NONE = "Passed: no check was asserted"
_BAD = ("fail", "error", "inconclusive")


class Verdict(NamedTuple):
    """Whether all requirements hold ("noted": except in checks that are not asserted), and the sentence to show."""

    kind: Literal["pass", "fail", "noted"]
    text: str


def session_verdict(document: dict[str, Any]) -> Verdict:
    """Return the verdict of a report; checks that are not asserted fail nothing, and an interrupted session failed."""
    status = document["exit_status"]
    if status == _INTERRUPTED:
        return Verdict("fail", "Interrupted: the results are incomplete")
    outcomes = [shown_outcome(record) for record in document["checks"] if record["asserted"]]
    others = [shown_outcome(record) for record in document["checks"] if not record["asserted"]]
    bad, bad_others = _counted(outcomes), _counted(others)
    if bad:
        return Verdict("fail", f"Not preserved: {bad}")
    if status != 0 and document["not_compared"]:
        return Verdict("fail", "Failed: some gates compared nothing")
    if status == _TESTS_FAILED:
        return Verdict("fail", "Failed: other tests failed")
    if status != 0:
        return Verdict("fail", f"Failed: pytest ended with exit status {status}")
    if not outcomes:
        return Verdict("noted", f"No check was asserted: {bad_others}") if bad_others else Verdict("pass", _NONE)
    waived = f", {outcomes.count('waived')} known deviations waived" if "waived" in outcomes else ""
    if bad_others:
        held = f"Preserved: all {outcomes.count('pass')} asserted checks hold{waived}"
        return Verdict("noted", f"{held}; not asserted: {bad_others}")
    return Verdict("pass", f"Preserved: all {outcomes.count('pass')} checks hold{waived}")


def _counted(outcomes: list[str]) -> str:
    return ", ".join(f"{outcomes.count(name)} {name}" for name in _BAD if name in outcomes)
