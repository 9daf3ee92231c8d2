"""Which scheme may follow which on the same weight: a later step must not undo what an earlier one was for.

Every scheme may declare what it leaves behind and what it undoes, as `cp_compress.model.Scheme` describes. What a
scheme without a declaration does is found by comparing models (`cp_compress.model.effects`).
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from cp_compress.base.arguments import reject
from cp_compress.base.errors import CompressionError
from cp_compress.model.record import Change, Left, Skip, Step, add_step, read_steps

KINDS = {
    "zeros": "the zeros of this weight",
    "pattern": "the pattern in which this weight is zero",
    "removed_channels": "the removal of channels",
    "factors": "the factors of this weight",
    "rounded_numbers": "the rounded numbers of this weight",
}


def leaves_of(scheme: object) -> tuple[str, ...] | None:
    """Return the kinds of what a scheme declares to leave behind, or None where it declares nothing.

    Raises InvalidArgumentError for a kind that is unknown.

    >>> from cp_compress.model import NMPrune
    >>> leaves_of(NMPrune(2, 4))
    ('zeros', 'pattern')
    """
    return _declared(scheme, "leaves")


def undoes_of(scheme: object) -> tuple[str, ...] | None:
    """Return the kinds of what a scheme declares to undo, or None where it declares nothing; raises as `leaves_of`.

    >>> from cp_compress.model import LowRank
    >>> undoes_of(LowRank(rank=4))
    ('zeros', 'pattern')
    """
    return _declared(scheme, "undoes")


def left_by(scheme: object, tensors: Iterable[str]) -> tuple[Left, ...]:
    """Return what a scheme declares to leave behind, for the tensors that it changed."""
    names = tuple(tensors)
    return tuple(Left(kind, names) for kind in leaves_of(scheme) or ()) if names else ()


def record_scheme(
    scheme: object, model: nn.Module, changes: Iterable[Change], skips: Iterable[Skip], structural: bool = False
) -> None:
    """Record on a model, in place, that a scheme made it, with what the scheme declares to leave behind."""
    changes = tuple(changes)
    leaves = left_by(scheme, (change.tensor for change in changes))
    add_step(model, Step(name_of(scheme), changes, tuple(skips), structural, leaves))


def require_order(scheme: object, model: nn.Module, names: Iterable[str]) -> None:
    """Raise CompressionError when a scheme, which is to change the named weights, undoes what an earlier step left."""
    undoes = undoes_of(scheme) or ()
    wanted = set(names)
    for step in read_steps(model):
        for left in step.leaves:
            touched = [tensor for tensor in left.tensors if tensor in wanted]
            if left.kind in undoes and touched:
                raise order_error(scheme, step.scheme, touched[0], loss_of(scheme, left.kind))


def order_error(scheme: object, earlier: str, tensor: str, reason: str) -> CompressionError:
    """Return the error for a scheme that undoes an earlier step's work on a tensor."""
    return CompressionError(f"{name_of(scheme)} cannot follow {earlier} (both on {tensor}): {reason}")


def loss_of(scheme: object, kind: str) -> str:
    """Return what would be lost when a scheme undoes something of a kind, and what to do instead."""
    if kind == "pattern" and "removed_channels" in (leaves_of(scheme) or ()):
        return "removing channels moves the remaining weights out of their pattern; remove channels first"
    first = getattr(scheme, "expression_name", None) or type(scheme).__name__
    return f"{KINDS[kind]} would be lost; put {first} first"


def name_of(scheme: object) -> str:
    """Return a scheme's text, or its class's name where that text would be a place in memory."""
    kind = type(scheme)
    plain = kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__
    return kind.__name__ if plain else str(scheme)


def _declared(scheme: object, attribute: str) -> tuple[str, ...] | None:
    kinds = getattr(scheme, attribute, None)
    if kinds is None:
        return None
    given = [kinds] if isinstance(kinds, str) or not isinstance(kinds, Iterable) else list(kinds)
    if any(kind not in KINDS for kind in given):
        rule = f"{attribute} holds any of {', '.join(map(repr, KINDS))}; it is () where there is nothing"
        reject(type(scheme).__name__, attribute, kinds, rule)
    return tuple(given)
