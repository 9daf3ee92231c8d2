"""What a baseline holds of a check: the required metrics, and what they were measured on and with."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

from pytest_cp.checks.recorder import Record

ENVIRONMENT_POLICIES = ("note", "fail", "ignore")
_PACKAGES = ("pytest-cp", "torch", "numpy")


def entry_name(record: Record) -> str:
    """Return the name of a check within its module: test, assertion, required metrics and plain options.

    >>> record = {"test": "test_a.py::test_b", "assertion": "assert_c", "ordinal": 1, "options": {"layer": "fc"}}
    >>> entry_name({**record, "requirements": [{"metric": "cka"}]})
    'test_b assert_c(cka; layer=fc)'
    """
    test = record["test"].partition("::")[2]
    metrics = ", ".join(sorted(result["metric"] for result in record["requirements"]))
    options = [f"{name}={_text(value)}" for name, value in record["options"].items() if not isinstance(value, dict)]
    inner = "; ".join([metrics, ", ".join(options)] if options else [metrics])
    ordinal = f" #{record['ordinal']}" if record["ordinal"] > 1 else ""
    return f"{test} {record['assertion']}({inner}){ordinal}"


def checked_test(name: str) -> str:
    """Return the test, within its module, that makes the check of this name.

    >>> checked_test("test_b assert_c(cka; layer=fc)")
    'test_b'
    """
    return name.rpartition(" assert_")[0]


def _text(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def make_entry(record: Record) -> Record:
    """Return what is saved of a check."""
    return {
        "metrics": {
            result["metric"]: {
                "value": result["value"],
                "n": result["count"],
                "interval": result["interval"],
                "direction": result["direction"],
            }
            for result in record["requirements"]
        },
        "measured_on": measured_on(record),
        "environment": environment(record),
    }


def measured_on(record: Record) -> dict[str, Any]:
    """Return what a baseline is bound to: reference, data and directions by content, the candidate by its scheme.

    Where answers depend on who else is in the batch, it is bound to the batch size too.
    """
    subjects = record["subjects"]
    fixed = {name: subjects[name]["digest"] for name in ("reference", "data", "original") if name in subjects}
    named = ("candidate", "compressed_data", "decoded")
    fixed |= {name: subjects[name]["name"] for name in named if name in subjects}
    if "directions_digest" in record["details"]:
        fixed["directions"] = record["details"]["directions_digest"]
    depends = record["details"].get("batch_dependence", {})
    if any((depends.get(who) or {}).get("on_neighbours") for who in ("candidate", "reference")):
        fixed["batch_size"] = depends["batch_size"]
    options = {name: value["digest"] for name, value in record["options"].items() if isinstance(value, dict)}
    return fixed | {"seed": record["seed"]} | ({"options": options} if options else {})


def environment(record: Record) -> dict[str, str]:
    """Return the device and the versions that a check was made with."""
    versions = {package: importlib.metadata.version(package) for package in _PACKAGES}
    return {"device": record["device"], "machine": platform.machine(), "python": platform.python_version(), **versions}


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the sorted names under which two mappings differ."""
    return sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
