"""Checks of arguments; every message has the form `Owner(name=value): rule`."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import re
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NoReturn, TypeVar

from cp_compress.base.errors import InvalidArgumentError

Called = TypeVar("Called", bound=Callable[..., Any])

_BOUNDS = ("min_", "max_")
_NOTHING_REQUIRED = "it requires nothing: give bounds to an assertion of pytest_cp, or to `judge`"
_LONGEST = 200
_LONGEST_NAME = 100
_LIKE = 0.6  # difflib's own limit for what is a close match
_NEAR = 0.1  # how much less like it another name may be to be told beside the nearest
_LITTLE = ("min", "max", "of", "to", "in", "at", "no", "cp")  # words that say nothing of what is meant
_SHORTEST_BEGINNING = 3
_SHARED = 0.2  # a whole word in common counts for more than letters


def reject(owner: str, name: str, value: object, rule: str) -> NoReturn:
    """Raise InvalidArgumentError for one argument, with its value and the rule it breaks.

    >>> reject("Prune", "density", 1.4, "density must lie in (0, 1]")
    Traceback (most recent call last):
    ...
    cp_compress.base.errors.InvalidArgumentError: Prune(density=1.4): density must lie in (0, 1]
    """
    text = repr(value)
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    raise InvalidArgumentError(f"{owner}({name}={shown}): {rule}")


def nearest(name: object, known: Iterable[str], most: int = 3) -> list[str]:
    """Return the names that a misspelt one may stand for, the nearest first: by letters, or by the words in them.

    >>> nearest("accuracy_loss", ("agreement", "accuracy", "accuracy_drop", "cka")), nearest("xyz", ("cka",))
    (['accuracy_drop', 'accuracy'], [])
    >>> nearest("kl", ("agreement", "mean_kl", "token_kl")), nearest("acc", ("accuracy", "cka"))
    (['mean_kl', 'token_kl'], ['accuracy'])
    """
    given = str(name).strip()
    if len(given) > _LONGEST_NAME:
        return []
    # upper case, hyphens and spaces are no difference of their own
    names = {one: re.sub(r"[-\s]", "_", one.lower()) for one in known}
    asked = re.sub(r"[-\s]", "_", given.lower())
    same = [one for one, plain in names.items() if plain == asked]
    if same:
        return same[:most]
    likeness = {one: difflib.SequenceMatcher(None, asked, plain).ratio() for one, plain in names.items()}
    words = {word for word in asked.split("_") if len(word) > 1 and word not in _LITTLE}
    shared = {one for one, plain in names.items() if words & set(plain.split("_"))}
    score = {one: likeness[one] + (_SHARED if one in shared else 0) for one in names}
    found = [one for one in names if likeness[one] >= _LIKE or one in shared]
    best = max((score[one] for one in found), default=0.0)
    # of an abbreviation that is a word of several names, such as iou, or begins one, all may be meant
    whole = shared if asked in words else set()
    if not found and len(asked) >= _SHORTEST_BEGINNING:
        whole = {one for one, plain in names.items() if any(word.startswith(asked) for word in plain.split("_"))}
    near = [one for one in names if one in whole or (one in found and score[one] > best - _NEAR)]
    return sorted(near, key=lambda one: -score[one])[:most]


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return the question that a misspelt name asks for, or an empty text where no known one is near.

    >>> did_you_mean("agrement", ("agreement", "cost")), did_you_mean("xyz", ("cost",))
    ('did you mean agreement?', '')
    """
    close = nearest(name, known)
    return f"did you mean {' or '.join(close)}?" if close else ""


def explains_keywords(called: Called) -> Called:
    """Let a function, or a class and its methods, say which argument is meant by one that it does not take.

    The function stays what it is otherwise; the TypeError of Python gets a better text.

    >>> @explains_keywords
    ... def store(data, *, quality=75): return quality
    >>> store([], qualty=50)
    Traceback (most recent call last):
    ...
    TypeError: store() got an unexpected keyword argument 'qualty': did you mean quality?
    """
    if not isinstance(called, type):
        return _explaining(called)  # type: ignore[return-value]
    if "__init__" in vars(called):
        called.__init__ = _explaining(called.__init__, called)  # type: ignore[misc]
    for name, member in list(vars(called).items()):
        inner = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
        # torch looks into what a module computes
        if isinstance(inner, types.FunctionType) and not name.startswith("_") and name != "forward":
            told = _explaining(inner)
            setattr(called, name, told if inner is member else type(member)(told))
    return called


def _explaining(function: Any, made: type | None = None) -> Callable[..., Any]:
    explain = _explain_call

    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        try:
            return function(*args, **kwargs)
        except TypeError:
            explain(function, made, args, kwargs)
            raise

    # it reads no globals, and with those of its module it is a function of that module to doctest too
    placed = types.FunctionType(call.__code__, function.__globals__, function.__name__, None, call.__closure__)
    return functools.wraps(function)(placed)


