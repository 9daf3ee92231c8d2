"""From an input on which two models hardly disagree to one on which both are sure of what they say."""

from __future__ import annotations

import torch
from torch import Tensor

from cp_compress.fidelity.divergence_search import Search
from cp_compress.fidelity.gradients import differentiable, differentiating

_PROPOSALS = 40
_WORST = -torch.inf


def refine(search: Search) -> None:
    """Raise the smaller of both margins on the inputs found, within their balls and the budget of their seeds.

    Each proposal adds to an input a move along the reference's gradient, for its own class against the candidate's,
    and a random one; it is kept where the models still disagree and the smaller margin grew. A candidate that gives
    classes only has no margin: there the reference's alone counts. Kept inputs were confirmed like all others.
    """
    rows = search.found.nonzero().flatten()
    score = _score(search.classes[rows], search.margins[rows])
    for proposal in range(_PROPOSALS):
        open_rows = search.queries[rows] < search.budget
        rows, score = rows[open_rows], score[open_rows]
        if not len(rows):
            return
        reach = search.space.reach * 0.5 ** (1 + proposal % 5)
        points = _propose(search, rows, reach, along_gradient=proposal % 2 == 0)
        search.queries[rows] += 1
        (first, first_margin), (second, second_margin) = (
            labeler.answers(points) for labeler in (search.candidate, search.reference)
        )
        classes, margins = torch.stack([first, second], 1), torch.stack([first_margin, second_margin], 1)
        better = _score(classes, margins) > score
        if search.verifier is not None and bool(better.any()):
            tried = better.nonzero().flatten()
            holds, classes[tried], margins[tried] = search.verifier.confirm(points[tried])
            better[tried] = holds & (_score(classes[tried], margins[tried]) > score[tried])
        kept = rows[better]
        search.inputs[kept], search.classes[kept] = points[better], classes[better]
        search.margins[kept] = margins[better]
        score[better] = _score(classes[better], margins[better])


def _score(classes: Tensor, margins: Tensor) -> Tensor:
    smaller = margins.nan_to_num(nan=torch.inf).amin(dim=1)
    return torch.where(classes[:, 0] != classes[:, 1], smaller, torch.full_like(smaller, _WORST))


def _propose(search: Search, rows: Tensor, reach: float, *, along_gradient: bool) -> Tensor:
    inputs, seeds = search.inputs[rows], search.seeds[rows]
    noise = search.space.noise(search.seeds, search.generator)[rows] - seeds
    moves = search.space.step(noise, reach / 2)
    if along_gradient and search.guide == "gradient":
        runner = search.reference.runner
        mine, theirs = (column.to(runner.device)[:, None] for column in search.classes[rows].unbind(1))
        gradients = torch.empty_like(inputs)

        def differentiate(part: slice) -> None:
            with differentiating(runner):
                leaf = differentiable(runner, inputs[part])
                logits = runner.logits(leaf)
                surer = logits.gather(1, theirs[part]) - logits.gather(1, mine[part])
                gradients[part] = torch.autograd.grad(surer.sum(), leaf)[0].to(gradients)

        search.batch.run(len(rows), differentiate)
        moves = moves + search.space.step(gradients, reach)
    return search.space.points(inputs + moves, seeds)
