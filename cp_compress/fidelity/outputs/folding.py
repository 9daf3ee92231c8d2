"""The outputs of two models folded batch by batch into a few numbers an example: how far they are apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cp_compress.base.arguments import reject
from cp_compress.base.batching import BatchSize
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.fidelity.observing.outputs import floating_tensors
from cp_compress.inputs.trees import TensorTree, mask_of

OwnMetric = Callable[[Tensor, Tensor], Any]
"""A user's own distance of outputs: (candidate's (k, ...), reference's (k, ...)) to k numbers, lower where closer."""


@dataclass(frozen=True, eq=False)
class Differences:
    """How far one output of two models is apart, by example, float64 (n,).

    Attributes:
        squared: The sum of the squared differences.
        reference: The sum of the squares of what the reference gives.
        largest: The largest absolute difference.
        values: How many values were compared.
        left_out: How many were left out, at places that do not count.
        own: What the user's own metric gives, None without one.
        lowest: The smallest value of the reference at each place, over the examples, None where shapes differ.
        highest: The largest one.
        total: The sum of the reference at each place, over the examples, None where shapes differ or not all counts.
    """

    squared: Tensor
    reference: Tensor
    largest: Tensor
    values: Tensor
    left_out: Tensor
    own: Tensor | None = None
    lowest: Tensor | None = None
    highest: Tensor | None = None
    total: Tensor | None = None

    @property
    def relative(self) -> Tensor:
        """The relative error: the norm of the difference over that of the reference.

        Where the reference gives nothing but zeros, its root mean square norm over all examples stands for its norm.
        """
        usual = self.reference.mean()
        norms = torch.where(self.reference > 0, self.reference, usual).sqrt()
        return torch.where(self.squared > 0, self.squared.sqrt() / norms, 0.0)

    @property
    def mean(self) -> Tensor | None:
        """The mean output of the reference, float64, where it is nearer to each output than half of its norm."""
        if self.total is None:
            return None
        mean, signal = self.total / len(self.reference), float(self.reference.sum())
        apart = signal - len(self.reference) * float(mean.square().sum())
        return mean if apart <= _NEAR**2 * signal else None

    @property
    def alike(self) -> bool:
        """Whether the reference gives the same for every example, but for rounding."""
        if self.lowest is None or self.highest is None:
            return False
        spread = float((self.highest - self.lowest).abs().max())
        largest = float(torch.maximum(self.highest.abs(), self.lowest.abs()).max())
        return spread <= _ROUNDING * torch.finfo(torch.float32).eps * largest

    def joined(self, others: Sequence[Differences]) -> Differences:
        """Return these and those of later batches as one."""
        parts = [self, *others]
        owns = [part.own for part in parts if part.own is not None]
        lows = [part.lowest for part in parts if part.lowest is not None]
        highs = [part.highest for part in parts if part.highest is not None]
        totals = [part.total for part in parts if part.total is not None]
        same = len({tuple(low.shape) for low in lows}) == 1
        return Differences(
            squared=torch.cat([part.squared for part in parts]),
            reference=torch.cat([part.reference for part in parts]),
            largest=torch.cat([part.largest for part in parts]),
            values=torch.cat([part.values for part in parts]),
            left_out=torch.cat([part.left_out for part in parts]),
            own=torch.cat(owns) if owns else None,
            lowest=torch.stack(lows).amin(0) if same else None,
            highest=torch.stack(highs).amax(0) if same else None,
            total=torch.stack(totals).sum(0) if same and len(totals) == len(parts) else None,
        )


_ROUNDING = 8
_NEAR = 0.5


def fold_pair(
    owner: str, candidate: Observation, reference: Observation, metric: OwnMetric | None
) -> dict[str, Differences]:
    """Return how far each output of two observed models is apart, by name; that of a single tensor is "".

    Both are read, and where their outputs were too large to be kept run, batch by batch.

    Raises:
        ObservationError: If the models give outputs of other names or shapes.
        InvalidArgumentError: If the user's own metric does not give one finite number an example.
    """
    parts: dict[str, list[Differences]] = {}
    size = BatchSize(min(candidate.batch_size.limit, reference.batch_size.limit), fixed=reference.deployed)

    def fold(part: slice) -> None:
        after, before = (seen.outputs(part) for seen in (candidate, reference))
        if list(after) != list(before):
            raise ObservationError(
                f"the candidate gives {', '.join(after) or 'one tensor'}, the reference "
                f"{', '.join(before) or 'one tensor'}: name by output= what both give"
            )
        found = {}
        for name, theirs in before.items():
            ours = after[name].to(theirs.device)
            if ours.shape != theirs.shape:
                raise ObservationError(
                    f"the candidate gives {name or 'outputs'} of shape {tuple(ours.shape)}, the reference "
                    f"{tuple(theirs.shape)}: they cannot be compared value by value"
                )
            counts = _counting(reference, part, name, theirs)
            found[name] = _differences(ours, theirs, counts, _own(owner, metric, ours, theirs, part.start))
        for name, one in found.items():
            parts.setdefault(name, []).append(one)

    with torch.inference_mode(False), torch.no_grad(), reference.runner.evaluating(), candidate.runner.evaluating():
        size.run(len(reference), fold)
    return {name: some[0].joined(some[1:]) for name, some in parts.items()}