def _explain_call(
    function: Callable[..., Any], made: type | None, args: tuple[Any, ...], keywords: Mapping[str, Any]
) -> None:
    """Raise TypeError for a call that does not fit a function, where there is more to say than Python does."""
    __tracebackhide__ = True
    signature = inspect.signature(function)
    parameters = [one for one in signature.parameters.values() if one.name not in ("self", "cls")]
    given = args[len(signature.parameters) - len(parameters) :]
    name = function.__qualname__ if made is None else type(args[0]).__name__
    kinds = {one.kind for one in parameters}
    places = [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    by_name = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
    for keyword in keywords:
        if keyword not in places + by_name and inspect.Parameter.VAR_KEYWORD not in kinds:
            told = unknown_argument(keyword, keywords[keyword], places + by_name, made)
            raise TypeError(f"{name}() got an unexpected keyword argument {keyword!r}: {told}") from None
    needed = [one.name for one in parameters if one.default is one.empty and one.name in places + by_name]
    form = f"call it as {name}({', '.join(one if one in places else f'{one}=…' for one in needed)})"
    if len(given) > len(places) and inspect.Parameter.VAR_POSITIONAL not in kinds:
        told = f"{', '.join(by_name)} {'is' if len(by_name) == 1 else 'are'} given by name" if by_name else form
        if parameters and parameters[0].annotation == "Observation":
            told = "observe(model, data) makes what it takes; compare(candidate, reference, data) takes models"
        count = f"{len(places)} argument{'' if len(places) == 1 else 's'} by position"
        raise TypeError(f"{name}() takes {count}, and {len(given)} are given: {told}") from None
    missing = [one for one in needed if one not in (*places[: len(given)], *keywords)]
    if missing:
        raise TypeError(f"{name}() needs {' and '.join(missing)}: {form}") from None


def unknown_argument(name: str, value: object, known: Iterable[str], made: type | None = None) -> str:
    """Return which argument is meant by one that is not known, or which there are.

    A class may tell more of its own: `explain_unknown(name, value)` returns a text, or None.
    """
    names = list(known)
    explain = getattr(made, "explain_unknown", None)
    told = None if explain is None else explain(name, value)
    if not told and name.startswith(_BOUNDS):  # what bounds have in common says nothing
        bounds = {one[len(_BOUNDS[0]) :]: one for one in names if one.startswith(_BOUNDS)}
        near = [bounds[one] for one in nearest(name[len(_BOUNDS[0]) :], bounds)]
        told = f"did you mean {' or '.join(near)}?" if near else _NOTHING_REQUIRED
    told = told or did_you_mean(name, names)
    return told or (f"it takes {', '.join(names)}" if names else "it takes none")


def check_real(
    owner: str,
    name: str,
    value: object,
    rule: str,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
) -> float:
    """Return `value` as a float when it is a finite real number within the limits, else reject it with `rule`.

    >>> check_real("Prune", "density", 1, "density must lie in (0, 1]", above=0, at_most=1)
    1.0
    """
    if isinstance(value, (bool, str)):
        reject(owner, name, value, f"{rule}; give a number, not a text" if _is_number(value) else rule)
    try:  # NumPy scalars and one-element tensors are numbers to their users
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, OverflowError):
        reject(owner, name, value, rule)
    if not (math.isfinite(number) and above < number < below and at_least <= number <= at_most):
        reject(owner, name, value, rule)
    return number


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False


def check_integer(
    owner: str,
    name: str,
    value: object,
    rule: str,
    *,
    at_least: int | None = None,
    at_most: int | None = None,
) -> int:
    """Return `value` as an int when it is a whole number (not a bool) within the limits, else reject it.

    >>> check_integer("JPEG", "quality", 75, "quality must lie in 1..100", at_least=1, at_most=100)
    75
    """
    try:
        number = value.__index__()  # type: ignore[attr-defined]
    except (AttributeError, TypeError):
        reject(owner, name, value, rule)
    too_small = at_least is not None and number < at_least
    too_large = at_most is not None and number > at_most
    if isinstance(value, bool) or too_small or too_large:
        reject(owner, name, value, rule)
    return int(number)


def check_choice(owner: str, name: str, value: object, choices: Collection[str]) -> str:
    """Return `value` when it is one of `choices`, else reject it and list them.

    >>> check_choice("Prune", "scope", "layer", ("global", "layer"))
    'layer'
    """
    if not isinstance(value, str) or value not in choices:
        advice = did_you_mean(value, choices) if isinstance(value, str) else ""
        reject(owner, name, value, f"{name} must be one of {', '.join(map(repr, choices))}{advice and f'; {advice}'}")
    return value


def check_flag(owner: str, name: str, value: object) -> bool:
    """Return `value` when it is True or False, else reject it: a text such as "no" would count as True.

    >>> check_flag("find_divergence", "verify", False)
    False
    """
    if not isinstance(value, bool):
        reject(owner, name, value, "must be True or False")
    return value
