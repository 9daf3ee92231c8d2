"""Errors of the schema as their author can use them: what is wrong in the file, and what to write instead."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from cp_compress.base.arguments import did_you_mean
from cp_compress.base.error_reasons import shortened
from cp_compress.fidelity.judging.metric import explain_argument

_MOST_CHOICES = 6
_MOST_TOLD = 20  # an untrusted table may have any number of keys


def explanations(error: Any) -> Iterator[tuple[list[str | int], str]]:
    """Yield what a schema's error is about, and what it means: one for each unknown key of a table."""
    place = list(error.absolute_path)
    if error.validator != "additionalProperties":
        yield place, _explain(error)
        return
    from pytest_cp.specification.levels import bounds_of, levels

    where = _where(error)
    known = list(error.schema["properties"])
    level = levels().get(str(place[0])) if place else None
    for unknown in sorted(key for key in error.instance if key not in known)[:_MOST_TOLD]:
        bounds = [one for one in (f"min_{unknown}", f"max_{unknown}") if one in known]
        others = [] if level is None else [name for name in levels() if unknown in bounds_of(name)]
        meant = f"did you mean {bounds[0]}?" if bounds else did_you_mean(unknown, known)
        meant = f"it belongs to the table [{others[0]}]" if others else meant
        advice = meant or f"known keys of {where} are {', '.join(known)}"
        advice = (None if level is None else explain_argument(unknown, level.metrics)) or advice
        yield [*place, unknown], f"unknown key {shortened(unknown, 80)}; {advice}"


def _where(error: Any) -> str:
    return shortened(".".join(str(part) for part in error.absolute_path), 200) or "the file"


def _explain(error: Any) -> str:
    """Explain a schema error to the author of the file."""
    where = _where(error)
    if error.validator == "oneOf":
        names = [entry["required"][0] for entry in error.schema["oneOf"]]
        return f"{where} must have exactly one of {', '.join(names)}"
    if error.validator == "anyOf":
        limits = error.schema["anyOf"][0]
        low, high = limits.get("minimum", "-inf"), limits.get("maximum", "inf")
        rule = "must be a number" + ("" if (low, high) == ("-inf", "inf") else f" in [{low}, {high}]")
        if len(error.schema["anyOf"]) > 1:
            rule += ', or "noise", "noise + 0.01" or "noise - 0.01"'
        elif isinstance(error.instance, str) and not _is_number(error.instance):
            rule += "; this level has no noise, because equivalent references have equal sizes and equal data"
        return f"{where} = {shortened(repr(error.instance), 80)}: {rule}{_unit_told(error.instance, high)}"
    if error.validator in ("minimum", "maximum", "exclusiveMaximum", "exclusiveMinimum") and error.path:
        high = error.schema.get("maximum", error.schema.get("exclusiveMaximum"))
        told = f"must be {_limits(error.schema)}{_unit_told(error.instance, high)}"
        return f"{where} = {shortened(repr(error.instance), 80)}: {told}"
    if error.validator == "required":
        return _missing_told(error, where)
    if error.validator == "type" and not error.absolute_path:
        return "the file must hold tables"
    if error.validator == "type":
        return _type_told(error, where)
    if error.validator == "enum":
        choices = error.validator_value
        near = did_you_mean(error.instance, map(str, choices)) if isinstance(error.instance, str) else ""
        told = " or ".join(map(json.dumps, choices))
        if near and len(choices) > _MOST_CHOICES:
            return f"{where} = {shortened(repr(error.instance), 80)}: {near}"
        return f"{where} = {shortened(repr(error.instance), 80)}: must be {told}{near and f'; {near}'}"
    if error.validator in ("minItems", "minLength"):
        return f"{where} is empty"
    if error.validator == "const":
        return f"{where} = {shortened(repr(error.instance), 80)}: must be {error.schema['const']}"
    return f"{where}: {shortened(error.message, 300)}"


def _limits(schema: Any) -> str:
    """Return what numbers a schema allows."""
    if {"minimum", "maximum"} <= schema.keys():
        return f"a number from {schema['minimum']} to {schema['maximum']}"
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    return " and ".join(f"{word} {schema[key]}" for key, word in words.items() if key in schema)


_KINDS = {
    "array": "a list in brackets",
    "string": "a text in quotes",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "object": "a table",
}


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, str) and float(value) == float(value)
    except ValueError:
        return False


def _unit_told(value: Any, high: Any) -> str:
    """Return what a number in quotes or in percent should be, or an empty text."""
    if _is_number(value):
        return f"; write {value} without quotes"
    percent = re.fullmatch(r"\s*([\d.]+)\s*%\s*", value) if isinstance(value, str) else None
    decibel = re.fullmatch(r"\s*(-?[\d.]+)\s*dB\s*", value) if isinstance(value, str) else None
    if decibel is not None and _is_number(decibel[1]):
        return f"; write {decibel[1]} for {value}"
    if percent is not None and _is_number(percent[1]) and high == 1:  # 5 % more is 1.05 where a ratio is bounded
        return f"; write {float(percent[1]) / 100:g} for {value}"
    if high == 1 and isinstance(value, (int, float)) and not isinstance(value, bool) and 1 < value <= 100:
        return f"; {value:g} % would be {value / 100:g}"
    return ""


def _missing_told(error: Any, where: str) -> str:
    found = re.match(r"'(.*)' is a required property", error.message)  # each that is missing is an error of its own
    missing = found[1] if found else error.validator_value[0]
    if error.absolute_path:
        return f"{where} needs {missing}"
    forms = {"schema_version": "a line schema_version = 1, before all tables", "candidate": "a table [[candidate]]"}
    return f"the file needs {forms.get(missing, f'a table [{missing}]')}"


def _type_told(error: Any, where: str) -> str:
    """Explain a value of the wrong type, such as one table where there may be several."""
    place, value = list(error.absolute_path), error.instance
    wanted = error.validator_value if isinstance(error.validator_value, list) else [error.validator_value]
    if wanted == ["array"] and isinstance(value, dict) and len(place) == 1:
        return f"write [[{place[0]}]], in two pairs of brackets: there may be several"
    if wanted == ["object"] and isinstance(value, list) and value and isinstance(value[0], dict):
        return f"write [{place[0]}], in one pair of brackets: there is only one"
    told = " or ".join(str(_KINDS.get(str(kind), kind)) for kind in wanted)
    number = any(kind in ("integer", "number") for kind in wanted)
    return f"{where} = {shortened(repr(value), 80)}: must be {told}{_unit_told(value, None) if number else ''}"
