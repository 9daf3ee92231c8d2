"""Directions along which inputs are moved: unit vectors with readable names, and combinations of them."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cp_compress.base.arguments import check_integer, explains_keywords, reject
from cp_compress.base.batching import slices
from cp_compress.base.digests import digest_tensors, digest_text
from cp_compress.base.showing.brief import Brief

_BLOCK_VALUES = 2**21
_CHANNELS = {1: ("",), 3: ("red channel, ", "green channel, ", "blue channel, ")}
_AMOUNTS = ("", "half a", "one", "one and a half", "two", "two and a half", "three", "three and a half", "four")


@explains_keywords
@dataclass(frozen=True, eq=False)
class Directions:
    """Directions of unit length in the space of inputs.

    `digest` identifies the set: by default by its content. For a set computed by a model it is that of what it was
    computed from, because gradients differ in their last bits between machines.

    Args:
        tensor: Directions (directions, *input), shared by all examples, or with `per_example` (examples, directions,
            *input), of a floating-point dtype; they are scaled to unit L2 length.
        names: What each direction is.
        families: The kind of each direction.
        per_example: Whether each example has its own directions.
        origin: The digest of what the directions were computed from, or None for that of their content.
        absent: A mask (examples, directions), bool, of directions that an example does not have, such as towards a
            shifted copy of a blank image: they are zero, and their rays are not compared.

    Raises:
        InvalidArgumentError: If a direction is zero or not finite, or names, families or `absent` do not fit.

    >>> Directions(torch.tensor([[0.0, 2.0]]), ("up",), ("axis",)).tensor
    tensor([[0., 1.]])
    """

    tensor: Tensor
    names: tuple[str, ...]
    families: tuple[str, ...]
    per_example: bool = False
    origin: str | None = None
    absent: Tensor | None = None

    def __post_init__(self) -> None:
        tensor, first = self.tensor, 2 if self.per_example else 1
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.ndim <= first:
            found = f"{tensor.dtype} {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else tensor
            form = "(examples, directions, *input)" if self.per_example else "(directions, *input)"
            reject("Directions", "tensor", found, f"directions are a floating-point tensor {form}")
        if 0 in tensor.shape:
            reject("Directions", "tensor", tuple(tensor.shape), "there must be at least one direction")
        count = tensor.shape[first - 1]
        for field in ("names", "families"):
            texts = tuple(getattr(self, field))
            if len(texts) != count:
                reject("Directions", field, texts, f"one text for each of {count} directions is needed")
            object.__setattr__(self, field, texts)
        if self.absent is not None:
            self._check_absent(self.absent)
        object.__setattr__(self, "tensor", self._normalised(tensor.detach().cpu(), first))

    def _check_absent(self, absent: Tensor) -> None:
        expected = tuple(self.tensor.shape[:2])
        if not self.per_example or absent.dtype != torch.bool or tuple(absent.shape) != expected:
            rule = f"needs per_example and a bool for each example and direction, {expected}"
            reject("Directions", "absent", f"{absent.dtype} {tuple(absent.shape)}", rule)

    def _normalised(self, tensor: Tensor, first: int) -> Tensor:
        rows = tensor.flatten(first)
        if self.absent is not None:
            rows = rows.masked_fill(self.absent[..., None], 0)
        largest = rows.abs().amax(dim=-1, keepdim=True)
        if self.absent is not None:
            largest = largest.masked_fill(self.absent[..., None], 1)
        bad = ~(torch.isfinite(largest) & (largest > 0)).squeeze(-1)
        if bool(bad.any()):
            place = bad.nonzero()[0].tolist()
            where = f" for example {place[0]} of the set" if self.per_example else ""
            rule = f"{int(bad.sum())} directions are zero or not finite"
            reject("Directions", "tensor", self.names[place[-1]] + where, rule)
        flat, sizes = rows.flatten(0, -2), largest.flatten()[:, None]
        unit = torch.empty_like(flat, memory_format=torch.contiguous_format)
        for part in slices(len(flat), max(1, _BLOCK_VALUES // flat.shape[1])):  # float64 takes room
            # squares of very small or very large values would leave the dtype
            scaled = flat[part].double() / sizes[part].double()
            unit[part] = scaled / torch.linalg.vector_norm(scaled, dim=-1, keepdim=True).clamp_min(0.5)  # absent: 0
        return unit.view(tensor.shape)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.tensor.shape[2 if self.per_example else 1 :])

    @functools.cached_property
    def digest(self) -> str:
        """The hex digest of what the directions are, and of their names."""
        origin = self.origin if self.origin is not None else digest_tensors([self.tensor])
        return direction_digest(origin, self.per_example, self.names, self.families)

    def select(self, rows: Tensor) -> Directions:
        """Return the directions of the examples at `rows` (k,); shared ones are returned unchanged."""
        if not self.per_example:
            return self
        absent = None if self.absent is None else self.absent[rows]
        return Directions(self.tensor[rows], self.names, self.families, per_example=True, absent=absent)

    def gather(self, examples: Tensor, columns: Tensor) -> Tensor:
        """Return the directions (k, *input) at pairs of example and column (k,)."""
        return self.tensor[examples, columns] if self.per_example else self.tensor[columns]

    def __repr__(self) -> str:
        shared = f"for each of {len(self.tensor)} examples" if self.per_example else "shared"
        return f"Directions({len(self)} {shared}: {'; '.join(self.names[:4])}{'; …' if len(self) > 4 else ''})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Print the names alone, where IPython and Hypothesis would print every field of a dataclass."""
        printer.text(repr(self))


