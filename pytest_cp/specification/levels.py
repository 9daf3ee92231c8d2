"""The tables of a specification that require something: one a level, with the arguments of its assertion."""

from __future__ import annotations

import importlib
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from cp_compress.fidelity.comparisons import COMPARISONS, Comparison, known_comparisons
from cp_compress.fidelity.judging.metric import Metric, bound_arguments
from pytest_cp.assertions import ASSERTIONS

if TYPE_CHECKING:
    from cp_compress.fidelity.judging.judgement import Check


def levels() -> Mapping[str, Comparison]:
    """Return the comparisons that a specification may have tables of, those that users have added included."""
    return known_comparisons()


def assertion_of(level: str) -> Callable[..., Check]:
    """Return the assertion behind the table of a level."""
    if level not in COMPARISONS:
        from pytest_cp.assertions.comparison import as_assertion

        return as_assertion(levels()[level])
    module = importlib.import_module(f"pytest_cp.assertions.{level}")
    found: Callable[..., Check] = getattr(module, f"assert_{ASSERTIONS[level]}")
    return found


NOISE = r"^noise( [+-] [0-9]*\.?[0-9]+)?$"
"""A bound that the noise between equivalent references gives, with or without some slack."""

_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}
_SLICE = {
    "type": ["object", "string", "array"],
    "description": "a condition on a column of the metadata, a factory of a mask or indices, or indices",
    "properties": {
        "column": {"type": "string"},
        "equals": {"type": ["string", "number", "boolean"]},
        "one_of": {"type": "array", "minItems": 1},
        "at_least": {"type": "number"},
        "at_most": {"type": "number"},
    },
    "required": ["column"],
    "minProperties": 2,
    "additionalProperties": False,
}

_CLUSTERS = {
    "type": ["string", "array"],
    "items": {"type": ["integer", "string"]},
    "minItems": 1,
    "minLength": 1,
    "description": "a column of the metadata, a factory, or one entry an example: equal within a cluster",
}

OUTPUT_SCHEMA = {
    "type": ["string", "integer"],
    "minLength": 1,
    "description": "the part of what models give that is compared: a name, the place in a tuple, or a factory of a "
    "function of the output",
}


_COUNT = {"minimum": 1}
_LIMITS: Mapping[str, dict[str, Any]] = {
    "examples": _COUNT,
    "neighbors": _COUNT,
    "top_k": _COUNT,
    "min_class_examples": _COUNT,
    "queries": _COUNT,
    "k": _COUNT,
    "max_new_tokens": _COUNT,
    "batch_size": _COUNT,
    "workers": {"minimum": 0},
    "turns": {"minimum": 3},
    "min_class_objects": _COUNT,
    "tie_margin": {"minimum": 0},
    "score_threshold": {"minimum": 0, "maximum": 1},
    "iou_threshold": {"exclusiveMinimum": 0, "maximum": 1},
    "restarts": {"minimum": 0},
    "epsilon": {"exclusiveMinimum": 0},
    "max_distance": {"exclusiveMinimum": 0},
    "top_fraction": {"exclusiveMinimum": 0, "maximum": 1},
    "tolerance": {"exclusiveMinimum": 0, "exclusiveMaximum": 1},
    "severities": {"items": {"type": "integer", "minimum": 1, "maximum": 5}, "minItems": 1},
    "norm": {"enum": ["linf", "l2"]},
    "lattice": {"enum": ["uint8"]},
    "guide": {"enum": ["gradient", "examples"]},
    "pool": {"enum": ["mean", "flatten"]},
}
_OF_LEVEL: Mapping[tuple[str, str], dict[str, Any]] = {("outputs", "tolerance"): {"minimum": 0}}
"""What the options of this package's comparisons may be, so that a mistake is told before anything heavy is loaded."""


def arguments_of(level: str) -> list[str]:
    """Return the arguments that the table of a level may give."""
    from pytest_cp.checks.call_options import SUBJECTS

    return [name for name in inspect.signature(assertion_of(level)).parameters if name not in SUBJECTS]


def bounds_of(level: str) -> Mapping[str, Metric]:
    """Return the arguments of a level's table that are bounds, and the metric of each."""
    return bound_arguments(levels()[level].metrics)


def reads_data_of_candidate(level: str) -> bool:
    """Tell whether a level's assertion takes data that is the candidate's own, such as data that a codec has stored.

    Only sizes are those of the models alone; nothing heavy is loaded for the answer.
    """
    return levels()[level].kind != "size"


