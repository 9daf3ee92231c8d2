"""The tables of a specification that require something: one a level, with the arguments of its assertion."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

from cp_compress.fidelity.judging.judgement import Check
from cp_compress.fidelity.judging.measurement import METRICS
from pytest_cp.assertions.attributions import assert_attribution_iou
from pytest_cp.assertions.boundaries import assert_boundary_distance
from pytest_cp.assertions.concepts import assert_concepts_preserved
from pytest_cp.assertions.divergence import assert_no_divergence
from pytest_cp.assertions.embeddings import assert_embeddings_preserved
from pytest_cp.assertions.footprint import assert_footprint
from pytest_cp.assertions.pointing import assert_pointing
from pytest_cp.assertions.predictions import assert_preserved_predictions
from pytest_cp.assertions.reconstruction import assert_reconstruction
from pytest_cp.assertions.robustness import assert_robustness
from pytest_cp.checks.call_options import SUBJECTS, is_requirement

LEVELS: Mapping[str, Callable[..., Check]] = {
    "predictions": assert_preserved_predictions,
    "embeddings": assert_embeddings_preserved,
    "attributions": assert_attribution_iou,
    "pointing": assert_pointing,
    "concepts": assert_concepts_preserved,
    "boundaries": assert_boundary_distance,
    "robustness": assert_robustness,
    "divergence": assert_no_divergence,
    "footprint": assert_footprint,
    "reconstruction": assert_reconstruction,
}
"""The tables that a specification may have, and the assertion behind each."""

MADE_BY_FACTORY = frozenset(
    {
        "bounds",
        "class_distance",
        "concepts",
        "directions",
        "method",
        "must_look",
        "must_not_look",
        "random_sets",
        "weights",
    }
)
"""Arguments that a text such as "package.module:factory" makes, where they are no plain value."""

NOISE = r"^noise( [+-] [0-9]*\.?[0-9]+)?$"
"""A bound that the noise between equivalent references gives, with or without some slack."""

WITHOUT_NOISE = frozenset({"footprint", "reconstruction"})
"""Levels that compare sizes, or data with itself: references that are equivalent say nothing of what these may be."""

_RANGES = {name: limits for metrics in METRICS.values() for name, limits in metrics.items()}
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


def arguments_of(level: str) -> list[str]:
    """Return the arguments that the table of a level may give."""
    return [name for name in inspect.signature(LEVELS[level]).parameters if name not in SUBJECTS]


def level_schema(level: str) -> dict[str, Any]:
    """Return the JSON Schema of the table of a level, made from its assertion's signature."""
    hints = get_type_hints(LEVELS[level])
    properties = {name: _argument_schema(level, name, hints[name]) for name in arguments_of(level)}
    properties["candidates"] = {
        "type": "array",
        "items": {"type": "string"},
        "minItems": 1,
        "description": "names of the candidates that the table is about; without it, all",
    }
    required = [
        name
        for name, parameter in inspect.signature(LEVELS[level]).parameters.items()
        if name in properties and parameter.default is parameter.empty
    ]
    sentence = inspect.getdoc(LEVELS[level]) or ""
    return {
        "type": "object",
        "description": sentence.partition("\n")[0],
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def range_of(name: str) -> tuple[float, float]:
    """Return the smallest and largest value of the metric that an argument such as `min_agreement` bounds."""
    return _RANGES[name[4:]] if name[4:] in _RANGES else _RANGES[name]


def slack_of(text: str) -> float:
    """Return what a bound such as "noise - 0.01" adds to the noise.

    >>> slack_of("noise - 0.01"), slack_of("noise")
    (-0.01, 0.0)
    """
    return float(text.removeprefix("noise").replace(" ", "") or 0)


def _argument_schema(level: str, name: str, hint: Any) -> dict[str, Any]:
    if name == "slices":
        return {"type": "object", "minProperties": 1, "additionalProperties": _SLICE}
    if name == "confidence":
        return {"type": "number", "minimum": 0.5, "exclusiveMaximum": 1}
    if name == "min_iou_quantile":
        return {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}, "minItems": 2, "maxItems": 2}
    if is_requirement(name):
        noise = [] if level in WITHOUT_NOISE else [{"type": "string", "pattern": NOISE}]
        return {"anyOf": [_bound_schema(name), *noise]}
    return {} if name in MADE_BY_FACTORY else _type_schema(hint)


def _type_schema(hint: Any) -> dict[str, Any]:
    """Return the schema of plain values and sequences of them, one that allows everything where there are others."""
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


def _bound_schema(name: str) -> dict[str, Any]:
    low, high = range_of(name)
    limits = {"minimum": low, "maximum": high}
    return {"type": "number", **{key: limit for key, limit in limits.items() if abs(limit) != float("inf")}}
