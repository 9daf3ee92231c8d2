"""The search for the first class change along many rays, all of them together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cp_compress.base.arguments import check_integer, check_real, explains_keywords, reject
from cp_compress.base.batching import BatchSize
from cp_compress.base.errors import ObservationError
from cp_compress.base.showing.brief import Brief
from cp_compress.base.showing.work import Work
from cp_compress.fidelity.boundaries.blocks import DirectionBlocks, as_rays
from cp_compress.fidelity.boundaries.directions import Directions
from cp_compress.fidelity.observing.runner import Model, Runner
from cp_compress.fidelity.observing.sampling import batch_size_for
from cp_compress.inputs.tasks import require_one_class

Bounds = tuple[float | Tensor, float | Tensor]


@explains_keywords
@dataclass(frozen=True, eq=False, repr=False)
class BoundarySearch(Brief):
    """Where rays leave the class of their seed.

    Attributes:
        distances: The distances (examples, directions), float64, inf if no change was found.
        classes: The classes (examples, directions) reached there, −1 if none was.
        seed_classes: The classes (examples,) at the seeds.
        evaluations: The number of inputs that the model was run on.
    """

    distances: Tensor
    classes: Tensor
    seed_classes: Tensor
    evaluations: int


@explains_keywords
def boundary_distances(
    model: Model,
    examples: Tensor,
    directions: Directions | Tensor,
    *,
    max_distance: float,
    steps: int = 32,
    bisections: int = 14,
    bounds: Bounds | None = None,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return the distances to the first class change along every direction from every example.

    The method and its guarantee are those of `search_boundaries`, which also returns the classes.

    Args:
        model: A callable that maps a batch to logits.
        examples: Inputs (n, *input) of a floating-point dtype, where the rays start.
        directions: A `Directions` value, or a tensor (directions, *input) shared by all examples or (n, directions,
            *input); a tensor is scaled to unit L2 length.
        max_distance: How far to search, L2 in units of the inputs.
        steps: The number of equal steps on a ray.
        bisections: The number of halvings within a step, 0…40.
        bounds: The pair (low, high), numbers or tensors for each channel, to which moved inputs are clipped; the
            distance is then that of the unclipped move. None for no clipping.
        batch_size: The largest number of inputs in one call; by default 32 on a CPU and 512 elsewhere.
        device: Where to run; by default where the model is.

    Returns:
        The distances (examples, directions), float64, inf if no change was found.

    Raises:
        InvalidArgumentError: If an argument is not as described.
        ObservationError: If logits are NaN or infinite.

    >>> plane = torch.nn.Linear(2, 2)
    >>> with torch.no_grad():  # the class changes where x₀ = 1
    ...     _ = plane.weight.copy_(torch.tensor([[-1.0, 0], [1, 0]])), plane.bias.copy_(torch.tensor([1.0, -1]))
    >>> boundary_distances(plane, torch.zeros(1, 2), torch.eye(2), max_distance=4.0)
    tensor([[1.0000,    inf]], dtype=torch.float64)
    """
    return search_boundaries(
        model,
        examples,
        directions,
        max_distance=max_distance,
        steps=steps,
        bisections=bisections,
        bounds=bounds,
        batch_size=batch_size,
        device=device,
    ).distances