def direction_digest(origin: str, per_example: bool, names: tuple[str, ...], families: tuple[str, ...]) -> str:
    """Return the hex digest of directions that come from what has the digest `origin`."""
    return digest_text(origin, str(per_example), *names, *families)


def as_directions(
    owner: str, directions: Directions | Tensor, examples: int, input_shape: tuple[int, ...]
) -> Directions:
    """Return directions for so many examples of a shape, named by their numbers when given as a bare tensor.

    A tensor is (directions, *input), or (examples, directions, *input). Raises InvalidArgumentError when the
    shapes do not fit the inputs.
    """
    if isinstance(directions, Tensor):
        per_example = directions.ndim == len(input_shape) + 2
        count = directions.shape[1] if per_example else directions.shape[0] if directions.ndim else 0
        names = tuple(f"direction {number}" for number in range(count))
        directions = Directions(directions, names, ("given",) * count, per_example)
    if not isinstance(directions, Directions):
        reject(owner, "directions", directions, "give Directions, or a tensor (directions, *input)")
    if directions.input_shape != input_shape:
        reject(owner, "directions", directions, f"made for inputs {directions.input_shape}, not {input_shape}")
    if directions.per_example and len(directions.tensor) != examples:
        reject(owner, "directions", directions, f"must hold one set of directions for each of {examples} examples")
    return directions


def join_directions(parts: Sequence[Directions]) -> Directions:
    """Return all directions of several sets in one, for each example where one of them is."""
    sizes = {len(part.tensor) for part in parts if part.per_example}
    shapes = {part.input_shape for part in parts}
    if not parts or len(sizes) > 1 or len(shapes) > 1:
        reject("join_directions", "parts", list(parts), "all sets need the same input shape and number of examples")
    dtype = functools.reduce(torch.promote_types, (part.tensor.dtype for part in parts))
    tensors = [part.tensor.to(dtype) for part in parts]
    for count in sizes:
        tensors = [
            tensor if part.per_example else tensor.expand(count, *tensor.shape)
            for part, tensor in zip(parts, tensors, strict=True)
        ]
    absent = None
    if any(part.absent is not None for part in parts):
        none = [tensor.new_zeros(tensor.shape[:2], dtype=torch.bool) for tensor in tensors]
        gaps = [gap if part.absent is None else part.absent for part, gap in zip(parts, none, strict=True)]
        absent = torch.cat(gaps, dim=1)
    return Directions(
        torch.cat(tensors, dim=1 if sizes else 0),
        tuple(itertools.chain.from_iterable(part.names for part in parts)),
        tuple(itertools.chain.from_iterable(part.families for part in parts)),
        per_example=bool(sizes),
        origin=digest_text(*(part.digest for part in parts)),
        absent=absent,
    )


