"""The schemes that expressions name: those of this package, and those that users add."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from cp_compress.base.arguments import explains_keywords, reject
from cp_compress.base.expressions import parse_expression
from cp_compress.base.extensions import added
from cp_compress.base.showing.mistaken import reject_kind
from cp_compress.model.low_rank import LowRank
from cp_compress.model.pruning.magnitude import Prune
from cp_compress.model.pruning.patterns import BlockPrune, NMPrune
from cp_compress.model.quantization.fixed_point import FixedPoint
from cp_compress.model.quantization.scheme import Quantize
from cp_compress.model.scheme import Scheme, apply_scheme, compose
from cp_compress.model.structure.schemes import FilterPrune, NeuronPrune, StructurePrune

if TYPE_CHECKING:
    from torch import nn


@explains_keywords
def parse_scheme(text: str) -> Scheme:
    """Read a scheme from its expression: the inverse of `str(scheme)`, except for calibration data given as an object.

    Raises InvalidArgumentError for a text that is no expression, an unknown name and arguments out of range.

    >>> parse_scheme("prune(density=0.1) | quantize(float16)").schemes[0].density
    0.1
    """
    if not isinstance(text, str):
        reject("parse_scheme", "text", text, 'must be a text such as "prune(density=0.1)"')
    return compose(parse_expression(text, _registry(), "scheme"))


@explains_keywords
def compress(model: nn.Module, scheme: Scheme | str) -> nn.Module:
    """Return a model compressed by a scheme or its expression; the given one is not changed.

    Raises as `apply_scheme`, and InvalidArgumentError for what is no model or no scheme.

    >>> from torch import nn
    >>> compress(nn.Linear(4, 2), "prune(density=0.25)").weight.count_nonzero().item()
    2
    """
    from torch import nn

    if not isinstance(model, nn.Module):
        rule = "must be a torch.nn.Module; the model comes first, and the scheme second"
        reject_kind("compress", "model", model, rule, "model")
    return apply_scheme(scheme, model, "compress")


class _Registered(Protocol):
    expression_name: ClassVar[str]


def known_schemes() -> dict[str, type[Any]]:
    """Return the schemes of this package by the names that expressions call them by."""
    pruning = (Prune, BlockPrune, NMPrune, FilterPrune, NeuronPrune, StructurePrune)
    known: tuple[type[_Registered], ...] = (*pruning, LowRank, Quantize, FixedPoint)
    return {scheme.expression_name: scheme for scheme in known}


def _registry() -> dict[str, type[Any]]:
    return known_schemes() | dict(added("scheme"))