def fold_constant(
    owner: str, reference: Observation, means: dict[str, Tensor], metric: OwnMetric | None
) -> dict[str, Differences]:
    """Return how far one answer to every example is apart from what the reference gives, by the name of the output."""
    parts: dict[str, list[Differences]] = {name: [] for name in means}
    size = BatchSize(reference.batch_size.limit, fixed=reference.deployed)

    def fold(part: slice) -> None:
        before = reference.outputs(part)
        for name, mean in means.items():
            theirs = before[name]
            ours = mean.to(theirs).expand_as(theirs)
            try:
                own = _own(owner, metric, ours, theirs, part.start)
            except Exception:  # such as a correlation, which a constant has none of
                own = None
            parts[name].append(_differences(ours, theirs, None, own))

    with torch.inference_mode(False), torch.no_grad(), reference.runner.evaluating():
        size.run(len(reference), fold)
    joined = {name: some[0].joined(some[1:]) for name, some in parts.items()}
    whole = {name: all(one.own is not None for one in some) for name, some in parts.items()}
    return {name: one if whole[name] else dataclasses.replace(one, own=None) for name, one in joined.items()}


def _counting(reference: Observation, part: slice, name: str, outputs: Tensor) -> Tensor | None:
    """Return which values (n, ...) of outputs count, with axes of length 1 where all do, or None for all."""
    if reference.task != "single_label" and reference.gives_logits:
        counts = reference.counting[part]
        return counts if reference.task == "multi_label" else counts.unsqueeze(1)
    if not reference.reads_trees:
        return None
    mask = mask_of(reference.data.read(range(part.start, part.stop))[0])
    if mask is None or outputs.shape[:2] != mask.shape:
        return None
    if not reference.remember(("along the mask", name), lambda: _follows(reference, name, mask.shape[1])):
        return None
    return mask.reshape(*mask.shape, *(1 for _ in outputs.shape[2:]))


def _follows(reference: Observation, name: str, length: int) -> bool:
    """Tell whether an output (n, length, ...) is shorter where the inputs are: else its length is one by chance.

    Where the model takes no shorter inputs nobody can tell, and all values count.
    """
    inputs = reference.data.read([0])[0]
    if not isinstance(inputs, TensorTree) or length < 2:
        return False
    shorter = inputs.map(lambda one: one[:, :-1] if one.ndim > 1 and one.shape[1] == length else one)
    try:
        found = floating_tensors(reference.runner.output(shorter), 1)
    except (ObservationError, RuntimeError, ValueError, IndexError):
        return False
    return name in found and found[name].ndim > 1 and found[name].shape[1] == length - 1


def _differences(ours: Tensor, theirs: Tensor, counts: Tensor | None, own: Tensor | None) -> Differences:
    after, before = ours.double(), theirs.double()
    values = torch.full((len(before),), before[0].numel(), dtype=torch.float64)
    if counts is not None:
        counts = counts.to(before.device)
        after, before = (torch.where(counts, one, 0.0) for one in (after, before))
        values = counts.expand_as(before).flatten(1).sum(1).double().cpu()
    apart = (after - before).flatten(1)
    rows = before.flatten(1)
    return Differences(
        squared=apart.square().sum(1).cpu(),
        reference=rows.square().sum(1).cpu(),
        largest=apart.abs().amax(1).cpu(),
        values=values,
        left_out=before[0].numel() - values,
        own=own,
        lowest=before.amin(0).cpu(),
        highest=before.amax(0).cpu(),
        total=before.sum(0).cpu() if counts is None else None,
    )


def _own(owner: str, metric: OwnMetric | None, ours: Tensor, theirs: Tensor, start: int) -> Tensor | None:
    if metric is None:
        return None
    rule = f"must give one finite number for each of {len(ours)} examples, lower where outputs are closer"
    given = metric(ours.clone(), theirs.clone())
    try:
        found = torch.as_tensor(given).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError):
        reject(owner, "metric", f"a function that returned a {type(given).__name__}", rule)
    if found.shape not in ((len(ours),), (len(ours), 1)):
        reject(owner, "metric", f"a function that returned shape {tuple(found.shape)}", rule)
    found = found.flatten()
    bad = (~found.isfinite()).nonzero().flatten()
    if len(bad):
        reject(owner, "metric", f"a function that returned {float(found[bad[0]])} for #{start + int(bad[0])}", rule)
    return found
