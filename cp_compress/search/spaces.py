"""Search spaces: named parameters, and the compression scheme of each point."""

from __future__ import annotations

import keyword
import math
import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cp_compress.base.arguments import check_choice, check_integer, check_real, explains_keywords, reject
from cp_compress.base.errors import InvalidArgumentError
from cp_compress.base.expressions import parse_one
from cp_compress.base.showing.describing import Written, describe

if TYPE_CHECKING:
    from cp_compress.model.scheme import Scheme

Value = float | int | str
Point = Mapping[str, Value]
_SCALES = ("linear", "log")
_DIGITS = 9


@explains_keywords
@dataclass(frozen=True, repr=False)
class Real(Written):
    """A number in [`low`, `high`], on a linear or a logarithmic scale, rounded to nine significant digits.

    >>> Real(0.01, 1, scale="log").from_unit(0.5)
    0.1
    """

    low: float
    high: float
    scale: str = "linear"

    expression_name: ClassVar[str] = "real"
    positional_fields: ClassVar[tuple[str, ...]] = ("low", "high")

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            value = check_real("Real", name, getattr(self, name), f"{name} must be a finite number")
            object.__setattr__(self, name, value)
        _check_range("Real", self.low, self.high, self.scale, 0.0)

    def from_unit(self, unit: float) -> float:
        """Return the value at a place in [0, 1] of the scale."""
        value = _interpolate(self.low, self.high, self.scale, unit)
        return min(self.high, max(self.low, float(f"{value:.{_DIGITS}g}")))

    def to_unit(self, value: Value) -> float:
        """Return the place in [0, 1] of a value."""
        return _place(self.low, self.high, self.scale, float(value))


@explains_keywords
@dataclass(frozen=True, repr=False)
class Integer(Written):
    """A whole number in `low`…`high`, on a linear or a logarithmic scale.

    Each number has an interval of its own in [0, 1].

    >>> [Integer(1, 4).from_unit(unit) for unit in (0, 0.3, 0.6, 1)]
    [1, 2, 3, 4]
    """

    low: int
    high: int
    scale: str = "linear"

    expression_name: ClassVar[str] = "integer"
    positional_fields: ClassVar[tuple[str, ...]] = ("low", "high")

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            value = check_integer("Integer", name, getattr(self, name), f"{name} must be a whole number")
            object.__setattr__(self, name, value)
        _check_range("Integer", self.low, self.high, self.scale, 1)

    def from_unit(self, unit: float) -> int:
        """Return the value whose cell holds a place in [0, 1] of the scale."""
        value = math.floor(_interpolate(self.low - 0.5, self.high + 0.5, self.scale, unit) + 0.5)
        return min(self.high, max(self.low, value))

    def to_unit(self, value: Value) -> float:
        """Return the place in [0, 1] of a value."""
        return _place(self.low - 0.5, self.high + 0.5, self.scale, float(value))


@explains_keywords
@dataclass(frozen=True, repr=False)
class Categorical(Written):
    """One of several values without an order."""

    choices: tuple[Value, ...]

    expression_name: ClassVar[str] = "categorical"
    positional_fields: ClassVar[tuple[str, ...]] = ("choices",)

    def __post_init__(self) -> None:
        choices = tuple(self.choices) if isinstance(self.choices, (tuple, list)) else ()
        if len(choices) < 2 or len(set(choices)) < len(choices):
            reject("Categorical", "choices", self.choices, "give a tuple of at least two different values")
        if not all(isinstance(choice, (str, int, float)) for choice in choices):
            reject("Categorical", "choices", self.choices, "every choice must be a text or a number")
        object.__setattr__(self, "choices", choices)


Parameter = Real | Integer | Categorical


@explains_keywords
def parse_parameter(text: str) -> Parameter:
    """Read a parameter from its expression: the inverse of `str(parameter)`.

    >>> parse_parameter("real(0.02, 1, scale=log)")
    real(0.02, 1.0, scale=log)
    """
    try:
        found: Parameter = parse_one(text, (Real, Integer, Categorical), "parameter")
    except InvalidArgumentError as error:
        meant = _meant_range(text)
        if not meant:
            raise
        raise InvalidArgumentError(f"parameter {text!r} is no range; did you mean {meant}?") from error
    return found


