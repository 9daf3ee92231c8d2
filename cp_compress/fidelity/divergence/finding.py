"""A counterexample: an input near a given one for which a candidate predicts another class than its reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cp_compress.base.arguments import (
    check_choice,
    check_flag,
    check_integer,
    check_real,
    explains_keywords,
)
from cp_compress.base.showing.brief import Brief
from cp_compress.fidelity.divergence.labels import Labeler, Verifier
from cp_compress.fidelity.divergence.refinement import refine as refine_search
from cp_compress.fidelity.divergence.search import Search
from cp_compress.fidelity.divergence.space import search_space
from cp_compress.fidelity.observing.runner import Model
from cp_compress.fidelity.observing.sampling import batch_size_for

SMALLEST_MARGIN = 1e-5
"""The margin that counts by default, relative to the spread of a model's logits."""

_OWNER = "find_divergence"


@explains_keywords
@dataclass(frozen=True, eq=False, repr=False)
class DivergenceSearch(Brief):
    """The result of a search around each of n seeds.

    Attributes:
        inputs: The inputs (n, *input) found, or the seed if none was.
        found: Whether (n,) an input was found.
        already: Whether (n,) the models already disagree on the seed.
        seed_classes: The reference's classes (n,) on the seeds.
        reference_classes: The reference's classes (n,) on the inputs.
        candidate_classes: The candidate's classes (n,) on the inputs.
        reference_margins: The reference's largest minus second logit (n,), float64, NaN if unknown.
        candidate_margins: The candidate's largest minus second logit (n,), float64, NaN if unknown.
        queries: The number (n,) of inputs that both models were run on beside the seed.
        linf: The L∞ distances (n,) from the seeds, float64, in units of the inputs, NaN if none was found.
        l2: The L2 distances (n,) from the seeds, float64, in units of the inputs, NaN if none was found.
        guided: Whether (n,) the search had a direction: a gradient other than zero, or an input of another class.
        unconfirmed: The number (n,) of disagreements that verification rejected.
        precisions: The precisions of candidate and reference in the verification, or None without one.
    """

    inputs: Tensor
    found: Tensor
    already: Tensor
    seed_classes: Tensor
    reference_classes: Tensor
    candidate_classes: Tensor
    reference_margins: Tensor
    candidate_margins: Tensor
    queries: Tensor
    linf: Tensor
    l2: Tensor
    guided: Tensor
    unconfirmed: Tensor
    precisions: tuple[str, str] | None

    @property
    def asked(self) -> Tensor:
        """Whether (n,) inputs beside the seed were tried, or the seed itself is a counterexample; elsewhere nothing is
        known.

        Nothing is known for a seed to which `guide="examples"` has no other class, for one at which the reference's
        gradient is zero and no path leads to another class, and for one on which the models disagree in a way that
        verification rejects.
        """
        return self.found | (self.guided & (self.queries > 0))