def has_noise(level: str) -> bool:
    """Tell whether equivalent references differ at a level: they say nothing of what sizes and stored data may be."""
    return levels()[level].kind in ("behaviour", "streamed")


def level_schema(level: str) -> dict[str, Any]:
    """Return the JSON Schema of the table of a level, made from its assertion's signature."""
    assertion = assertion_of(level)
    hints = _hints(level)
    properties = {name: _argument_schema(level, name, hints.get(name, Any)) for name in arguments_of(level)}
    properties["candidates"] = {
        "type": "array",
        "items": {"type": "string"},
        "minItems": 1,
        "description": "names of the candidates that the table is about; without it, all",
    }
    required = [
        name
        for name, parameter in inspect.signature(assertion).parameters.items()
        if name in properties and parameter.default is parameter.empty
    ]
    sentence = inspect.getdoc(assertion) or ""
    return {
        "type": "object",
        "description": sentence.partition("\n")[0],
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def slack_of(text: str) -> float:
    """Return what a bound such as "noise - 0.01" adds to the noise.

    >>> slack_of("noise - 0.01"), slack_of("noise")
    (-0.01, 0.0)
    """
    return float(text.removeprefix("noise").replace(" ", "") or 0)


def _hints(level: str) -> dict[str, Any]:
    hints = get_type_hints(assertion_of(level))
    if level not in COMPARISONS:
        try:
            hints |= get_type_hints(levels()[level].compare)
        except Exception:  # names that are there for type checkers only: then everything is allowed
            return hints
    return hints


def _argument_schema(level: str, name: str, hint: Any) -> dict[str, Any]:
    from pytest_cp.checks.call_options import DEPLOYED, OUTPUT

    if name == "slices":
        return {"type": "object", "minProperties": 1, "additionalProperties": _SLICE}
    if name == "family":
        return {"enum": ["candidates"], "description": "the confidence is one of all candidates together"}
    if name == "clusters":
        return _CLUSTERS
    if name == "confidence":
        return {"type": "number", "minimum": 0.5, "exclusiveMaximum": 1}
    if name == DEPLOYED:
        return {"type": "integer", "minimum": 1}
    if name == OUTPUT:
        return OUTPUT_SCHEMA
    metric = bounds_of(level).get(name)
    if metric is not None:
        return _bound_schema(metric, noise=has_noise(level))
    if name in levels()[level].made:
        return {}
    if level not in COMPARISONS:  # a user's own options may be anything
        return _type_schema(hint)
    if name == "corruptions":
        return _corruptions_schema()
    return _type_schema(hint) | limits_of(level, name)


def limits_of(level: str, name: str) -> dict[str, Any]:
    """Return what an option of one of this package's comparisons may be, beyond its type."""
    return _OF_LEVEL.get((level, name)) or _LIMITS.get(name) or {}


def _corruptions_schema() -> dict[str, Any]:
    from cp_compress.data import CORRUPTION_NAMES

    names = list(CORRUPTION_NAMES)
    alone = {"if": {"type": "string"}, "then": {"enum": ["all", *names]}}
    return {"type": ["array", "string"], "items": {"enum": names}, "minItems": 1, **alone}


def _type_schema(hint: Any) -> dict[str, Any]:
    """Return the schema of plain values and sequences of them, one that allows everything where there are others."""
    if get_origin(hint) is Literal:
        return {"enum": list(get_args(hint))}
    union = isinstance(hint, types.UnionType) or get_origin(hint) is Union
    schemas: list[dict[str, Any]] = []
    for part in get_args(hint) if union else (hint,):
        if part is type(None):
            continue
        if get_origin(part) is Sequence:
            schemas.append({"type": "array", "items": _type_schema(get_args(part)[0])})
        elif part in _TYPES:
            schemas.append({"type": _TYPES[part]})
        else:
            return {}
    found = sorted({schema["type"] for schema in schemas})
    # "items" says nothing of a value that is no array
    items = next(({"items": schema["items"]} for schema in schemas if "items" in schema), {})
    return {"type": found if len(found) > 1 else found[0], **items}


def _bound_schema(metric: Metric, *, noise: bool) -> dict[str, Any]:
    limits = {"minimum": metric.low, "maximum": metric.high}
    number = {"type": "number", **{key: limit for key, limit in limits.items() if abs(limit) != float("inf")}}
    if metric.leveled:  # the level of a quantile, and its bound
        share = {"type": "number", "minimum": 0, "maximum": 1}
        return {"type": "array", "prefixItems": [share, number], "minItems": 2, "maxItems": 2}
    return {"anyOf": [number, {"type": "string", "pattern": NOISE}] if noise else [number]}
