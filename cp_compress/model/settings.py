"""What the schemes of this package can be asked to do: their arguments and the checks of them, without torch.

Each scheme is made of its settings here and of what it does to a model. An expression in a file or on a command line is
checked by the settings alone, so that a mistake in one is told before anything heavy is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from cp_compress.base.arguments import check_choice, check_integer, check_real, reject
from cp_compress.base.expressions import parse_expression
from cp_compress.base.extensions import added
from cp_compress.base.lazy import LazyModule

SCOPES = ("global", "layer")
NORMS = ("l1", "l2", "max", "mean")
CRITERIA = (*NORMS, "geometric_median")
MODES = ("weight", "dynamic", "static")
FLOATS = ("float16", "bfloat16")
INTEGERS: Mapping[str, int] = {"int8": 8, "int4": 4}
MOST_FRACTION_BITS = 126  # 2^-126 is the smallest normal float32
TYPE = "type:"
"""What a pattern on the type of a layer begins with."""

Patterns = tuple[str, ...]
_OTHER_NAMES = {
    **dict.fromkeys(("fp16", "f16", "half", "torch.float16", "16"), "float16"),
    **dict.fromkeys(("bf16", "torch.bfloat16", "bfloat"), "bfloat16"),
    **dict.fromkeys(("8", "i8", "qint8", "uint8", "torch.int8", "torch.qint8", "8bit"), "int8"),
    **dict.fromkeys(("4", "i4", "uint4", "torch.int4", "4bit"), "int4"),
}
_REMOVED = ("sparsity", "amount", "ratio", "pruning_ratio", "prune_ratio", "fraction", "rate")
_UNIT_SCOPES = ("layer", "global")
_DTYPES = ("auto", "float", "int64")
_CALIBRATION = "calibration is the name of a factory, as 'package.module:factory', or CalibrationData"
_calibrated = LazyModule("cp_compress.model.quantization.calibration")


def as_patterns(owner: str, name: str, value: object) -> Patterns:
    """Return patterns as a tuple of texts, or reject them.

    A pattern is matched as in fnmatch: with the path of a layer ("layer1.*"), or after "type:" with the name of its
    class or of one of its base classes ("type:Conv*"). A class such as `nn.Linear` is the same as "type:Linear".

    >>> as_patterns("Prune", "exclude", ("classifier.*", int))
    ('classifier.*', 'type:int')
    """
    given = (value,) if isinstance(value, (str, type)) else value
    if not isinstance(given, Iterable):
        reject(owner, name, value, f"{name} must be a pattern on layer paths, such as 'layer1.*', or several")
    patterns = tuple(f"{TYPE}{item.__name__}" if isinstance(item, type) else item for item in given)
    if not all(isinstance(pattern, str) and pattern.removeprefix(TYPE) for pattern in patterns):
        rule = f"every pattern of {name} must be a text that is not empty, such as 'layer1.*' or 'type:Linear'"
        reject(owner, name, value, rule)
    return patterns


def check_density(owner: str, density: object, unit: str) -> float:
    """Return a density as a float, or reject it."""
    rule = f"density is the kept share of {unit} and must lie in (0, 1]; density=1 removes nothing"
    if isinstance(density, (int, float)) and 1 < density <= 100:
        rule += f"; {density:g} % would be {density / 100:g}"
    return check_real(owner, "density", density, rule, above=0, at_most=1)


class _Settings:
    """What all settings have: the name of their scheme in errors and expressions, and the layers that are meant."""

    owner: ClassVar[str]

    @classmethod
    def explain_unknown(cls, name: str, value: object) -> str | None:
        """Return what is meant by a field that other packages have, or None for one that nobody knows."""
        if name not in _REMOVED or "density" not in cls.__dataclass_fields__:  # type: ignore[attr-defined]
            return None
        told = "density is the share that stays"
        if isinstance(value, (int, float)) and 0 < value < 100 and value != 1:
            share = value if value < 1 else value / 100
            return f"{told}: {name}={value:g} is density={1 - share:.12g}"
        return f"{told}, which is 1 − {name}"

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _set_patterns(self) -> None:
        for name in ("include", "exclude"):
            self._set(name, as_patterns(self.owner, name, getattr(self, name)))


@dataclass(frozen=True, repr=False)
class PruneSettings(_Settings):
    """The arguments of `Prune`."""

    density: float
    scope: str = "global"
    include: Patterns = ()
    exclude: Patterns = ()

    owner: ClassVar[str] = "Prune"
    expression_name: ClassVar[str] = "prune"
    positional_fields: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        self._set("density", check_density(self.owner, self.density, "weights"))
        check_choice(self.owner, "scope", self.scope, SCOPES)
        self._set_patterns()


@dataclass(frozen=True, repr=False)
class BlockPruneSettings(_Settings):
    """The arguments of `BlockPrune`."""

    density: float
    block_size: tuple[int, ...]
    norm: str = "l2"
    scope: str = "global"
    include: Patterns = ()
    exclude: Patterns = ()

    owner: ClassVar[str] = "BlockPrune"
    expression_name: ClassVar[str] = "block_prune"
    positional_fields: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        self._set("density", check_density(self.owner, self.density, "blocks"))
        self._set("block_size", _as_block_size(self.block_size))
        check_choice(self.owner, "norm", self.norm, NORMS)
        check_choice(self.owner, "scope", self.scope, SCOPES)
        self._set_patterns()


@dataclass(frozen=True, repr=False)
class NMPruneSettings(_Settings):
    """The arguments of `NMPrune`."""

    n: int = 2
    m: int = 4
    include: Patterns = ()
    exclude: Patterns = ()

    owner: ClassVar[str] = "NMPrune"
    expression_name: ClassVar[str] = "nm_prune"
    positional_fields: ClassVar[tuple[str, ...]] = ()
    written_fields: ClassVar[tuple[str, ...]] = ("n", "m")

    def __post_init__(self) -> None:
        rule = "m is the number of neighbouring inputs in a group, a whole number of 2 or more"
        self._set("m", check_integer(self.owner, "m", self.m, rule, at_least=2))
        rule = f"n is how many of every {self.m} neighbours stay, a whole number from 1 to {self.m - 1}"
        self._set("n", check_integer(self.owner, "n", self.n, rule, at_least=1, at_most=self.m - 1))
        self._set_patterns()


@dataclass(frozen=True, repr=False)
class UnitPruneSettings(_Settings):
    """The arguments that the three structured schemes have in common."""

    density: float
    norm: str = "l1"
    round_to: int = 1
    shrink: bool = True
    example_shape: tuple[int, ...] | None = None
    example_dtype: str = "auto"
    scope: str = "layer"
    floor: float = 0.0
    include: Patterns = ()
    exclude: Patterns = ()

    positional_fields: ClassVar[tuple[str, ...]] = ()
    expression_name: ClassVar[str]
    units: ClassVar[str]

    def __post_init__(self) -> None:
        owner = self.owner
        self._set("density", check_density(owner, self.density, self.units))
        check_choice(owner, "norm", self.norm, CRITERIA)
        rule = f"round_to is the number of {self.units} to align to, a whole number of 1 or more"
        self._set("round_to", check_integer(owner, "round_to", self.round_to, rule, at_least=1))
        if not isinstance(self.shrink, bool):
            reject(owner, "shrink", self.shrink, f"must be True (remove {self.units}) or False (zero them)")
        self._set("example_shape", _as_shape(owner, self.example_shape))
        check_choice(owner, "example_dtype", self.example_dtype, _DTYPES)
        check_choice(owner, "scope", self.scope, _UNIT_SCOPES)
        rule = (
            f"floor is the smallest share of {self.units} that a layer keeps: from 0 to the density, and 0 with "
            'scope="layer", where every layer keeps the density'
        )
        highest = self.density if self.scope == "global" else 0
        self._set("floor", check_real(owner, "floor", self.floor, rule, at_least=0, at_most=highest))
        self._set_patterns()


@dataclass(frozen=True, repr=False)
class FilterPruneSettings(UnitPruneSettings):
    """The arguments of `FilterPrune`."""

    owner: ClassVar[str] = "FilterPrune"
    expression_name: ClassVar[str] = "filter_prune"
    units: ClassVar[str] = "filters"


@dataclass(frozen=True, repr=False)
class NeuronPruneSettings(UnitPruneSettings):
    """The arguments of `NeuronPrune`."""

    owner: ClassVar[str] = "NeuronPrune"
    expression_name: ClassVar[str] = "neuron_prune"
    units: ClassVar[str] = "neurons"


@dataclass(frozen=True, repr=False)
class StructurePruneSettings(UnitPruneSettings):
    """The arguments of `StructurePrune`."""

    owner: ClassVar[str] = "StructurePrune"
    expression_name: ClassVar[str] = "structure_prune"
    units: ClassVar[str] = "filters or neurons"


@dataclass(frozen=True, repr=False)
class LowRankSettings(_Settings):
    """The arguments of `LowRank`."""

    rank: int | None = None
    energy: float | None = None
    include: Patterns = ()
    exclude: Patterns = ()

    owner: ClassVar[str] = "LowRank"
    expression_name: ClassVar[str] = "low_rank"
    positional_fields: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if (self.rank is None) == (self.energy is None):
            reject(self.owner, "rank", self.rank, f"give either rank or energy (here energy={self.energy!r})")
        if self.rank is not None:
            rule = "rank is the inner size of the two factors, a whole number of 1 or more"
            self._set("rank", check_integer(self.owner, "rank", self.rank, rule, at_least=1))
        if self.energy is not None:
            rule = "energy is the share of the sum of squared singular values that stays, a number in (0, 1)"
            self._set("energy", check_real(self.owner, "energy", self.energy, rule, above=0, below=1))
        self._set_patterns()


@dataclass(frozen=True, repr=False)
class QuantizeSettings(_Settings):
    """The arguments of `Quantize`."""

    dtype: str
    mode: str = "weight"
    group_size: int | None = None
    calibration: Any = None  # a text or CalibrationData, as `Quantize` declares it
    include: Patterns = ()
    exclude: Patterns = ()

    owner: ClassVar[str] = "Quantize"
    expression_name: ClassVar[str] = "quantize"
    positional_fields: ClassVar[tuple[str, ...]] = ("dtype",)

    def __post_init__(self) -> None:
        owner = self.owner
        if self.dtype not in (*FLOATS, *INTEGERS) and str(self.dtype).lower() in _OTHER_NAMES:
            reject(owner, "dtype", self.dtype, f"did you mean {_OTHER_NAMES[str(self.dtype).lower()]}?")
        check_choice(owner, "dtype", self.dtype, (*FLOATS, *INTEGERS))
        check_choice(owner, "mode", self.mode, MODES)
        integers = self.dtype in INTEGERS
        if self.mode == "static" and not integers:
            reject(owner, "mode", self.mode, f"{self.dtype} has no scales to calibrate: use 'weight' or 'dynamic'")
        if self.group_size is not None:
            rule = "group_size is how many weights share a scale, a whole number of 1 or more, or None for a channel"
            size = check_integer(owner, "group_size", self.group_size, rule, at_least=1)
            self._set("group_size", size)
            if not integers or self.mode != "weight":
                reject(owner, "group_size", size, "groups are for integers with mode='weight' only")
        if (self.calibration is not None) != (self.mode == "static"):
            rule = "mode='static' needs calibration data, such as 'package.module:factory', and no other mode takes it"
            reject(owner, "calibration", self.calibration, rule)
        if self.calibration is not None:
            self._set("calibration", _as_calibration(owner, self.calibration))
        for name in ("include", "exclude"):
            patterns = as_patterns(owner, name, getattr(self, name))
            if patterns and not integers:
                reject(owner, name, patterns, f"{self.dtype} is for whole models; patterns are for integers only")
            self._set(name, patterns)


@dataclass(frozen=True, repr=False)
class FixedPointSettings(_Settings):
    """The arguments of `FixedPoint`."""

    bits: int = 8
    fraction_bits: int | None = None
    include: Patterns = ()
    exclude: Patterns = ()

    owner: ClassVar[str] = "FixedPoint"
    expression_name: ClassVar[str] = "fixed_point"
    positional_fields: ClassVar[tuple[str, ...]] = ()
    written_fields: ClassVar[tuple[str, ...]] = ("bits",)

    def __post_init__(self) -> None:
        rule = "bits is the whole width of a number, sign included, and must be a whole number in 2..16"
        self._set("bits", check_integer(self.owner, "bits", self.bits, rule, at_least=2, at_most=16))
        if self.fraction_bits is not None:
            rule = "fraction_bits is the number of bits behind the binary point, a whole number in −126..126, or None"
            limits = {"at_least": -MOST_FRACTION_BITS, "at_most": MOST_FRACTION_BITS}
            places = check_integer(self.owner, "fraction_bits", self.fraction_bits, rule, **limits)
            self._set("fraction_bits", places)
        self._set_patterns()


_KNOWN: tuple[type[Any], ...] = (
    PruneSettings,
    BlockPruneSettings,
    NMPruneSettings,
    FilterPruneSettings,
    NeuronPruneSettings,
    StructurePruneSettings,
    LowRankSettings,
    QuantizeSettings,
    FixedPointSettings,
)


def check_scheme_text(text: str) -> None:
    """Raise InvalidArgumentError for a text that `parse_scheme` would refuse, without loading torch.

    >>> check_scheme_text("prune(density=0.1) | quantize(float16)")
    """
    known = {settings.expression_name: settings for settings in _KNOWN}
    parse_expression(text, known | dict(added("scheme")), "scheme")


def _as_calibration(owner: str, value: object) -> Any:
    if isinstance(value, str):
        module, _, factory = value.partition(":")
        if factory and all(part.isidentifier() for part in (*module.split("."), *factory.split("."))):
            return value
    elif isinstance(value, _calibrated.CalibrationData):
        return value
    return reject(owner, "calibration", value, _CALIBRATION)


def _as_shape(owner: str, value: object) -> tuple[int, ...] | None:
    if value is None:
        return None
    rule = "must be the shape of one example without the batch dimension, such as (3, 32, 32), or None"
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        reject(owner, "example_shape", value, rule)
    return tuple(check_integer(owner, "example_shape", size, rule, at_least=1) for size in value)


def _as_block_size(value: object) -> tuple[int, ...]:
    rule = "block_size is (rows, columns), or one size for each dimension of a weight: whole numbers of 1 or more"
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) < 2:
        reject("BlockPrune", "block_size", value, rule)
    sizes = tuple(check_integer("BlockPrune", "block_size", size, rule, at_least=1) for size in value)
    if math.prod(sizes) == 1:
        reject("BlockPrune", "block_size", value, "blocks of one weight are what Prune works on")
    return sizes