@explains_keywords
@torch.inference_mode(False)  # what is made in a caller's inference mode could not be changed outside of it
def find_divergence(
    candidate: Model,
    reference: Model,
    seeds: Tensor,
    *,
    epsilon: float | None,
    norm: str = "linf",
    lattice: str | None = None,
    guide: str = "gradient",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    restarts: int = 8,
    queries: int = 200,
    verify: bool = True,
    min_margin: float = SMALLEST_MARGIN,
    minimise: bool = False,
    refine: bool = False,
    batch_size: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> DivergenceSearch:
    """Find, near each seed, an input for which the two models predict different classes.

    From a seed for which both predict y a path leads to an input for which the reference predicts another class. The
    path is halved: both models change their prediction on each half that is kept, and unless they do so at the same
    point a disagreement is met after about log₂(length / resolution) halvings. The candidate is queried for classes
    only. Seeds on which the models already disagree are found at distance 0.

    With `verify` a disagreement counts if it holds on a batch of one input and, for modules that run in float64, on
    float64 copies of the models, which hold the same rounded or pruned weights, and if one of the margins (largest
    minus second logit) exceeds `min_margin`: rounding changes a prediction only where both models are undecided. A
    float64 copy whose logits for the seeds differ by more than rounding explains, as under autocast, is not used for
    its model. There, and where the model's own margin exceeds the rounding of its logits, the model's own prediction
    counts.

    Similar searches: DFLARE (Tian et al. 2023), DiffChaser (Xie et al. 2019), DIVA (Hao et al. 2022), DiverGet (Yahmed
    et al. 2022).

    Args:
        candidate: Any callable that returns logits (n, classes), or classes (n,) or (n, 1).
        reference: The reference, differentiable in its inputs for `guide="gradient"`.
        seeds: Inputs (n, *input) of a floating-point dtype.

    Args: Where to search
        epsilon: The largest distance from the seed by `norm`, in units of the inputs; None for no limit.
        norm: "linf" or "l2".
        lattice: "uint8" to search only among images k / 255 with whole k, or None.
        bounds: The range (low, high) of valid values, or None.

    Args: How to search
        guide: How a path is found: "gradient" by a few gradient steps on the reference, or "examples" towards another
            of the seeds, without gradients; the latter is also used where a gradient is zero.
        restarts: The number of further paths, from random points, if the models change at the same point.
        queries: The largest number of inputs that are tried for each seed.
        minimise: Whether to move each input towards its seed while the models disagree with both margins above
            `min_margin`.
        refine: Whether to move each input, within the ball, to where both models have larger margins, by at most 40
            more queries.

    Args: Verification
        verify: Whether to verify disagreements as described above.
        min_margin: The margin that counts, relative to the spread of that model's logits (largest minus smallest, mean
            over the seeds).

    Args: The run
        batch_size: The largest number of inputs in one call; by default 32 on a CPU and 512 elsewhere.
        seed: The seed of all random choices.
        device: Where to run; by default where the reference is.

    Returns:
        What was found around each seed.

    Raises:
        InvalidArgumentError: If an argument is not as described.
        ObservationError: If logits are NaN, with `verify` if a model's outputs are random, or with `guide="gradient"`
            if the reference has no gradients.

    >>> class Above(torch.nn.Module):
    ...     def __init__(self, level):
    ...         super().__init__()
    ...         self.level = torch.nn.Parameter(torch.tensor(level))
    ...     def forward(self, inputs):
    ...         return torch.cat([self.level - inputs, inputs - self.level], dim=1)
    >>> found = find_divergence(Above(0.61), Above(0.6), torch.tensor([[0.5], [0.1]]), epsilon=0.2)
    >>> found.found.tolist(), 0.6 < float(found.inputs[0]) < 0.61
    ([True, False], True)
    """
    space = search_space(_OWNER, seeds, epsilon, norm, lattice, bounds)
    check_choice(_OWNER, "guide", guide, ("gradient", "examples"))
    check_integer(_OWNER, "restarts", restarts, "must be a whole number of 0 or more", at_least=0)
    check_integer(_OWNER, "queries", queries, "must be a whole number of 1 or more", at_least=1)
    check_real(_OWNER, "min_margin", min_margin, "must be 0 or more, a share of the spread of the logits", at_least=0)
    for flag, value in (("verify", verify), ("minimise", minimise), ("refine", refine)):
        check_flag(_OWNER, flag, value)
    check_integer(_OWNER, "seed", seed, "must be a whole number of 0 or more", at_least=0)
    values = seeds[0].numel()
    before = Labeler(reference, device, batch_size_for(torch.device("cpu"), batch_size, values=values))
    batch = batch_size_for(before.runner.device, batch_size, values=values)
    before.batch = batch
    after = Labeler(candidate, before.runner.device, batch)
    start = seeds.detach().to(before.runner.device)
    search = Search(
        after,
        before,
        start,
        space,
        guide=guide,
        queries=queries,
        verifier=Verifier(after, before, start, min_margin) if verify else None,
        generator=torch.Generator().manual_seed(seed),
        batch=batch,
    )
    search.run(restarts)
    if minimise:
        search.minimise()
    if refine:
        refine_search(search)
    return _as_result(search, seeds)


def _as_result(search: Search, seeds: Tensor) -> DivergenceSearch:
    moves = (search.inputs.double() - search.seeds.double()).flatten(1).cpu()
    missing = torch.where(search.found, 0.0, torch.nan).double()
    return DivergenceSearch(
        inputs=search.inputs.to(seeds.device),
        found=search.found,
        already=search.found & ~search.agreeing,
        seed_classes=search.seed_classes,
        reference_classes=search.classes[:, 1],
        candidate_classes=search.classes[:, 0],
        reference_margins=search.margins[:, 1],
        candidate_margins=search.margins[:, 0],
        queries=search.queries,
        linf=moves.abs().amax(dim=1) + missing,
        l2=torch.linalg.vector_norm(moves, dim=1) + missing,
        guided=search.guided,
        unconfirmed=search.unconfirmed,
        precisions=search.verifier.precisions if search.verifier is not None else None,
    )
