"""The inputs among which a disagreement is searched: a ball around each seed, valid values, and points between."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cp_compress.base.arguments import check_choice, check_real, reject

Norm = Literal["linf", "l2"]
Lattice = Literal["uint8"] | None
_LEVELS = 255


@dataclass(frozen=True)
class SearchSpace:
    """Inputs within `epsilon` of a seed by a norm, inside `bounds`, and on the uint8 lattice (k / 255) where asked.

    `epsilon` is in units of the inputs, inf for no limit; `bounds` is a pair of numbers or None. `reach`, finite, is
    how far from a seed a search goes, by the norm.
    """

    epsilon: float
    norm: Norm
    lattice: Lattice
    bounds: tuple[float, float] | None
    reach: float

    def points(self, inputs: Tensor, seeds: Tensor) -> Tensor:
        """Return the inputs (n, ...) of the space that are nearest to `inputs`, each in the ball of its seed.

        They are rounded towards the seeds, to the dtype or the lattice, so that ball and bounds are never left.
        """
        start = seeds.double()
        inside = start + self._shorten(inputs.double() - start)
        if self.bounds is not None:
            inside = inside.clamp(*self.bounds)
        if self.lattice is None:
            near = inside.to(seeds.dtype)
            beyond = (near.double() - start).abs() > (inside - start).abs()
            return torch.where(beyond, _next(near, seeds), near)
        moved = (inside * _LEVELS - (start * _LEVELS).round()).to(seeds.dtype)
        # a coordinate that float32 puts a hair below a level is at that level
        steps = torch.where(moved >= 0, (moved + 1e-3).floor(), (moved - 1e-3).ceil())
        return ((seeds * _LEVELS).round() + steps) / _LEVELS

    def draw(self, inputs: Tensor, seeds: Tensor, generator: torch.Generator) -> Tensor:
        """Return inputs (n, ...) of the space near `inputs`; on the lattice the nearer of two levels is the likelier.

        Moves shorter than a level so change some of the coordinates instead of none.
        """
        if self.lattice is None:
            return self.points(inputs, seeds)
        chances = torch.rand(inputs.shape, generator=generator, dtype=torch.float64).to(inputs)
        return self.points((inputs * _LEVELS + chances).floor() / _LEVELS, seeds)

    def _shorten(self, moves: Tensor) -> Tensor:
        if math.isinf(self.epsilon):
            return moves
        if self.norm == "linf":
            return moves.clamp(-self.epsilon, self.epsilon)
        lengths = torch.linalg.vector_norm(moves.flatten(1), dim=1).clamp_min(torch.finfo(moves.dtype).tiny)
        shares: Tensor = (self.epsilon / lengths).clamp_max(1).view(-1, *[1] * (moves.ndim - 1))
        return moves * shares

    def step(self, gradients: Tensor, size: float) -> Tensor:
        """Return steepest moves of length `size` along gradients (n, ...), by the norm of the space."""
        if self.norm == "linf":
            return size * gradients.sign()
        lengths = torch.linalg.vector_norm(gradients.flatten(1), dim=1).clamp_min(torch.finfo(gradients.dtype).tiny)
        moves: Tensor = size * gradients / lengths.view(-1, *[1] * (gradients.ndim - 1))
        return moves

    def noise(self, seeds: Tensor, generator: torch.Generator) -> Tensor:
        """Return a random point of each seed's ball (n, ...), before bounds and lattice; drawn on the CPU."""
        if self.norm == "linf":
            uniform = torch.rand(seeds.shape, generator=generator, dtype=torch.float64)
            return seeds + ((2 * uniform - 1) * self.reach).to(seeds)
        normal = torch.randn(seeds.shape, generator=generator, dtype=torch.float64)
        return seeds + self.step(normal, self.reach).to(seeds)

    def middle(self, low: Tensor, high: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the points halfway between pairs (n, ...), and which of them (n,) are neither of their ends.

        On the lattice a coordinate in which the ends are an odd number of levels apart has two middles: half of those
        coordinates, drawn at random, take the upper one. Ends one level apart in several coordinates so have points
        between them too, and only those that differ by one level in one coordinate have none.
        """
        if self.lattice is None:
            middle = low + (high - low) / 2
            inner = ((middle != low) & (middle != high)).flatten(1).any(dim=1)
            return middle, inner
        first, last = (low * _LEVELS).round(), (high * _LEVELS).round()
        total = first + last
        odd = total.remainder(2) != 0
        keys = torch.rand(total.shape, generator=generator, dtype=torch.float64).to(total.device)
        up = _lower_half(torch.where(odd, keys, torch.inf).flatten(1), odd.flatten(1)).view_as(odd)
        middle = (total / 2).floor() + up.to(total.dtype)
        inner = ((middle != first).flatten(1).any(dim=1)) & ((middle != last).flatten(1).any(dim=1))
        return middle / _LEVELS, inner


def _next(values: Tensor, towards: Tensor) -> Tensor:
    """Return the next numbers of the dtype; of float16 not every device can tell them."""
    if values.dtype == torch.float16:
        return torch.nextafter(values.cpu(), towards.cpu()).to(values.device)
    return torch.nextafter(values, towards)


def _lower_half(keys: Tensor, among: Tensor) -> Tensor:
    """Mark, in each row, the half of the entries `among` with the smallest keys, rounded up."""
    order = keys.argsort(dim=1)
    ranks = torch.empty_like(order).scatter_(1, order, torch.arange(keys.shape[1], device=keys.device).expand_as(order))
    return among & (ranks < (among.sum(dim=1, keepdim=True) + 1) // 2)


def search_space(
    owner: str, seeds: Tensor, epsilon: float | None, norm: str, lattice: str | None, bounds: tuple[float, float] | None
) -> SearchSpace:
    """Return the space around seeds (n, ...); raises InvalidArgumentError, as `owner`, for what does not fit them."""
    if not isinstance(seeds, Tensor) or not seeds.is_floating_point() or seeds.ndim < 2 or not len(seeds):
        found = f"{seeds.dtype} {tuple(seeds.shape)}" if isinstance(seeds, Tensor) else seeds
        reject(owner, "seeds", found, "must be a floating-point tensor (n, *input) with n of 1 or more")
    if not bool(torch.isfinite(seeds).all()):
        first = int((~torch.isfinite(seeds).flatten(1).all(dim=1)).nonzero()[0])
        reject(owner, "seeds", f"NaN or infinite at #{first}", "all values must be finite numbers")
    rule = "must be a positive distance in units of the inputs, or None for no limit"
    reach = math.inf if epsilon is None else check_real(owner, "epsilon", epsilon, rule, above=0)
    check_choice(owner, "norm", norm, ("linf", "l2"))
    if lattice is not None:
        check_choice(owner, "lattice", lattice, ("uint8",))
        bounds = (0.0, 1.0) if bounds is None else bounds
    if bounds is not None:
        rule = "must be a pair (low, high) of numbers with low < high, or None"
        if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
            reject(owner, "bounds", bounds, rule)
        low = check_real(owner, "bounds", bounds[0], rule)
        bounds = (low, check_real(owner, "bounds", bounds[1], rule, above=low))
        if bool((seeds < bounds[0]).any()) or bool((seeds > bounds[1]).any()):
            reject(owner, "seeds", (float(seeds.min()), float(seeds.max())), f"all values must lie in {bounds}")
    if lattice is not None:
        _check_lattice(owner, seeds, reach, norm, bounds)
    return SearchSpace(reach, norm, lattice, bounds, _finite_reach(seeds, reach, norm, bounds))  # type: ignore[arg-type]


def _finite_reach(seeds: Tensor, epsilon: float, norm: str, bounds: tuple[float, float] | None) -> float:
    """Return epsilon, or how far apart inputs can be where that is less, in whatever unit the inputs are given."""
    if bounds is None and math.isfinite(epsilon):
        return epsilon
    low, high = bounds if bounds is not None else (float(seeds.min()), float(seeds.max()))
    width = high - low or abs(high) or 1.0  # seeds that are all one number say no more than its size
    return min(epsilon, width * math.sqrt(seeds[0].numel()) if norm == "l2" else width)


def _check_lattice(owner: str, seeds: Tensor, reach: float, norm: str, bounds: tuple[float, float] | None) -> None:
    if bounds != (0.0, 1.0):
        reject(owner, "bounds", bounds, "valid uint8 images lie in (0, 1)")
    away = float((seeds * _LEVELS - (seeds * _LEVELS).round()).abs().max())
    if away > 1e-3:
        rule = (
            f"must be images k / 255 with whole k to search among such images; these are off by up to {away:.3g} / 255"
        )
        reject(owner, "seeds", (float(seeds.min()), float(seeds.max())), rule)
    if reach * _LEVELS < 1 - 1e-6:
        reject(owner, "epsilon", reach, f"must be 1/255 or more on the uint8 lattice ({norm} norm)")
