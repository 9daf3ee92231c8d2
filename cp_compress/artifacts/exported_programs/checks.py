"""The texts of an exported program, checked before torch reads them, because torch turns many of them into code.

`torch.export` evaluates shape expressions and guards as Python, writes names into Python source that it compiles, and
looks operators up by any path below `torch`, so that a node may well be `torch.os.system`. A text is accepted only if
it is a name, an operator that only computes, arithmetic of symbols, or a plain structure of tuples. What a model does
not need in order to run (guards, stack traces, metadata) is left out.
"""

from __future__ import annotations

import json
import keyword
import operator
import os
import re
from typing import Any, NoReturn

from cp_compress.artifacts.exported_programs.shape_expressions import is_shape_expression
from cp_compress.base.documents import read_document
from cp_compress.base.error_reasons import shortened
from cp_compress.base.errors import ArtifactError

_DEEPEST = 60
_LONGEST = 1000
_WORD = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_PATH = re.compile(r"(\w+(\.\w+)*(@\d+)?)?", re.ASCII)
_STACK = re.compile(r"[\w.,;@]*", re.ASCII)
_VERSION = re.compile(r"[\w.+<=-]*", re.ASCII)
_PLAIN_TEXT = re.compile(r"[\w ,.>()-]*", re.ASCII)
_OPERATOR = re.compile(r"torch\.ops\.(aten|prims|quantized_decomposed|torchvision)\.(\w+)(\.\w+)?", re.ASCII)
_SCALAR_OPERATORS = re.compile(
    r"_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|getitem)"
    r"|math\.(trunc|ceil|floor|sqrt)|torch\.sym_(int|float|not|max|min|ite|sqrt|sum)"
    r"|torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast|cond)",
    re.ASCII,
)
# what ATen's operators take texts for; any other, such as the name of a file, is no part of a network
_TEXT_ARGUMENTS = re.compile(
    r"UPLO|activation|algorithm|approximate|assert_msg|driver|equation|indexing|interpolation|mode|norm|ord|p|pad_mode"
    r"|padding|padding_side|reduce|rounding_mode|side"
)
_WORD_KEYS = frozenset(("name", "as_name", "forward_arg_names"))
_TEXT_KEYS = frozenset(("as_string", "as_strings"))
_REFUSED_KEYS = frozenset(("as_custom_obj", "custom_obj", "as_operator", "token", "class_fqn"))
_STRUCTURES = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
_LARGEST = 1 << 63
_CPU = {"type": "cpu", "index": None}


def clean_program(content: bytes, path: str | os.PathLike[str]) -> bytes:
    """Return the JSON of an exported program without what it needs not; raises ArtifactError for any text to doubt."""
    program = read_json(content, path, "its program")
    program["guards_code"] = []  # Python that torch would run before each call
    graph_module = program.get("graph_module")
    if not isinstance(graph_module, dict):
        raise ArtifactError(path, "has a program without a graph")
    graph_module["metadata"], graph_module["treespec_namedtuple_fields"] = {}, {}
    return json.dumps(_Cleaner(path).value(program, "", 0)).encode()


