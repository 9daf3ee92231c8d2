"""Which candidate may ship: the smallest that passes at every level at which others were compared, or why none may."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pytest_cp.report.matrix import ORDER, Candidate, Matrix, build_matrices
from pytest_cp.report.verdict import count_missing

_INTERRUPTED = 2
_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_LISTED = 3
_LONGEST_REASON = 160


class Advice(NamedTuple):
    """Whether a candidate may ship, and the sentence to show; "noted" where something must be accepted first."""

    kind: Literal["pass", "fail", "noted"]
    text: str
    candidate: str | None = None


def advise(matrix: Matrix, document: Mapping[str, Any]) -> Advice:
    """Return which candidate of a matrix may ship, or why none may."""
    if not document.get("finished", True):
        return Advice("fail", "none may ship: the run did not finish")
    if document["exit_status"] == _INTERRUPTED:
        return Advice("fail", "none may ship: the run was interrupted")
    if not matrix.required:
        return Advice("noted", "none may ship: no check was asserted")
    complete = [one for one in matrix.candidates if one.known and not one.lacks]
    passed = [one for one in complete if one.outcome == "pass"]
    waived = [one for one in complete if one.outcome == "waived"]
    incomplete = [one for one in matrix.candidates if one.standing == "incomplete"]
    doubts = _doubts(matrix, document)
    if passed:
        chosen = _smallest(passed)
        told = f"may ship: {_chosen_text(chosen, passed, matrix)}{_not_asserted(chosen)}"
        smaller = _smaller(waived, chosen)
        told += f"; smaller, with waived deviations: {smaller}" if smaller else ""
        told += _no_choice(incomplete, chosen)
        return Advice("noted" if doubts else "pass", f"{told}{doubts}", chosen.name if chosen else None)
    if waived:
        chosen = _smallest(waived)
        told = _chosen_text(chosen, waived, matrix, f"hold, with waived deviations{_deviations(chosen)}")
        told += f"{_not_asserted(chosen)}{_no_choice(incomplete, chosen)}"
        return Advice("noted", f"may ship only with waivers: {told}{doubts}")
    return Advice("fail", f"none may ship: {_why_none(matrix)}{doubts}")


def with_candidates(document: dict[str, Any]) -> dict[str, Any]:
    """Return a report that says what became of each candidate by level, and which may ship, for programs."""
    candidates, advices = [], []
    for matrix in build_matrices(document):
        advice = advise(matrix, document)
        advices.append({"kind": advice.kind, "text": advice.text, "candidate": advice.candidate})
        candidates += [_plain(one, matrix) for one in matrix.candidates]
    return document | {"candidates": candidates, "advice": advices}


def _plain(candidate: Candidate, matrix: Matrix) -> dict[str, Any]:
    return {
        "name": candidate.name,
        "kind": "data" if matrix.stored else "model",
        "reference": matrix.reference,
        "outcome": candidate.outcome,
        "headroom": candidate.headroom,
        "levels": {
            level: {
                "outcome": cell.outcome,
                "asserted": cell.asserted,
                "headroom": cell.headroom,
                "decided_by": cell.told,
            }
            for level in matrix.levels
            for cell in [candidate.cells.get(level)]
            if cell is not None
        },
        "lacks": candidate.lacks,
        "bytes": candidate.cost.get("bytes"),
        "flops": candidate.cost.get("flops"),
        "latency_seconds": candidate.cost.get("latency"),
        "coverage": None if candidate.coverage is None else candidate.coverage["share"],
    }


def _in_words(count: int) -> str:
    """Return a count as a word, up to twelve."""
    return _WORDS[count] if count < len(_WORDS) else str(count)


def _smallest(candidates: Sequence[Candidate]) -> Candidate | None:
    """Return the candidate of the least bytes, the only one without sizes, or None where nobody knows."""
    sized = [one for one in candidates if "bytes" in one.cost]
    if sized:
        return min(sized, key=lambda one: (one.cost["bytes"], one.name))
    return candidates[0] if len(candidates) == 1 else None


def _chosen_text(chosen: Candidate | None, among: Sequence[Candidate], matrix: Matrix, verb: str = "pass") -> str:
    levels = _all_levels(matrix.required, verb, one=chosen is not None)
    if chosen is None:
        listed = ", ".join(one.name for one in among[:_LISTED])
        more = f" and {len(among) - _LISTED} more" if len(among) > _LISTED else ""
        return f"{listed}{more}, {levels}; which is the smallest is not known (a footprint check would tell)"
    size = f"{chosen.cost['bytes']:,.0f} {matrix.size_unit}, " if "bytes" in chosen.cost else ""
    unknown = sum("bytes" not in one.cost for one in among) if size else 0
    return f"{chosen.name}, {size}{levels}" + (f"; of {unknown} more that pass no size is known" if unknown else "")


def _all_levels(levels: Sequence[str], verb: str, *, one: bool) -> str:
    count = len(levels)
    if count == 1:
        first, _, rest = verb.partition(", ")
        told = f"{first}{'es' if first == 'pass' else 's'}" if one else first
        return f"{told} at {levels[0]}, the only level compared{f', {rest}' if rest else ''}"
    return f"{'both' if count == 2 else f'all {_in_words(count)}'} levels {verb}"


def _smaller(waived: Sequence[Candidate], chosen: Candidate | None) -> str:
    if chosen is None or "bytes" not in chosen.cost:
        return ""
    return ", ".join(one.name for one in waived if one.cost.get("bytes", chosen.cost["bytes"]) < chosen.cost["bytes"])


def _deviations(chosen: Candidate | None) -> str:
    """Return at which levels a candidate deviates, and what was found there."""
    cells = {} if chosen is None else chosen.cells
    told = [f"{level} ({_cut(cell.told)})" for level, cell in cells.items() if cell.outcome == "waived"]
    return f" at {', '.join(told)}" if told else ""


def _no_choice(incomplete: Sequence[Candidate], chosen: Candidate | None) -> str:
    """Return which candidates would be better if they had been compared everywhere, and what is lacking."""
    limit = None if chosen is None else chosen.cost.get("bytes")
    better = [one for one in incomplete if limit is None or one.cost.get("bytes", 0.0) < limit]
    if not better:
        return ""
    listed = ", ".join(f"{one.name} ({one.lacking})" for one in better[:_LISTED])
    more = f" and {len(better) - _LISTED} more" if len(better) > _LISTED else ""
    return f"; no choice{'' if limit is None else ', though smaller'}: {listed}{more}"


def _not_asserted(chosen: Candidate | None) -> str:
    """Return what looked at without being asserted does not pass."""
    if chosen is None:
        return ""
    bad = [
        f"{level} {cell.outcome}"
        for level, cell in chosen.cells.items()
        if not cell.asserted and cell.outcome != "pass"
    ]
    return f" (not asserted: {', '.join(bad)})" if bad else ""


def _doubts(matrix: Matrix, document: Mapping[str, Any]) -> str:
    """Return what else a reader must know: gates that compared nothing, unknown candidates, other failures."""
    own = {test for one in matrix.candidates for test in one.missing}
    left = [entry for entry in document["not_compared"] if entry["test"] not in own]
    told = f"; gates that compared nothing: {count_missing({'not_compared': left}) or len(left)}" if left else ""
    unknown = sum(not one.known and one.outcome in ORDER[2:] for one in matrix.candidates)
    told += f"; {unknown} check{'s' if unknown > 1 else ''} of no known candidate did not pass" if unknown else ""
    bad = any(one.outcome in ORDER[2:] for one in matrix.candidates)
    if document["exit_status"] not in (0, None) and not bad and not document["not_compared"]:
        told += "; but the session failed"
    return told


def _why_none(matrix: Matrix) -> str:
    """Return how the candidates end, and what the one that comes nearest lacks."""
    known = [one for one in matrix.candidates if one.known]
    if not known:
        return "no candidate is known"
    counts = Counter(one.standing for one in known)
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    nearest = min(known, key=lambda one: (_misses(one), -(one.headroom or 0.0), one.name))
    bad = [
        f"{level} ({_cut(cell.told)})"
        for level, cell in nearest.cells.items()
        if cell.asserted and cell.outcome not in ("pass", "waived")
    ]
    parts = [f"does not hold at {', '.join(bad)}"] if bad else []
    parts += [f"was {nearest.lacking}"] if nearest.unseen else []
    parts += ["has gates that did not compare it"] if nearest.missing and not nearest.unseen else []
    whose = "it" if len(known) == 1 else f"nearest is {nearest.name}, which"
    head = f"{known[0].name}: {told}" if len(known) == 1 else f"of {_in_words(len(known))} candidates {told}"
    return f"{head}; {whose} {' and '.join(parts)}"


def _misses(candidate: Candidate) -> int:
    bad = sum(cell.asserted and cell.outcome not in ("pass", "waived") for cell in candidate.cells.values())
    return bad + len(candidate.lacks)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 1].rsplit(" ", 1)[0] + " …"
