"""The JSON Schema of a specification, for editors and for the checks before anything runs."""

from __future__ import annotations

import importlib.resources
import json
from typing import Any

from cp_compress.artifacts.served.settings import ASKS
from cp_compress.artifacts.transformers.names import POOLINGS, TASKS
from cp_compress.base.extensions import added
from pytest_cp.specification.errors import SpecificationError
from pytest_cp.specification.kinds import OWN_MODELS
from pytest_cp.specification.levels import OUTPUT_SCHEMA, level_schema, levels

SCHEMA_VERSION = 1
_TEXT = {"type": "string", "minLength": 1}
_FACTORY = _TEXT | {"description": 'a function without arguments, "package.module:factory"'}
_FILE = _TEXT | {"description": "a file, relative to the folder of the specification"}
_COMMAND = {
    "type": "array",
    "items": _TEXT,
    "minItems": 1,
    "description": "a program that reads {input}, a batch as .npy, or as .npz of several inputs, and writes {output}, "
    "its logits as .npy, or several outputs as .npz",
}
_SERVED = {
    "type": "object",
    "description": "a language model behind an OpenAI-compatible server, for language checks; the key is that of an "
    "environment variable",
    "properties": {
        "url": _TEXT,
        "model": _TEXT,
        "ask": {"enum": [*ASKS]},
        "api_key_env": _TEXT,
        "timeout_s": {"type": "number", "exclusiveMinimum": 0},
        "retries": {"type": "integer", "minimum": 0},
        "concurrency": {"type": "integer", "minimum": 1},
    },
    "required": ["url"],
    "additionalProperties": False,
}
_NAMES: dict[str, Any] = {"type": ["array", "string"], "items": _TEXT, "minItems": 1, "minLength": 1}
FILE_OPTIONS = {
    "factory": _FACTORY | {"description": "a function that returns the model to load the weights into"},
    "key": _TEXT | {"description": "key of the weights in a file that also contains other data"},
    "dtype": _TEXT,
    "input": _NAMES | {"description": "the input of an ONNX graph, or all of its inputs"},
    "output": _TEXT,
    "task": {"enum": [*TASKS], "description": "what a network of transformers is for"},
    "pooling": {"enum": [*POOLINGS], "description": "how the outputs of an encoder of transformers become embeddings"},
    "adapter": _FILE | {"description": "the folder of a LoRA for a network of transformers"},
    "merge_adapter": {"type": "boolean", "description": "merge the adapter into the weights"},
    "layers": {"type": "boolean", "description": "keep the layers of an exported program, for embeddings"},
    "allow_pickle": {"type": "boolean", "description": "read a file that may run code; only for your own files"},
}
"""What a table may say of a file, beside its path."""

DATA_OPTIONS = {
    "size": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 2, "maxItems": 2},
    "channels": {"enum": [1, 3]},
    "classes": {
        "type": ["array", "string"],
        "items": _TEXT,
        "minItems": 1,
        "minLength": 1,
        "description": "all classes of the model in the order of its logits, or a file with one a line: which class "
        "each folder of images is",
    },
    "inputs": _NAMES | {"description": "the array of inputs in an .npz file, or those of several inputs"},
    "labels": _TEXT,
}
"""What the table of the data may say of a file or folder, beside its path."""

_OBSERVATION = _FILE | {"description": "what the model did on the data, as cp-compress observe wrote it"}
_DIGEST = {
    "type": "string",
    "pattern": "^(sha256:)?[0-9a-f]{12,64}$",
    "description": "the SHA-256 digest that the file of the observation must have, or its first 12 digits or more",
}
_SUBJECT = {
    "model": _FACTORY,
    "file": _FILE,
    "command": _COMMAND,
    "served": _SERVED,
    "observation": _OBSERVATION,
    "digest": _DIGEST,
    **FILE_OPTIONS,
}


def specification_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a specification."""
    tables = {level: _one_or_many({"$ref": f"#/$defs/{level}"}) for level in levels()}
    fixed = _fixed_tables()
    for name in fixed.keys() & tables:
        rule = "a specification has another table of this name; give the comparison another one"
        raise SpecificationError(f"comparison {name}: {rule}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pytest_cp gate specification",
        "type": "object",
        "properties": {**fixed, **tables},
        "$defs": {level: level_schema(level) for level in levels()},
        "required": ["schema_version", "reference", "candidate"],
        "additionalProperties": False,
    }


def _fixed_tables() -> dict[str, Any]:
    """Return what a specification holds beside the tables of its levels."""
    return {
        "schema_version": {"const": SCHEMA_VERSION},
        "reference": _one_of(_SUBJECT, OWN_MODELS),
        "data": _one_of(
            {
                "examples": _FACTORY,
                "file": _FILE
                | {"description": "an .npz file of inputs and labels, or a folder with a subfolder per class"},
                "metadata": _FILE | {"description": "a CSV file with one row per example"},
                **DATA_OPTIONS,
            },
            ("examples", "file"),
        ),
        "candidate": {"type": "array", "minItems": 1, "items": _candidate()},
        "noise": _closed({"references": {"type": "array", "minItems": 1, "items": _TEXT}}, ["references"]),
        "execution": _closed(
            {
                "device": _TEXT,
                "seed": {"type": "integer", "minimum": 0},
                "batch_size": {"type": "integer", "minimum": 1},
                "deployed_batch_size": {"type": "integer", "minimum": 1},
                "output": OUTPUT_SCHEMA,
                "origin": {"enum": ["auto", "off"]},
                "time_budget": {"type": "number", "exclusiveMinimum": 0},
            }
        ),
        "baseline": _closed({"tolerance": {"type": ["number", "string", "object"]}, "ratchet": {"type": "boolean"}}),
        "waiver": {"type": "array", "items": {"type": "object"}},
    }


def current_schema() -> dict[str, Any]:
    """Return what `specification_schema` does: as published, without loading torch, where nobody has added a level."""
    if added("comparison"):
        return specification_schema()
    text = importlib.resources.files("pytest_cp.specification").joinpath("schema.json").read_text(encoding="utf-8")
    published: dict[str, Any] = json.loads(text)
    return published


def schema_text() -> str:
    """Return the schema as the text of a file."""
    return json.dumps(specification_schema(), indent=2, ensure_ascii=False) + "\n"


def _candidate() -> dict[str, Any]:
    found = _FILE | {"description": "the JSON result of the search that found it: its scheme, and its examples"}
    parts = _SUBJECT | {"name": _TEXT, "scheme": _TEXT, "codec": _TEXT, "search": found}
    return _closed(parts) | {"minProperties": 1}


def _closed(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required or [],
        "additionalProperties": False,
    }


def _one_of(properties: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return _closed(properties) | {"oneOf": [{"required": [name]} for name in names]}


def _one_or_many(table: dict[str, Any]) -> dict[str, Any]:
    return {"if": {"type": "array"}, "then": {"type": "array", "minItems": 1, "items": table}, "else": table}