def read_json(content: bytes, path: str | os.PathLike[str], what: str) -> dict[str, Any]:
    """Return a JSON object; raises ArtifactError for anything else."""
    try:
        value = read_document(content)
    except ValueError as error:
        raise ArtifactError(path, f"{what} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ArtifactError(path, f"{what} is not a JSON object")
    return value


def is_path(text: object) -> bool:
    """Tell whether a text is a path of names, as parameters and modules have it."""
    parts = text.split(".") if isinstance(text, str) else []
    return isinstance(text, str) and bool(_PATH.fullmatch(text)) and not any(map(_is_dunder, parts))


class _Cleaner:
    """One walk through a program; `value` returns the part that torch gets."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path

    def refuse(self, what: str, value: object) -> NoReturn:
        raise ArtifactError(self.path, f"has {what} {shortened(repr(value), 200)}, which is refused: it may run code")

    def value(self, value: Any, key: str, depth: int) -> Any:
        if depth > _DEEPEST:
            raise ArtifactError(self.path, f"has a program that is more than {_DEEPEST} levels deep")
        if isinstance(value, dict):
            return {name: self.entry(part, name, depth) for name, part in value.items()}
        if isinstance(value, list):
            return [self.value(part, key, depth + 1) for part in value]
        if isinstance(value, str):
            self.text(value, key)
        elif isinstance(value, int) and not isinstance(value, bool) and not -_LARGEST <= value < _LARGEST:
            raise ArtifactError(self.path, f"has a number {shortened(value, 40)}, which has more than 64 bits")
        return value

    def entry(self, value: Any, key: str, depth: int) -> Any:
        if not is_path(key):
            self.refuse("a name", key)
        if key in _REFUSED_KEYS or (key == "custom_obj_values" and value):
            raise ArtifactError(self.path, f"has an object other than a tensor ({key}), which is a pickle")
        if key == "metadata":
            stack = value.get("nn_module_stack", "") if isinstance(value, dict) else ""
            return {"nn_module_stack": stack} if stack and _matches(_STACK, stack) else {}
        if key in ("device", "as_device"):
            return dict(_CPU)  # the program is read there, and moved afterwards
        return self.value(value, key, depth + 1)

    def text(self, value: str, key: str) -> None:
        if key == "expr_str":
            if not is_shape_expression(value):
                self.refuse("an expression", value)
        elif key == "target":
            self.operator(value)
        elif key in ("in_spec", "out_spec"):
            self.structure(value)
        elif key in _TEXT_KEYS:
            if not _matches(_PLAIN_TEXT, value):
                self.refuse("a text", value)
        elif key == "as_float":
            if value not in ("Infinity", "-Infinity", "NaN"):
                self.refuse("a number", value)
        elif key == "torch_version":
            if not _matches(_VERSION, value):
                self.refuse("a version", value)
        elif key in _WORD_KEYS:
            if value and not _is_word(value):
                self.refuse("a name", value)
        elif len(value) > _LONGEST or not is_path(value):
            self.refuse(f"a text ({shortened(key, 40)})", value)

    def operator(self, target: str) -> None:
        if _SCALAR_OPERATORS.fullmatch(target):
            return
        found = _OPERATOR.fullmatch(target)
        if found is None or any(map(_is_dunder, target.split("."))):
            self.refuse("an operator", target)
        schema = _schema(target)
        if schema is None:
            raise ArtifactError(self.path, f"has an operator {shortened(target, 120)}, which this torch does not have")
        if found[1] == "aten":
            texts = [each.name for each in schema.arguments if "str" in str(each.type)]
            if not all(map(_TEXT_ARGUMENTS.fullmatch, texts)):
                self.refuse("an operator", target)

    def structure(self, text: str) -> None:
        try:
            waiting = [json.loads(text)[1]]
            while waiting:
                spec = waiting.pop()
                context = spec["context"]
                names = json.loads(context) if isinstance(context, str) else context
                plain = names is None or (isinstance(names, list) and all(map(_is_word, names)))
                if spec["type"] not in _STRUCTURES or not plain:
                    kind = shortened(spec["type"], 120)
                    rule = "may only take and return tensors in tuples, lists and dicts"
                    raise ArtifactError(self.path, f"takes or returns a {kind}; a program {rule}")
                waiting += spec["children_spec"]
        except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
            raise ArtifactError(self.path, f"has a structure of arguments that cannot be read: {error}") from error


def _schema(target: str) -> Any:
    """Return the schema of an operator, or None for one that is not there."""
    import torch

    try:
        found = operator.attrgetter(target.removeprefix("torch."))(torch)
    except (AttributeError, RuntimeError):
        return None
    return getattr(found, "_schema", None)


def _matches(pattern: re.Pattern[str], text: object) -> bool:
    return isinstance(text, str) and len(text) <= _LONGEST and bool(pattern.fullmatch(text))


def _is_word(text: object) -> bool:
    return _matches(_WORD, text) and not keyword.iskeyword(text) and not _is_dunder(text)  # type: ignore[arg-type]


def _is_dunder(text: object) -> bool:
    return isinstance(text, str) and text.startswith("__")
