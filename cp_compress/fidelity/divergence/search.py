"""The bisection that finds a disagreement: all seeds together, each with its own state."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from cp_compress.base.batching import BatchSize, slices
from cp_compress.base.showing.work import Work
from cp_compress.fidelity.divergence.labels import Labeler, Verifier
from cp_compress.fidelity.divergence.space import SearchSpace
from cp_compress.fidelity.observing.gradients import differentiable, differentiating, require_gradients
from cp_compress.fidelity.observing.runner import Runner

_GRADIENT_STEPS = 10
_FLOAT_BISECTIONS = 40


class Search:
    """Seeds (n, ...) and what was found for each so far; `run` goes on until all are found or their budget is spent.

    A path starts at a seed, where both models say y, and ends at an input on which the reference says something else.
    Each halving asks both models about the middle: equal answers shorten the path, on which both still change their
    answer, and different ones are what is looked for. `guided` (n,) says where something led the way: a gradient other
    than zero, or another seed.
    """

    def __init__(
        self,
        candidate: Labeler,
        reference: Labeler,
        seeds: Tensor,
        space: SearchSpace,
        *,
        guide: str,
        queries: int,
        verifier: Verifier | None,
        generator: torch.Generator,
        batch: BatchSize,
    ) -> None:
        self.candidate, self.reference, self.space, self.verifier = candidate, reference, space, verifier
        self.seeds, self.guide, self.budget = seeds, guide, queries
        self.generator, self.batch = generator, batch
        count = len(seeds)
        self.inputs = seeds.clone()
        self.found = torch.zeros(count, dtype=torch.bool)
        self.queries = torch.zeros(count, dtype=torch.int64)
        self.classes = torch.empty(count, 2, dtype=torch.int64)
        self.margins = torch.full((count, 2), torch.nan, dtype=torch.float64)
        self.unconfirmed = torch.zeros(count, dtype=torch.int64)
        self.seed_classes = torch.empty(count, dtype=torch.int64)
        self.agreeing = torch.ones(count, dtype=torch.bool)
        self.guided = torch.zeros(count, dtype=torch.bool)
        self.work = Work(f"divergences around {count} seeds", 2 * count * queries)

    def run(self, restarts: int) -> None:
        """Look at the seeds, then follow up to 1 + `restarts` paths from each seed."""
        everything = torch.arange(len(self.seeds))
        candidate, reference = self.candidate.classes(self.seeds), self.reference.classes(self.seeds)
        self.seed_classes = reference
        self.agreeing = candidate == reference
        self.classes = torch.stack([candidate, reference], dim=1)
        self._settle(everything[~self.agreeing], self.seeds[~self.agreeing])
        if self.guide == "gradient" and bool(self.agreeing.any()):
            require_gradients(self.reference.runner, self.seeds[:1], 'find_divergence(guide="gradient")')
        for attempt in range(1 + restarts):
            rows = (self.agreeing & ~self.found & (self.queries < self.budget)).nonzero().flatten()
            if not len(rows):
                return
            self._follow(*self._ends(rows, attempt))

    def _ends(self, rows: Tensor, attempt: int) -> tuple[Tensor, Tensor]:
        """Return the rows that have a path, and the far ends of their paths."""
        seeds, classes = self.seeds[rows], self.seed_classes[rows]
        # drawn for all seeds, so that what one seed gets does not depend on which others are done
        noise = self.space.noise(self.seeds, self.generator)[rows]
        if self.guide == "gradient":
            start = seeds if attempt == 0 else self.space.points(noise, seeds)
            ends, stuck = torch.empty_like(seeds), torch.empty(len(rows), dtype=torch.bool)

            def push(part: slice) -> None:
                ends[part], stuck[part] = _leave_class(
                    self.reference.runner, start[part], seeds[part], classes[part], self.space
                )

            self.batch.run(len(rows), push)
            self.guided[rows[~stuck]] = True
            if not bool(stuck.any()):
                return rows, ends
            lost, towards = self._towards_others(rows[stuck])
            return torch.cat([rows[~stuck], lost]), torch.cat([ends[~stuck.to(ends.device)], towards])
        rows, ends = self._towards_others(rows)
        self.guided[rows] = True
        return rows, ends

    def _towards_others(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows to which another seed is of another class, and the points of their balls nearest to one."""
        others = self._others(rows)
        rows, targets = rows[others >= 0], self.seeds[others[others >= 0]]
        return rows, self.space.points(targets, self.seeds[rows])

    def _others(self, rows: Tensor) -> Tensor:
        """Return for each row another seed of another class, drawn at random, −1 where there is none."""
        count, others = len(self.seeds), torch.empty(len(self.seeds), dtype=torch.int64)
        # drawn for all seeds, as above, and in blocks: of many seeds all pairs at once would take the memory
        for part in slices(count, self.batch.limit):
            keys = torch.rand(part.stop - part.start, count, generator=self.generator)
            keys[self.seed_classes[part][:, None] == self.seed_classes[None, :]] = -1
            best, place = keys.max(dim=1)
            others[part] = torch.where(best >= 0, place, -1)
        return others[rows]

    def _follow(self, walking: Tensor, ends: Tensor) -> None:
        low, high = self.seeds[walking].clone(), ends
        points, steps = high, 0
        while len(walking):
            candidate, reference = self._ask(walking, points)
            same, back = candidate == reference, reference == self.seed_classes[walking]
            self._settle(walking[~same], points[~same])
            back_rows = (same & back).to(low.device).view(-1, *[1] * (low.ndim - 1))
            if steps:
                low, high = torch.where(back_rows, points, low), torch.where(back_rows, high, points)
                going = same
            else:
                going = same & ~back  # an end at which nothing changed brackets nothing
                self.guided[walking[~back]] = True
            going = going & (self.queries[walking] < self.budget)
            walking, low, high = walking[going], low[going], high[going]
            points, inner = self.space.middle(low, high, self.generator)
            inner = inner.cpu()
            steps += 1
            if self.space.lattice is None and steps > _FLOAT_BISECTIONS:
                return
            walking, low, high, points = walking[inner], low[inner], high[inner], points[inner]

    def _ask(self, rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        self.queries[rows] += 1
        answers = self.candidate.classes(points), self.reference.classes(points)
        self.work.done(2 * len(rows))
        return answers

    def _settle(self, rows: Tensor, points: Tensor, *, clearly: bool = False) -> None:
        """Keep the disagreements that hold when they are looked at closely; `clearly` asks that of both margins."""
        if not len(rows):
            return
        if self.verifier is None:
            holds = torch.ones(len(rows), dtype=torch.bool)
            (first, first_margin), (second, second_margin) = (
                self.candidate.answers(points),
                self.reference.answers(points),
            )
            classes, margins = torch.stack([first, second], 1), torch.stack([first_margin, second_margin], 1)
        else:
            confirmed = self.verifier.confirm(points)
            holds, classes, margins = confirmed.holds, confirmed.classes, confirmed.margins
            holds = confirmed.sure if clearly else holds
        kept = rows[holds]
        self.inputs[kept], self.found[kept] = points[holds], True
        self.classes[kept], self.margins[kept] = classes[holds], margins[holds]
        self.unconfirmed[rows[~self.found[rows]]] += 1

    def minimise(self) -> None:
        """Move each found input towards its seed for as long as they disagree, within what is left of the budget."""
        rows = (self.found & self.agreeing & (self.queries < self.budget)).nonzero().flatten()
        low, high, steps = self.seeds[rows].clone(), self.inputs[rows].clone(), 0
        while len(rows) and steps < _FLOAT_BISECTIONS:
            points, inner = self.space.middle(low, high, self.generator)
            keep = inner.cpu() & (self.queries[rows] < self.budget)
            rows, low, high, points = rows[keep], low[keep], high[keep], points[keep]
            if not len(rows):
                return
            candidate, reference = self._ask(rows, points)
            differs = candidate != reference
            self._settle(rows[differs], points[differs], clearly=True)
            accepted = (self.inputs[rows] == points).flatten(1).all(dim=1) & differs.to(points.device)
            nearer = accepted.view(-1, *[1] * (low.ndim - 1))
            low, high = torch.where(nearer, low, points), torch.where(nearer, points, high)
            steps += 1


def _leave_class(
    runner: Runner, start: Tensor, seeds: Tensor, classes: Tensor, space: SearchSpace
) -> tuple[Tensor, Tensor]:
    """Return inputs (n, ...) of the space on which the reference leaves the seeds' classes, or comes nearest to it.

    The first such input on the way is taken: the shorter the path, the fewer the halvings. Where the ball holds none,
    it is the last: there the candidate may have left its class already. On a lattice the way itself
    is not rounded, because a step may be shorter than a level. Also returned is where (n,) the gradient at the start is
    zero and the class the seed's: there is no way.
    """
    size = 2.5 * space.reach / _GRADIENT_STEPS
    way = dataclasses.replace(space, lattice=None)
    place, ends = start, start.clone()
    left = torch.zeros(len(seeds), dtype=torch.bool)
    flat: Tensor | None = None
    target = classes.to(runner.device)[:, None]
    for _ in range(_GRADIENT_STEPS + 1):
        points = space.points(place, seeds)
        with differentiating(runner):
            leaf = differentiable(runner, points)
            logits = runner.logits(leaf)
            own = logits.gather(1, target).squeeze(1)
            other = logits.scatter(1, target, -torch.inf).amax(dim=1)
            (gradients,) = torch.autograd.grad((other - own).sum(), leaf)
        outside = (logits.detach().argmax(dim=1) != target.squeeze(1)).cpu()
        fresh = (outside & ~left).to(points.device)
        ends[fresh] = points[fresh]
        left |= outside
        ends[~left] = points[~left]
        if flat is None:
            flat = ~(left | gradients.flatten(1).any(dim=1).cpu())
        if bool(left.all()):
            break
        place = way.points(place + space.step(gradients.to(place), size), seeds)
    assert flat is not None
    return ends, flat
