"""What a compression scheme is, how schemes follow one another, and how they are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from cp_compress.base.arguments import explains_keywords, reject
from cp_compress.base.errors import CompressionError
from cp_compress.base.expressions import Expressible, format_expression
from cp_compress.base.lazy import LazyModule
from cp_compress.inputs.seen import seen_digests, write_seen
from cp_compress.model.copying import copy_whole
from cp_compress.model.effects import Effect
from cp_compress.model.order import leaves_of, name_of, undoes_of
from cp_compress.model.record import read_steps, write_steps
from cp_compress.model.sources import add_source

if TYPE_CHECKING:
    from torch import nn


@runtime_checkable
class Scheme(Protocol):
    """An immutable, hashable value that makes a compressed model from a model.

    Two optional attributes, or properties where they depend on the arguments, say which schemes may follow one another
    on the same weight:

    - `leaves`: a tuple of what the scheme leaves behind for later steps to keep;
    - `undoes`: a tuple of what it destroys in a weight that it changes.

    Both hold any of "zeros", "pattern" (zeros whose places matter, as n of every m neighbours), "removed_channels",
    "factors" (of low rank) and "rounded_numbers"; `()` says that there is nothing. A scheme that undoes what an earlier
    one left in the same weight is refused with CompressionError. What is declared is not checked against the result.

    A scheme without `leaves` is judged by its result: in each weight matrix that it gave new zeros, later steps must
    keep them. A scheme without `undoes` is refused where it fills zeros that an earlier step left, where it replaces
    such a weight by something else, and where it changes the shape of a weight with a pattern. A scheme that rounds
    must declare `leaves = ("rounded_numbers",)` for models to be trained under it.

    >>> import copy, dataclasses, torch
    >>> from cp_compress.model import LowRank
    >>> @dataclasses.dataclass(frozen=True)
    ... class DropSmall:
    ...     limit: float
    ...     leaves = ("zeros",)
    ...     undoes = ()
    ...     def compress(self, model):
    ...         made = copy.deepcopy(model)
    ...         for parameter in made.parameters():
    ...             parameter.data[parameter.abs() < self.limit] = 0
    ...         return made
    >>> Compose(DropSmall(0.05), LowRank(rank=2)).compress(torch.nn.Linear(16, 16))
    Traceback (most recent call last):
    ...
    cp_compress.base.errors.CompressionError: low_rank(rank=2) cannot follow ... put low_rank first
    """

    def compress(self, model: nn.Module) -> nn.Module:
        """Return a new, compressed model; the given one is not touched."""
        ...


_registry = LazyModule("cp_compress.model.registry")  # it lies above, since it lists all schemes


def as_scheme(owner: str, value: object) -> Scheme:
    """Return a scheme, or that of an expression such as "prune(density=0.5)"; rejects, as `owner`, anything else."""
    if isinstance(value, str):
        scheme: Scheme = _registry.parse_scheme(value)
        return scheme
    if isinstance(value, type) or not isinstance(value, Scheme):
        rule = 'must be a scheme, such as Prune(density=0.5), or its expression, such as "prune(density=0.5)"'
        if isinstance(value, (list, tuple)) and value:
            told = "leave out the list" if len(value) == 1 else "several are joined by |"
            rule = f"{rule}; {told}: {' | '.join(map(str, value))}"
        elif isinstance(value, type) and callable(getattr(value, "compress", None)):
            rule = f"{rule}; this is its class: make one, as {value.__name__}(…)"
        reject(owner, "scheme", value, rule)
    return value


class Piped:
    """The operator `|` and the text of a scheme, which is its repr too, for the dataclasses of this package."""

    def __or__(self, other: Scheme | str) -> Compose:
        return Compose(self, other)  # type: ignore[arg-type]

    def __ror__(self, other: str) -> Compose:
        return Compose(other, self)  # type: ignore[arg-type]

    def __str__(self: Expressible) -> str:
        return format_expression(self)

    def __repr__(self) -> str:
        return str(self)


@explains_keywords
@dataclass(frozen=True, init=False, repr=False)
class Compose(Piped):
    """Schemes, or their expressions, applied one after the other; nested ones are flattened, so `|` is associative.

    Raises InvalidArgumentError for fewer than two schemes, for anything that is no scheme, and for a scheme that
    declares an unknown kind of what it leaves or undoes.

    >>> from cp_compress.model import Prune, Quantize
    >>> str(Prune(0.1) | Quantize("float16"))
    'prune(density=0.1) | quantize(float16)'
    """

    schemes: tuple[Scheme, ...]

    def __init__(self, *schemes: Scheme | str) -> None:
        flat: list[Scheme] = []
        for scheme in (as_scheme("Compose", one) for one in schemes):
            flat.extend(scheme.schemes if isinstance(scheme, Compose) else [scheme])
        for scheme in flat:
            leaves_of(scheme), undoes_of(scheme)
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

        Raises what the schemes raise, for example CompressionError for pruning after quantising to int8, and
        CompressionError for a scheme that undoes what an earlier one left behind.
        """
        for scheme in self.schemes:
            model = apply_scheme(scheme, model)
        return model


def apply_scheme(scheme: Scheme | str, model: nn.Module, owner: str = "apply_scheme") -> nn.Module:
    """Return the model compressed by a scheme or its expression, and recorded as made by it where it records nothing.

    A scheme of a user's own is given a copy, so that the model stays as it is whatever the scheme does to it.

    Raises what the scheme raises, and CompressionError for a scheme that does not return a new model, or that undoes
    what an earlier step left behind.

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

    scheme = as_scheme(owner, scheme)
    if isinstance(scheme, Compose):  # its schemes are judged and recorded one by one
        return scheme.compress(model)
    leaves_of(scheme), undoes_of(scheme)  # a wrong declaration is refused before any work
    # a scheme of a user's own may change what it is given; the reference must not change with it
    given = model if _is_of_this_package(scheme) else copy_whole(model)
    made = scheme.compress(given)
    if made is given or not isinstance(made, nn.Module):
        what = "the model that it was given" if made is given else f"a {type(made).__name__}"
        raise CompressionError(f"{name_of(scheme)} returned {what}: a scheme returns a new torch.nn.Module")
    effect = Effect(scheme, model, made)
    effect.require_kept()
    if len(read_steps(made)) <= len(read_steps(model)):
        write_steps(made, (*effect.earlier(), effect.step()))
    if given is not model:
        add_source(made, model)
    write_seen(made, seen_digests(model))  # a scheme may return a new module, which carries nothing
    return made


def _is_of_this_package(scheme: object) -> bool:
    return type(scheme).__module__.startswith("cp_compress.")


def compose(schemes: Sequence[Scheme]) -> Scheme:
    """Return the only scheme of a sequence, or the composition of all.

    >>> from cp_compress.model import Prune
    >>> compose([Prune(0.5)])
    prune(density=0.5)
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
