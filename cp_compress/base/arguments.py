"""Checks of arguments; every message has the form `Owner(name=value): rule`."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Iterable
from typing import NoReturn

from cp_compress.base.errors import InvalidArgumentError

_LONGEST = 200
_LONGEST_NAME = 100
_LIKE = 0.6  # difflib's own limit for what is a close match
_NEAR = 0.1  # how much less like it another name may be to be told beside the nearest
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
    words = {word for word in asked.split("_") if len(word) > 3}  # not min and max
    shared = {one for one, plain in names.items() if words & set(plain.split("_"))}
    score = {one: likeness[one] + (_SHARED if one in shared else 0) for one in names}
    found = [one for one in names if likeness[one] >= _LIKE or one in shared]
    best = max((score[one] for one in found), default=0.0)
    return sorted((one for one in found if score[one] > best - _NEAR), key=lambda one: -score[one])[:most]


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return the question that a misspelt name asks for, or an empty text where no known one is near.

    >>> did_you_mean("agrement", ("agreement", "cost")), did_you_mean("xyz", ("cost",))
    ('did you mean agreement?', '')
    """
    close = nearest(name, known)
    return f"did you mean {' or '.join(close)}?" if close else ""


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