@explains_keywords
def search_boundaries(
    model: Model | Runner,
    examples: Tensor,
    directions: Directions | DirectionBlocks | Tensor,
    *,
    max_distance: float,
    steps: int = 32,
    bisections: int = 14,
    bounds: Bounds | None = None,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    run: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> BoundarySearch:
    """Find the first class change along every direction from every example.

    A ray is evaluated at `steps` equal steps up to `max_distance` until the model's class differs from its class at the
    seed. Then the change is located within that step to max_distance / steps / 2^bisections, and the distance is the
    end of that interval at which the class differs. So **no excursion into another class that is wider than a step is
    missed**; a narrower one may be, and several changes within one step are not distinguished.

    The location follows the margin of the logits by the ITP method (Oliveira and Takahashi 2020), which takes at most
    one evaluation more than `bisections` and mostly far fewer.

    Args:
        model: A callable that maps a batch to logits.
        examples: Inputs (n, *input) of a floating-point dtype, where the rays start.
        directions: A `Directions` value, or a tensor (directions, *input) shared by all examples or (n, directions,
            *input); a tensor is scaled to unit L2 length.
        max_distance: How far to search, L2 in units of the inputs.
        steps: The number of equal steps on a ray.
        bisections: The number of halvings within a step, 0…40.
        bounds: The pair (low, high), numbers or tensors for each channel, to which moved inputs are clipped; the
            distance is then that of the unclipped move. None for no clipping.
        batch_size: The largest number of inputs in one call; by default 32 on a CPU and 512 elsewhere.
        device: Where to run; by default where the model is.
        run: What gives the logits of points (m, *input) on rays from the examples at rows (m,), where a model takes
            more than such a point; by default the model.

    Returns:
        The distances and the classes reached.

    Raises:
        InvalidArgumentError: If an argument is not as described.
        ObservationError: If logits are NaN or infinite, or a `Runner` has a task with several predictions per example.
            For any other callable the largest logit is its one class.
    """
    owner = "boundary_distances"
    if not isinstance(examples, Tensor) or not examples.is_floating_point() or examples.ndim < 2 or not len(examples):
        found = f"{examples.dtype} {tuple(examples.shape)}" if isinstance(examples, Tensor) else examples
        reject(owner, "examples", found, "must be a floating-point tensor (n, *input) with n of 1 or more")
    input_shape = tuple(examples.shape[1:])
    known = as_rays(owner, directions, len(examples), input_shape)
    rule = "must be a positive, finite L2 distance"
    reach = check_real(owner, "max_distance", max_distance, rule, above=0)
    grid = check_integer(owner, "steps", steps, "must be a whole number of 1 or more", at_least=1)
    rule = "must be a whole number in 0..40"
    halvings = check_integer(owner, "bisections", bisections, rule, at_least=0, at_most=40)
    runner = model if isinstance(model, Runner) else Runner(model, device)
    require_one_class(runner.task)
    limits = _as_limits(owner, bounds, examples)
    batch = batch_size_for(runner.device, batch_size, values=examples[0].numel())
    logits = (lambda values, rows: runner.logits(values)) if run is None else run
    search = _Search(runner, logits, examples, known, limits, batch, reach / grid, grid, halvings)
    with torch.no_grad(), runner.evaluating():
        return search.run()


class _Search:
    """The state of all rays. Batch rows are slots: a finished ray gives its slot to the next one that waits.

    A ray's bracket is [low, high] in steps from the seed, with the class margin at both ends; high is inf until the
    grid has met another class.
    """

    def __init__(
        self,
        runner: Runner,
        run: Callable[[Tensor, Tensor], Tensor],
        examples: Tensor,
        directions: Directions | DirectionBlocks,
        limits: tuple[Tensor, Tensor] | None,
        batch: BatchSize,
        step: float,
        steps: int,
        halvings: int,
    ) -> None:
        self.runner, self.forward, self.batch = runner, run, batch
        self.examples = examples.to(runner.device)
        self.directions, self.width = directions, len(directions)
        self.limits = None if limits is None else tuple(limit.to(runner.device) for limit in limits)
        self.step, self.steps, self.halvings = step, steps, halvings
        rays = len(examples) * self.width
        self.low = torch.zeros(rays, dtype=torch.float64)
        self.high = torch.full((rays,), torch.inf, dtype=torch.float64)
        self.low_margin = torch.zeros(rays, dtype=torch.float64)
        self.high_margin = torch.zeros(rays, dtype=torch.float64)
        self.narrowings = torch.zeros(rays, dtype=torch.int64)
        self.reached = torch.full((rays,), -1)
        self.evaluations = 0
        self.work = Work(f"boundaries along {rays:,} rays", len(examples) + rays * (steps + halvings + 1))

    def run(self) -> BoundarySearch:
        seed_classes = self._start()
        self.seed_class = seed_classes.repeat_interleave(self.width)
        rays = len(self.low)
        slots = torch.arange(min(self.batch.limit, rays))
        waiting = len(slots)
        seeds, vectors = self._gather(slots)
        moved = torch.empty_like(seeds)
        while len(slots):
            place = self._next_place(slots)
            self._move(seeds, vectors, place, moved)
            finished = self._advance(slots, place, *self._evaluate(moved, self.seed_class[slots], slots // self.width))
            rows = finished.nonzero().flatten()
            fresh = torch.arange(waiting, min(waiting + len(rows), rays))
            waiting += len(fresh)
            if len(fresh):
                slots[rows[: len(fresh)]] = fresh
                seeds[rows[: len(fresh)]], vectors[rows[: len(fresh)]] = self._gather(fresh)
            if len(fresh) < len(rows):
                keep = torch.ones(len(slots), dtype=torch.bool)
                keep[rows[len(fresh) :]] = False
                slots, seeds, vectors = slots[keep], seeds[keep], vectors[keep]
                moved = moved[: len(slots)]
        shape = (len(self.examples), self.width)
        return BoundarySearch(
            (self.high * self.step).view(shape), self.reached.view(shape), seed_classes, self.evaluations
        )

    def _start(self) -> Tensor:
        margins = []
        classes = []
        for rows in torch.split(torch.arange(len(self.examples)), self.batch.limit):
            label, margin = self._evaluate(self.examples[rows.to(self.examples.device)], None, rows)
            classes.append(label)
            margins.append(margin)
        self.low_margin = torch.cat(margins).repeat_interleave(self.width)
        return torch.cat(classes)

    def _gather(self, rays: Tensor) -> tuple[Tensor, Tensor]:
        example = rays // self.width
        vectors = self.directions.gather(example, rays % self.width).to(self.examples)
        return self.examples[example.to(self.examples.device)], vectors

    def _next_place(self, slots: Tensor) -> Tensor:
        low, high = self.low[slots], self.high[slots]
        on_grid = torch.isinf(high)
        if bool(on_grid.all()):
            return low + 1
        high = torch.where(on_grid, low + 1, high)
        inside = _itp(low, high, self.low_margin[slots], self.high_margin[slots], self.narrowings[slots], self.halvings)
        return torch.where(on_grid, high, inside)

    def _move(self, seeds: Tensor, vectors: Tensor, place: Tensor, moved: Tensor) -> None:
        length = (place * self.step).to(seeds.device, seeds.dtype).view(-1, *[1] * (seeds.ndim - 1))
        torch.addcmul(seeds, vectors, length, out=moved)
        if self.limits is not None:
            torch.maximum(moved, self.limits[0], out=moved)
            torch.minimum(moved, self.limits[1], out=moved)

    def _evaluate(self, inputs: Tensor, seed_class: Tensor | None, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return classes of points on rays from the examples at `rows`, and the margins of the seeds' classes."""
        parts: list[Tensor] = []

        def forward(part: slice) -> None:
            parts.append(self.forward(inputs[part], rows[part]).cpu().double())

        self.batch.run(len(inputs), forward)
        self.evaluations += len(inputs)
        self.work.done(len(inputs))
        logits = parts[0] if len(parts) == 1 else torch.cat(parts)
        if not bool(torch.isfinite(logits).all()):
            row = int((~torch.isfinite(logits).all(dim=1)).nonzero()[0])
            where = f"{'at' if seed_class is None else 'along a ray from'} example {int(rows[row])}"
            raise ObservationError(f"the model returns NaN or infinite logits {where}, so it has no class there")
        label = logits.argmax(dim=1)
        own = (label if seed_class is None else seed_class)[:, None]
        margin = logits.gather(1, own).squeeze(1) - logits.scatter(1, own, -torch.inf).amax(dim=1)
        return label, margin

    def _advance(self, slots: Tensor, place: Tensor, label: Tensor, margin: Tensor) -> Tensor:
        """Move the end of each bracket that was evaluated; return which rays are finished."""
        same = label == self.seed_class[slots]
        on_grid = torch.isinf(self.high[slots])
        stay, leave = slots[same], slots[~same]
        self.low[stay], self.low_margin[stay] = place[same], margin[same]
        self.high[leave], self.high_margin[leave] = place[~same], margin[~same]
        self.reached[leave] = label[~same]
        self.narrowings[slots[~on_grid]] += 1
        low, high = self.low[slots], self.high[slots]
        censored = torch.isinf(high) & (low >= self.steps)
        return censored | (high - low <= 2.0**-self.halvings)


def _itp(low: Tensor, high: Tensor, low_margin: Tensor, high_margin: Tensor, done: Tensor, halvings: int) -> Tensor:
    """Return the next place to look in brackets of width 1 at first: Algorithm 1 of Oliveira and Takahashi 2020.

    With κ₁ = 0.2, κ₂ = 2 and n₀ = 1; a bracket is then no wider than 2^−halvings after halvings + 1 calls.
    """
    width = high - low
    middle = (low + high) / 2
    slope = low_margin - high_margin
    false_position = torch.where(slope > 0, (high * low_margin - low * high_margin) / slope, middle)
    side = torch.sign(middle - false_position)
    nudge = 0.2 * width**2
    gap = (middle - false_position).abs()
    truncated = torch.where(nudge <= gap, false_position + side * nudge, middle)
    radius = (2.0 ** -done.double() - width / 2).clamp_min(0)
    return torch.where((truncated - middle).abs() <= radius, truncated, middle - side * radius)


def _as_limits(owner: str, bounds: Bounds | None, examples: Tensor) -> tuple[Tensor, Tensor] | None:
    if bounds is None:
        return None
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        reject(owner, "bounds", bounds, "give (low, high): numbers, or tensors for each channel")
    low, high = (_as_limit(owner, limit, examples) for limit in bounds)
    if not bool((low < high).all()):
        reject(owner, "bounds", bounds, "low must lie below high")
    outside = ((examples < low.to(examples.device)) | (examples > high.to(examples.device))).flatten(1).any(dim=1)
    if bool(outside.any()):
        first = int(outside.nonzero()[0])
        rule = f"{int(outside.sum())} examples lie outside, first #{first}: clip them, or widen the bounds"
        reject(owner, "bounds", bounds, rule)
    return low, high


def _as_limit(owner: str, limit: float | Tensor, examples: Tensor) -> Tensor:
    tensor = torch.as_tensor(limit, dtype=examples.dtype)
    shape = tuple(examples.shape[1:])
    if tensor.ndim == 1 and len(tensor) == shape[0]:
        tensor = tensor.view(-1, *[1] * (len(shape) - 1))
    fits = tensor.ndim <= len(shape) and all(
        ours in (1, theirs) for ours, theirs in zip(tensor.shape[::-1], shape[::-1], strict=False)
    )
    if not fits or bool(tensor.isnan().any()):
        reject(owner, "bounds", limit, f"a bound is a number or a tensor that broadcasts to inputs {shape}")
    return tensor
