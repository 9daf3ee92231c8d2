"""What stands in the place of a model, of data or of an observation, and how to get from it what must stand there."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal, NoReturn

from cp_compress.base.arguments import did_you_mean, reject
from cp_compress.base.error_reasons import shortened
from cp_compress.base.factories import names_file

Wanted = Literal["model", "data", "observation"]

_READ = {
    "model": "it is the path of a file: read it, by cp_compress.load(path, model) or artifacts.read_artifact(path)",
    "data": "it is the path of a file or folder: read it, by cp_compress.artifacts.read_examples(path)",
}
_LONGEST_NAME = 60


def reject_kind(owner: str, name: str, value: object, rule: str, wanted: Wanted) -> NoReturn:
    """Raise InvalidArgumentError for a value of another kind, with its type and how to get the right one from it.

    >>> reject_kind("footprint", "model", dict, "must be a torch.nn.Module", "model")
    Traceback (most recent call last):
    ...
    cp_compress.base.errors.InvalidArgumentError: footprint(model='type'): must be a torch.nn.Module; call it, as dict()
    """
    advice = mistaken(value, wanted)
    shown = value if value is None or isinstance(value, (str, int, float)) else type(value).__name__
    reject(owner, name, shown, f"{rule}{advice and f'; {advice}'}")


def mistaken(value: Any, wanted: Wanted) -> str:
    """Return how to get what is wanted from a value of another kind, or an empty text where that is not known.

    >>> mistaken("digits.npz", "data")
    'it is the path of a file or folder: read it, by cp_compress.artifacts.read_examples(path)'
    """
    if isinstance(value, str):
        return _told_text(value, wanted)
    if _needs_nothing(value):
        return f"call it, as {shortened(value.__qualname__, _LONGEST_NAME)}()"
    kind = type(value).__name__
    if kind == "Observation" and wanted != "observation":
        part = "model" if wanted == "model" else "data.source"
        return f"an observation was given: give its .{part}"
    is_network = hasattr(value, "named_parameters")
    if wanted == "observation":
        return "observe each model on the data first, by cp_compress.observe(model, data)" if callable(value) else ""
    if wanted == "data" and is_network:
        return "models come first, and the data after them"
    if wanted == "model" and callable(getattr(value, "compress", None)):
        return f"it is a scheme: make the model, by cp_compress.compress(reference, {shortened(repr(value), 60)})"
    if wanted == "model" and isinstance(value, Mapping):
        return "it is a dict: load the weights into their module, by its load_state_dict"
    if wanted == "model" and hasattr(value, "__getitem__") and hasattr(value, "__len__"):
        return "the model comes first, and the data after it"
    return ""


def missing_attribute(owner: object, name: str, elsewhere: Mapping[str, str]) -> AttributeError:
    """Return the error for an attribute that an object has not; `elsewhere` says how values of other names are had.

    >>> missing_attribute({}, "agreement", {"agreement": 'measurement["agreement"]'})
    AttributeError('dict has no attribute agreement: write measurement["agreement"]')
    """
    told = f"{type(owner).__name__} has no attribute {name}"
    if name.startswith("_"):  # what Python and its libraries ask any object for
        return AttributeError(told)
    if name in elsewhere:
        return AttributeError(f"{told}: write {elsewhere[name]}")
    public = sorted({one for one in (*dir(type(owner)), *getattr(owner, "__dict__", ())) if not one.startswith("_")})
    near = did_you_mean(name, [*public, *elsewhere])
    return AttributeError(f"{told}; {near or 'it has ' + ', '.join(public)}")


def is_factory(value: Any) -> bool:
    """Tell whether a value is a class, or a function that takes no batch, by position or by name: it can only make one.

    >>> is_factory(dict), is_factory(lambda: 1), is_factory(lambda batch: batch), is_factory(lambda **batch: batch)
    (True, True, False, False)
    """
    if inspect.isclass(value):
        return True
    parameters = _parameters_of(value)
    return parameters is not None and not any(
        one.kind is not one.KEYWORD_ONLY or one.default is one.empty for one in parameters
    )


def _needs_nothing(value: Any) -> bool:
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = _parameters_of(value)
    return parameters is not None and all(one.default is not one.empty or one.kind in optional for one in parameters)


def _parameters_of(value: Any) -> list[inspect.Parameter] | None:
    """Return the parameters of a function or class; None for anything else."""
    if not (inspect.isroutine(value) or inspect.isclass(value)):
        return None
    try:
        return list(inspect.signature(value).parameters.values())
    except (TypeError, ValueError):  # some built-in ones have none
        return [] if inspect.isclass(value) else None


def _told_text(text: str, wanted: Wanted) -> str:
    module, colon, name = text.partition(":")
    if colon and all(part.isidentifier() for part in (*module.split("."), name)):
        return f"a text is no {wanted}: import the function and call it, as from {module} import {name}"
    if names_file(text) and wanted in _READ:
        return _READ[wanted]
    if "(" in text and wanted != "data":
        return f'it is an expression: make the model, by cp_compress.compress(reference, "{shortened(text, 60)}")'
    return ""
