"""What a compression scheme is, how schemes follow one another, and how they are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from cp_compress.base.arguments import reject
from cp_compress.base.errors import CompressionError
from cp_compress.base.expressions import Expressible, format_expression
from cp_compress.model.record import Step, read_steps, write_steps

if TYPE_CHECKING:
    from torch import nn


@runtime_checkable
class Scheme(Protocol):
    """An immutable, hashable value that makes a compressed model from a model."""

    def compress(self, model: nn.Module) -> nn.Module:
        """Return a new, compressed model; the given one is not touched."""
        ...


class Piped:
    """The operator `|` and the text of a scheme, for the dataclasses of this package."""

    def __or__(self, other: Scheme) -> Compose:
        return Compose(self, other)  # type: ignore[arg-type]

    def __str__(self: Expressible) -> str:
        return format_expression(self)


@dataclass(frozen=True, init=False)
class Compose(Piped):
    """Schemes applied one after the other; nested compositions are flattened, so `|` is associative.

    Raises InvalidArgumentError for fewer than two schemes, and for anything that is no scheme.

    >>> from cp_compress.model import Prune, Quantize
    >>> str(Prune(0.1) | Quantize("float16"))
    'prune(density=0.1) | quantize(float16)'
    """

    schemes: tuple[Scheme, ...]

    def __init__(self, *schemes: Scheme) -> None:
        flat: list[Scheme] = []
        for scheme in schemes:
            if isinstance(scheme, type) or not isinstance(scheme, Scheme):
                reject("Compose", "schemes", scheme, "every part must be a scheme, such as Prune(density=0.5)")
            flat.extend(scheme.schemes if isinstance(scheme, Compose) else [scheme])
        if len(flat) < 2:
            reject("Compose", "schemes", schemes, "a composition has two schemes or more; use a single one by itself")
        object.__setattr__(self, "schemes", tuple(flat))

    def __str__(self) -> str:
        return " | ".join(map(str, self.schemes))

    def content(self) -> str:
        """Return the texts of the schemes with the digests of the data that they use."""
        return " | ".join(map(scheme_content, self.schemes))

    def compress(self, model: nn.Module) -> nn.Module:
        """Return a new model to which every scheme was applied, in order.

        Raises what the schemes raise, for example CompressionError for pruning after quantising to int8.
        """
        for scheme in self.schemes:
            model = apply_scheme(scheme, model)
        return model


def apply_scheme(scheme: Scheme, model: nn.Module) -> nn.Module:
    """Return the model compressed by a scheme, and recorded as made by it where the scheme records nothing itself.

    Raises what the scheme raises, and CompressionError for a scheme that does not return a new model.

    >>> import copy, torch
    >>> from cp_compress.model import compression_steps
    >>> class Halve:
    ...     def __str__(self):
    ...         return "halve"
    ...     def compress(self, model):
    ...         return copy.deepcopy(model).half()
    >>> compression_steps(apply_scheme(Halve(), torch.nn.Linear(2, 2)))
    ('halve',)
    """
    from torch import nn

    before = read_steps(model)
    made = scheme.compress(model)
    if made is model or not isinstance(made, nn.Module):
        what = "the model that it was given" if made is model else f"a {type(made).__name__}"
        raise CompressionError(f"{_text(scheme)} returned {what}: a scheme returns a new torch.nn.Module")
    if len(read_steps(made)) <= len(before):
        write_steps(made, (*before, Step(_text(scheme), (), ())))
    return made


def _text(scheme: Scheme) -> str:
    """Return a scheme's text, or its class's name where that would be a place in memory."""
    kind: Any = type(scheme)
    plain = kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__
    return kind.__name__ if plain else str(scheme)


def compose(schemes: Sequence[Scheme]) -> Scheme:
    """Return the only scheme of a sequence, or the composition of all.

    >>> from cp_compress.model import Prune
    >>> compose([Prune(0.5)])
    Prune(density=0.5, scope='global', include=(), exclude=())
    """
    return schemes[0] if len(schemes) == 1 else Compose(*schemes)


def scheme_content(scheme: object) -> str:
    """Return all that the result of a scheme depends on, but the model: its text, and digests of the data it uses.

    A scheme whose text says all has none of its own; one that reads data offers a method `content()`.

    >>> from cp_compress.model import Prune
    >>> scheme_content(Prune(0.5))
    'prune(density=0.5)'
    """
    content = getattr(scheme, "content", None)
    return str(content()) if callable(content) else str(scheme)
