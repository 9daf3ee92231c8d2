"""Directions of many examples, made for a block of examples at a time to bound the memory."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from cp_compress.base.arguments import reject
from cp_compress.base.batching import slices
from cp_compress.base.digests import digest_text
from cp_compress.fidelity.boundaries.benign import BenignChanges, benign_directions_at, require_benign
from cp_compress.fidelity.boundaries.directions import Directions, as_directions, direction_digest
from cp_compress.fidelity.boundaries.families import (
    class_gradient_names,
    class_gradient_origin,
    gate_directions_at,
    shared_gate_directions,
    standard_counts,
)
from cp_compress.fidelity.boundaries.worst import worst_case_names, worst_case_origin, worst_directions_at
from cp_compress.fidelity.observing.sampling import batch_size_for
from cp_compress.fidelity.varying.inputs import Varied
from cp_compress.inputs.tasks import require_one_class

# with some thirty directions an example, and some ten, a block then holds about three batches of rays
_GATE_SHARE, _BENIGN_SHARE = 8, 4


class DirectionBlocks:
    """Directions for each of many examples, as `Directions` are, but made when a ray along them starts.

    `make` gives the `Directions` of some of `examples` inputs of `input_shape`, by their positions (k,); `size` is how
    many it is asked for at once. `names`, `families`, `digest` and `absent` are those of the whole set. The first block
    is made at once, so that a model that has no such directions is refused early.
    """

    per_example = True

    def __init__(
        self,
        make: Callable[[Tensor], Directions],
        size: int,
        examples: int,
        digest: str,
        names: tuple[str, ...],
        families: tuple[str, ...],
        absent: Tensor | None = None,
    ) -> None:
        self.make, self.size, self.total = make, size, examples
        self.digest, self.names, self.families, self.absent = digest, names, families, absent
        self.rows = torch.arange(examples)
        self._made: dict[int, Directions] = {}
        self.input_shape = self._block(0).input_shape

    def __len__(self) -> int:
        return len(self.names)

    @property
    def examples(self) -> int:
        """The number of examples."""
        return len(self.rows)

    def select(self, rows: Tensor) -> DirectionBlocks:
        """Return the directions of the examples at `rows` (k,), made in the same blocks."""
        part = copy.copy(self)
        part.rows = self.rows[rows]
        part.absent = None if self.absent is None else self.absent[rows]
        return part

    def gather(self, examples: Tensor, columns: Tensor) -> Tensor:
        """Return the directions (k, *input) at pairs of example and column (k,); cheap for examples in order."""
        places = self.rows[examples]
        blocks = torch.div(places, self.size, rounding_mode="floor")
        found: Tensor | None = None
        for block in sorted(set(blocks.tolist())):
            pairs = (blocks == block).nonzero().flatten()
            vectors = self._block(block).gather(places[pairs] - block * self.size, columns[pairs])
            found = vectors.new_empty(len(places), *self.input_shape) if found is None else found
            found[pairs] = vectors
        assert found is not None
        return found

    def _block(self, block: int) -> Directions:
        if block not in self._made:
            self._made.clear()  # before the next is made, so that there is never more than one
            first = block * self.size
            self._made[block] = self.make(torch.arange(first, min(first + self.size, self.total)))
        return self._made[block]


def as_rays(
    owner: str, directions: Directions | DirectionBlocks | Tensor, examples: int, input_shape: tuple[int, ...]
) -> Directions | DirectionBlocks:
    """Return directions for so many examples of a shape, as `as_directions` does, those made in blocks as they are."""
    if not isinstance(directions, DirectionBlocks):
        return as_directions(owner, directions, examples, input_shape)
    if (directions.examples, directions.input_shape) != (examples, input_shape):
        found = f"{directions.examples} examples {directions.input_shape}"
        reject(owner, "directions", found, f"must be directions for {examples} examples {input_shape}")
    return directions


def gate_blocks(
    varied: Varied, *, seed: int = 0, residuals: Directions | None = None, batch_size: int | None = None
) -> Directions | DirectionBlocks:
    """Return `gate_directions` of some examples of a reference, made in blocks, with their digest.

    Those of a reference whose content has no digest are made at once, because theirs is that of the directions.
    """
    reference = varied.observation
    require_one_class(reference.task)
    gradients = standard_counts(varied.counting_shape)[0]
    ranks = len(names := class_gradient_names(reference, gradients))
    origin = class_gradient_origin(varied, ranks)
    shared = shared_gate_directions(varied, seed=seed)
    if origin is None:
        return gate_directions_at(varied, shared, residuals, gradients, batch_size)
    rest = [*shared, *([] if residuals is None else [residuals])]
    all_names = names + tuple(name for part in rest for name in part.names)
    families = ("class gradient",) * ranks
    digests = [direction_digest(origin, True, names, families), *(part.digest for part in rest)]
    families += tuple(family for part in rest for family in part.families)
    absent = None
    if residuals is not None and residuals.absent is not None:
        before = torch.zeros(len(varied), len(all_names) - len(residuals), dtype=torch.bool)
        absent = torch.cat([before, residuals.absent], dim=1)

    def make(rows: Tensor) -> Directions:
        own = None if residuals is None else residuals.select(rows)
        return gate_directions_at(varied.select(rows), shared, own, gradients, batch_size)

    return DirectionBlocks(
        make,
        max(1, batch_size_for(reference.runner.device, batch_size, reference.batch_size.limit).limit // _GATE_SHARE),
        len(varied),
        direction_digest(digest_text(*digests), True, all_names, families),
        all_names,
        families,
        absent,
    )


def worst_case_blocks(varied: Varied, *, batch_size: int | None = None) -> Directions | DirectionBlocks:
    """Return `worst_case_directions` of some examples, made in blocks as those of `gate_blocks` are."""
    observation = varied.observation
    require_one_class(observation.task)
    origin = worst_case_origin(varied)
    if origin is None:
        return worst_directions_at(varied, batch_size=batch_size)
    names = worst_case_names()
    families = ("worst case",) * len(names)
    return DirectionBlocks(
        lambda rows: worst_directions_at(varied.select(rows), batch_size=batch_size),
        batch_size_for(observation.runner.device, batch_size, observation.batch_size.limit).limit,
        len(varied),
        direction_digest(origin, True, names, families),
        names,
        families,
    )


def benign_blocks(varied: Varied, *, batch_size: int | None = None) -> Directions | DirectionBlocks:
    """Return `benign_directions` of some examples, made in blocks as those of `gate_blocks` are."""
    reference, chosen = varied.observation, varied.chosen
    require_one_class(reference.task)
    if reference.model_digest is None:
        return benign_directions_at(varied)
    require_benign(varied)
    size = max(
        1, batch_size_for(reference.runner.device, batch_size, reference.batch_size.limit).limit // _BENIGN_SHARE
    )
    every = BenignChanges(varied)
    # an example's absent directions, and those that none has, are told before a ray starts
    changes, still = every.without_idle(torch.cat([every.still(part) for part in slices(len(chosen), size)]))
    origin = changes.origin
    assert origin is not None

    def make(rows: Tensor) -> Directions:
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        return changes.directions(part, still[part])

    return DirectionBlocks(
        make,
        size,
        len(chosen),
        direction_digest(origin, True, changes.kinds, changes.families),
        changes.kinds,
        changes.families,
        still if bool(still.any()) else None,
    )