@explains_keywords
@dataclass(frozen=True, eq=False, repr=False)
class DirectionBasis(Brief):
    """Named unit vectors (vectors, *input) from which directions are combined, the simplest first."""

    names: tuple[str, ...]
    tensor: Tensor

    def __post_init__(self) -> None:
        checked = Directions(self.tensor, self.names, ("basis",) * len(self.names))
        object.__setattr__(self, "names", checked.names)
        object.__setattr__(self, "tensor", checked.tensor)

    def __len__(self) -> int:
        return len(self.names)

    def combine(self, combinations: Sequence[Mapping[int, int]]) -> Directions:
        """Return one direction for each mapping from the index of a basis vector to its whole coefficient.

        A direction's name lists its terms: "2 × one horizontal wave − one vertical wave". Raises
        InvalidArgumentError for an index outside the basis and for a combination in which nothing is left.

        >>> basis = low_frequency_basis((1, 8, 8))
        >>> basis.combine([{2: 1}, {1: -1, 0: 2}]).names
        ('half a vertical wave', '2 × uniform − half a horizontal wave')
        """
        coefficients = torch.zeros(len(combinations), len(self), dtype=torch.float64)
        names = []
        for row, terms in enumerate(combinations):
            kept = {}
            for index, value in sorted(terms.items()):
                rule = f"a combination maps indices in 0..{len(self) - 1} to whole numbers"
                place = check_integer("combine", "combinations", index, rule, at_least=0, at_most=len(self) - 1)
                whole = check_integer("combine", "combinations", value, rule)
                coefficients[row, place] = whole
                if whole:
                    kept[place] = whole
            if not kept:
                reject("combine", "combinations", dict(terms), "at least one coefficient must differ from 0")
            names.append(self._name(kept))
        if not names:
            reject("combine", "combinations", combinations, "give at least one combination")
        mixed = (coefficients @ self.tensor.double().flatten(1)).view(-1, *self.tensor.shape[1:])
        return Directions(mixed.to(self.tensor.dtype), tuple(names), ("combination",) * len(names))

    def cancels(self, terms: Mapping[int, int]) -> bool:
        """Return whether a combination is zero up to rounding, as it can be for linearly dependent vectors.

        >>> DirectionBasis(("up", "down"), torch.tensor([[1.0], [-1.0]])).cancels({0: 2, 1: 2})
        True
        """
        parts = [value * self.tensor[index].double() for index, value in terms.items()]
        left = torch.linalg.vector_norm(torch.stack(parts).sum(dim=0))
        return float(left) <= math.sqrt(torch.finfo(self.tensor.dtype).eps) * sum(map(abs, terms.values()))

    def _name(self, terms: Mapping[int, int]) -> str:
        texts: list[str] = []
        for index, value in terms.items():
            sign = ("− " if value < 0 else "+ ") if texts else ("−" if value < 0 else "")
            amount = "" if abs(value) == 1 else f"{abs(value)} × "
            texts.append(f"{sign}{amount}{self.names[index]}")
        return " ".join(texts)


@explains_keywords
def low_frequency_basis(input_shape: Sequence[int], *, half_waves: int = 2) -> DirectionBasis:
    """Return the cosine waves of up to `half_waves` half-periods across an input, from the slowest to the fastest.

    `input_shape` is (channels, height, width), (height, width) or (features,). In an image of several channels
    each wave comes for all channels together and for each alone: "red channel, one horizontal wave" varies from
    left to right and back. The waves are those of the type-II discrete cosine transform, float32. Raises
    InvalidArgumentError for other shapes and for `half_waves` outside 0 to 8.

    >>> low_frequency_basis((3, 32, 32)).names[5]
    'red channel, half a horizontal wave'
    >>> low_frequency_basis((64,)).names
    ('uniform', 'half a wave over the features', 'one wave over the features')
    """
    shape = tuple(input_shape)
    rule = "must be a whole number of half waves in 0..8"
    limit = check_integer("low_frequency_basis", "half_waves", half_waves, rule, at_least=0, at_most=8)
    if not 1 <= len(shape) <= 3 or not all(isinstance(size, int) and size > 0 for size in shape):
        rule = "waves exist for (channels, height, width), (height, width) and (features,); pass a tensor instead"
        reject("low_frequency_basis", "input_shape", shape, rule)
    spatial, channels = shape[-2:], shape[0] if len(shape) == 3 else 1
    waves = [_cosines(size, min(limit, size - 1)) for size in spatial]
    orders = itertools.product(*(range(len(wave)) for wave in waves))
    names, tensors = [], []
    for order in sorted(orders, key=lambda order: (sum(order), order)):
        parts = [wave[amount] for wave, amount in zip(waves, order, strict=True)]
        grid = functools.reduce(lambda rows, columns: rows[..., None] * columns, parts)
        for prefix, mask in _channel_masks(channels):
            names.append(prefix + _wave_name(order))
            tensors.append((mask.view(-1, *[1] * len(spatial)) * grid).view(shape))
    return DirectionBasis(tuple(names), torch.stack(tensors).float())


def _cosines(size: int, highest: int) -> list[Tensor]:
    place = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    return [torch.cos(torch.pi * order * place) for order in range(highest + 1)]


def _channel_masks(channels: int) -> list[tuple[str, Tensor]]:
    each = torch.eye(channels, dtype=torch.float64)
    if channels == 1:
        return [("", each[0])]
    prefixes = _CHANNELS.get(channels, tuple(f"channel {number}, " for number in range(channels)))
    return [("all channels, ", each.sum(dim=0)), *zip(prefixes, each, strict=True)]


def _wave_name(order: tuple[int, ...]) -> str:
    if not any(order):
        return "uniform"
    if len(order) == 1:
        return f"{_AMOUNTS[order[0]]} {_plural(order[0])} over the features"
    parts = [
        f"{_AMOUNTS[amount]} {kind} {_plural(amount)}"
        for kind, amount in (("vertical", order[0]), ("horizontal", order[1]))
        if amount
    ]
    return " times ".join(parts)


def _plural(half_waves: int) -> str:
    return "wave" if half_waves <= 2 else "waves"
