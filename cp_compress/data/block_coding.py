"""What ZFP's coder of bit planes costs and leaves, computed without coding: sizes, and blocks cut off at a budget.

The coder writes the planes of a block from the top. In each plane it first writes the bits of the places that an
earlier plane has reached as they are; then, for the rest, it asks whether a one is still to come (a group test) and
scans up to it, and so on. Only the last places' top bits matter for that, so that costs are sums over places.
"""

from __future__ import annotations

import torch
from torch import Tensor

PLANES = 32


def top_bits(bits: Tensor) -> Tensor:
    """Return the position of the highest one of int32 bits, −1 for none."""
    # with the bit below each one cleared, rounding to float32 cannot carry into the exponent
    thinned = bits & ~((bits >> 1) & 0x7FFFFFFF)
    positions = (thinned.clamp_min(0).to(torch.float32).view(torch.int32) >> 23) - 127
    return positions.clamp_min_(-1).masked_fill_(bits < 0, PLANES - 1)


def reach(tops: Tensor) -> Tensor:
    """Return, for each place of rows (places, blocks) in sequency order, the highest top bit from there on."""
    found, step = tops, 1
    while step < len(tops):
        found = torch.cat([torch.maximum(found[:-step], found[step:]), found[-step:]])
        step *= 2
    return found


class CodedPlanes:
    """The bits (places, blocks) of blocks in sequency order, and what writing their planes costs."""

    def __init__(self, bits: Tensor) -> None:
        self.bits = bits
        tops = top_bits(bits)
        self.reach = reach(tops)
        self._ends = tops == self.reach  # places at which a scan would end

    def cost(self, lowest: Tensor) -> Tensor:
        """Return the bits (blocks,) that all planes down to `lowest` (blocks,), 0…32, take."""
        last = self.reach[-1]
        reached = self.reach >= lowest
        written = (self.reach - lowest + 1).clamp_min_(0).sum(0)
        tests = (self._ends & reached).sum(0)
        negative = torch.minimum(PLANES - lowest, PLANES - 1 - last)
        implied = reached[-1] & (lowest < PLANES)
        return written + tests + negative - implied.to(written.dtype)

    def cut(self, budget: int) -> Tensor:
        """Return what a decoder makes of the first `budget` bits of each block."""
        lowest = self._last_whole_plane(budget)
        left = budget - self.cost(lowest)
        whole = self.bits & torch.where(lowest < PLANES, torch.full_like(lowest, -1) << lowest.clamp_max(31), 0)
        return whole | self._partial_plane(lowest, left)

    def _last_whole_plane(self, budget: int) -> Tensor:
        low = torch.zeros_like(self.reach[0])
        high = torch.full_like(low, PLANES)
        for _ in range(PLANES.bit_length()):
            middle = (low + high) >> 1
            fits = self.cost(middle) <= budget
            high = torch.where(fits, middle, high)
            low = torch.where(fits, low, torch.minimum(middle + 1, high))
        return high

    def _partial_plane(self, above: Tensor, left: Tensor) -> Tensor:
        """Return the bits that are read of the plane below `above` when so many bits are left."""
        plane = (above - 1).clamp_min(0)
        ones = (self.bits >> plane) & 1
        literal = self.reach >= above
        scanned = ~literal & (self.reach >= plane)
        after_one = torch.cat([torch.ones_like(literal[:1]), literal[:-1] | (ones[:-1] == 1)])
        scan = scanned.to(torch.int32)
        scan[-1] = 0  # a one that must be at the last place is not written
        costs = literal.to(torch.int32) + scan + (scanned & after_one).to(torch.int32)
        spent = costs.cumsum(0, dtype=torch.int32)
        read = spent <= left
        # within a scan that the budget ends, the decoder takes the first place that it cannot read for the one
        assumed = scanned & ~read & (spent - scan <= left)
        found = torch.where(read & (literal | scanned), ones, assumed.to(torch.int32))
        return torch.where(above > 0, found << plane, 0)
