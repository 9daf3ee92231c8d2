"""A check compared with its baseline: ok, regressed, improved, missing or stale."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

from cp_compress.base.numbers import number
from pytest_cp.baselines.entries import differences, entry_name, environment, measured_on
from pytest_cp.baselines.tolerances import Policy
from pytest_cp.checks.recorder import Record

_UPDATE = "--cp-baseline=update"
_ROUNDING = 8 * sys.float_info.epsilon
_SEVERITY = ("ok", "improved", "regressed", "stale", "missing")


def find_unbound(record: Record, path: Path) -> Record | None:
    """Return the verdict of a check whose reference cannot be identified, so that it cannot have a baseline."""
    reference = record["subjects"].get("reference")
    if reference is None or reference["digest"] is not None:
        return None
    problem = (
        f"the reference {reference['name']} cannot have a baseline, because its content cannot be identified: "
        "give it an attribute content_digest, a string that changes when the model changes, such as its file's digest"
    )
    return _verdict(path) | {"verdict": "stale", "stale": ["reference"], "problems": [problem]}


def _verdict(path: Path) -> Record:
    return {"file": str(path), "metrics": {}, "stale": [], "notes": [], "problems": []}


def find_verdict(record: Record, entry: Record | None, path: Path, policy: Policy, environments: str) -> Record:
    """Return a check's verdict, what it rests on, and the sentences for which the check fails, as plain JSON.

    `environments` is "note", "fail" or "ignore": what follows when device or versions are not those of the baseline.
    """
    verdict = _verdict(path)
    if entry is None:
        name = entry_name(record)
        verdict["problems"] = [f"no baseline in {path} for {name}; add it with --cp-baseline=new"]
        return verdict | {"verdict": "missing"}
    stale = differences(entry["measured_on"], measured_on(record))
    moved = _moved(entry["environment"], environment(record))
    if environments == "fail":
        stale += moved
    elif environments == "note" and moved:
        verdict["notes"] = [f"the environment changed since the baseline was saved: {', '.join(moved)}"]
    stale += [name for name in _required(record) if name not in entry["metrics"]]
    stale += [
        f"direction of {result['metric']}"
        for result in record["requirements"]
        if entry["metrics"].get(result["metric"], result)["direction"] != result["direction"]
    ]
    if stale:
        verdict["stale"] = stale
        told = [_told(name, entry["measured_on"], measured_on(record)) for name in stale]
        changed = f"the baseline is stale, since these changed: {', '.join(told)}"
        verdict["problems"] = [f"{changed}; accept the change with {_UPDATE}"]
        return verdict | {"verdict": "stale"}
    compared = [_compare(result, entry["metrics"][result["metric"]], policy) for result in record["requirements"]]
    verdict["metrics"] = {
        result["metric"]: found for result, found in zip(record["requirements"], compared, strict=True)
    }
    for metric, found in verdict["metrics"].items():
        text = _sentence(metric, found)
        if found["verdict"] == "regressed" or (found["verdict"] == "improved" and policy.ratchet):
            verdict["problems"].append(text)
        elif found["verdict"] == "improved":
            verdict["notes"].append(text)
        if _swallows(metric, found):
            verdict["notes"].append(f"the tolerance {found['tolerance']:g} of {metric} lets half of all values pass")
    worst = max((found["verdict"] for found in compared), key=_SEVERITY.index)
    return verdict | {"verdict": worst}


def brief_problem(record: Record) -> str:
    """Return in a few words why a check fails by its baseline; empty where it does not.

    >>> baseline = {"verdict": "stale", "stale": ["seed"], "metrics": {}}
    >>> brief_problem({"baseline": baseline, "baseline_problems": ["…"], "subjects": {}})
    'baseline: other seed'
    """
    found = record["baseline"]
    if found is None or not record["baseline_problems"]:
        return ""
    if found["verdict"] == "missing":
        return "baseline: none saved"
    if found["verdict"] == "stale":
        if record["subjects"].get("reference", {}).get("digest", "") is None:
            return "baseline: reference without a digest"
        return f"baseline: {', '.join(map(_brief, found['stale'])) or 'stale'}"
    told = [
        f"{metric} {word} ({number(one['then'], one['now'])} → {number(one['now'], one['then'])})"
        for verdict, word in (("regressed", "worse"), ("improved", "better"))
        for metric, one in found["metrics"].items()
        if one["verdict"] == verdict
    ]
    return f"baseline: {', '.join(told)}"


def _brief(changed: str) -> str:
    from cp_compress.fidelity.judging.metrics import known_metric

    if known_metric(changed) is not None:
        return f"{changed} not saved"
    return changed if changed.startswith("direction of") else f"other {changed.replace('_', ' ')}"


def _required(record: Record) -> list[str]:
    return [result["metric"] for result in record["requirements"]]


def _told(name: str, then: dict[str, Any], now: dict[str, Any]) -> str:
    if name != "batch_size":
        return name
    sizes = [found.get(name, "not told") for found in (then, now)]
    return f"batch_size ({sizes[0]}, now {sizes[1]}; answers depend on the batch)"


def _moved(then: dict[str, str], now: dict[str, str]) -> list[str]:
    return [f"{name} ({then.get(name)}, now {now.get(name)})" for name in differences(then, now)]


def _compare(result: Record, saved: dict[str, Any], policy: Policy) -> Record:
    then, now = float(saved["value"]), float(result["value"])
    tolerance = policy.tolerances.of(result["metric"], then)
    worse = 0.0 if then == now else (then - now if result["direction"] == "min" else now - then)
    # a difference of two decimals is rarely what it is on paper
    rounding = _ROUNDING * max(abs(then), abs(now)) if math.isfinite(worse) else 0.0
    outcome = "ok" if abs(worse) <= tolerance + rounding else "improved" if worse < 0 else "regressed"
    if math.isnan(worse):
        outcome = "regressed"
    return {
        "then": saved["value"],
        "now": result["value"],
        "direction": result["direction"],
        "tolerance": tolerance,
        "verdict": outcome,
    }


def _swallows(metric: str, found: Record) -> bool:
    """Tell whether a tolerance is so large that hardly any value would be a regression."""
    from cp_compress.fidelity.judging.metrics import known_metric

    known = known_metric(metric)
    size = math.inf if known is None else known.high - known.low
    if math.isinf(size):  # of a ratio or a level in dB; a distance near zero may have a tolerance beyond its value
        size = abs(float(found["then"])) if found["direction"] == "min" else math.inf
    return bool(0 < size / 2 <= found["tolerance"])


def _sentence(metric: str, found: Record) -> str:
    then, now, tolerance = float(found["then"]), float(found["now"]), found["tolerance"]
    shown = number(now, then, digits=6)
    beyond = f"than its baseline {number(then, now, digits=6)} by more than the tolerance {tolerance:g}"
    if found["verdict"] == "regressed":
        return f"{metric} = {shown} is worse {beyond}"
    return f"{metric} = {shown} is better {beyond}; save it with {_UPDATE}"