def _meant_range(text: str) -> str:
    """Return the expression that a range or a list of another form may stand for, or an empty text."""
    number = r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?"
    ends = re.fullmatch(rf"\s*[\[(]?\s*({number})\s*(?:\.{{2,3}}|…|–|-|:|,|;|to|\s)\s*({number})\s*[\])]?\s*", text)
    if ends:
        whole = all(re.fullmatch(r"[-+]?\d+", end) for end in ends.groups())
        return f"{'integer' if whole else 'real'}({float(ends[1]):g}, {float(ends[2]):g})"
    listed = re.fullmatch(r"\s*[\[({]?\s*([^()\[\]{}=]+(?:[,|][^()\[\]{}=]+)+)[\])}]?\s*", text)
    if listed:
        parts = [part.strip(" \"'") for part in re.split(r"[,|]", listed[1])]
        choices = ", ".join(part if re.fullmatch(number, part) else repr(part) for part in parts if part)
        return f"categorical(({choices}))"
    return ""


@explains_keywords
@dataclass(frozen=True, init=False)
class SchemeSpace:
    """Parameters, and a scheme for each point: a template of an expression, or a function of the point.

    A template names every parameter in braces; a function takes the point, a mapping from names to values. Raises
    InvalidArgumentError if there is no parameter, or the template's names are not those of the parameters.

    >>> space = SchemeSpace("prune(density={density})", density=Real(0.02, 1))
    >>> str(space.scheme({"density": 0.25}))
    'prune(density=0.25)'
    """

    template: str | Callable[[Point], Scheme]
    parameters: tuple[tuple[str, Parameter], ...]

    def __init__(self, template: str | Callable[[Point], Scheme], **parameters: Parameter) -> None:
        if not parameters:
            reject(
                "SchemeSpace", "parameters", parameters, "name at least one parameter, such as density=Real(0.02, 1)"
            )
        for name, parameter in parameters.items():
            if not isinstance(parameter, (Real, Integer, Categorical)):
                reject("SchemeSpace", name, parameter, "a parameter must be a Real, an Integer or a Categorical")
        if isinstance(template, str):
            _check_template(template, set(parameters))
        elif not callable(template):
            reject("SchemeSpace", "template", template, 'give a text such as "prune(density={density})" or a callable')
        object.__setattr__(self, "template", template)
        object.__setattr__(self, "parameters", tuple(parameters.items()))

    def __str__(self) -> str:
        template = self.template if isinstance(self.template, str) else describe(self.template)
        return f"{template} with " + ", ".join(f"{name}={parameter}" for name, parameter in self.parameters)

    def ends(self) -> list[Point]:
        """Return two points: all parameters at their lowest value or first choice, and all at their highest or last."""
        pairs = {name: _ends(parameter) for name, parameter in self.parameters}
        return [{name: pair[end] for name, pair in pairs.items()} for end in (0, 1)]

    def scheme(self, point: Point) -> Scheme:
        """Return the scheme of one point; raises the error of the scheme for a setting that it refuses."""
        from cp_compress.model.registry import parse_scheme
        from cp_compress.model.scheme import Scheme

        if isinstance(self.template, str):
            # "global" is a word of Python, so an expression holds it in quotes
            words = {name: repr(value) if keyword.iskeyword(str(value)) else value for name, value in point.items()}
            return parse_scheme(self.template.format_map(words))
        scheme = self.template(point)
        if not isinstance(scheme, Scheme):
            reject("SchemeSpace", "template", type(scheme).__name__, "the callable must return a scheme")
        return scheme


def _ends(parameter: Parameter) -> tuple[Value, Value]:
    if isinstance(parameter, Categorical):
        return parameter.choices[0], parameter.choices[-1]
    return parameter.low, parameter.high


def _check_range(owner: str, low: float, high: float, scale: str, smallest: float) -> None:
    check_choice(owner, "scale", scale, _SCALES)
    if not low < high:
        reject(owner, "high", high, f"high must be above low ({low})")
    if scale == "log" and not (low > 0 and low >= smallest):
        reject(owner, "low", low, "on a log scale all values must be positive")


def _check_template(template: str, names: set[str]) -> None:
    try:
        used = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
    except ValueError as error:
        reject("SchemeSpace", "template", template, f"it cannot be read: {error}")
    if used != names:
        rule = f"it names {sorted(used)} in braces, but the parameters are {sorted(names)}; both must be the same"
        reject("SchemeSpace", "template", template, rule)


def _interpolate(low: float, high: float, scale: str, unit: float) -> float:
    if scale == "log":
        return low * math.exp(unit * math.log(high / low))
    return low + unit * (high - low)


def _place(low: float, high: float, scale: str, value: float) -> float:
    if scale == "log":
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)
