"""From an input on which two models barely disagree to one on which both have larger margins."""

from __future__ import annotations

import torch
from torch import Tensor

from cp_compress.fidelity.divergence.search import Search
from cp_compress.fidelity.observing.gradients import differentiable, differentiating

_PROPOSALS = 40
_WORST = -torch.inf


def refine(search: Search) -> None:
    """Raise the smaller of both margins on the inputs found, within their balls and the budget of their seeds.

    Each of 40 proposals is a move along the reference's gradient that would make both models equally sure, were they
    linear, and a random one across it; it is kept where the models still disagree and the smaller margin grew. A
    candidate that gives classes only has no margin: there the reference's alone counts. Kept inputs were confirmed
    like all others. How much is gained depends on the models: where the two hardly differ, little can be.
    """
    rows = search.found.nonzero().flatten()
    score = _score(search.classes[rows], search.margins[rows])
    gradients = torch.zeros_like(search.inputs)
    moved = rows
    for proposal in range(_PROPOSALS):
        open_rows = search.queries[rows] < search.budget
        rows, score = rows[open_rows], score[open_rows]
        if not len(rows):
            return
        if search.guide == "gradient" and len(moved):
            gradients[moved] = _gradients(search, moved)
        # every fifth only makes both equally sure
        reach = search.space.reach * 0.5 ** (proposal % 5 + 1) if proposal % 5 else 0.0
        points = _propose(search, rows, gradients[rows], reach)
        search.queries[rows] += 1
        (first, first_margin), (second, second_margin) = (
            labeler.answers(points) for labeler in (search.candidate, search.reference)
        )
        classes, margins = torch.stack([first, second], 1), torch.stack([first_margin, second_margin], 1)
        better = _score(classes, margins) > score
        if search.verifier is not None and bool(better.any()):
            tried = better.nonzero().flatten()
            confirmed = search.verifier.confirm(points[tried])
            classes[tried], margins[tried] = confirmed.classes, confirmed.margins
            better[tried] = confirmed.holds & (_score(classes[tried], margins[tried]) > score[tried])
        moved = rows[better]
        search.inputs[moved], search.classes[moved] = points[better], classes[better]
        search.margins[moved] = margins[better]
        score[better] = _score(classes[better], margins[better])


def _score(classes: Tensor, margins: Tensor) -> Tensor:
    smaller = margins.nan_to_num(nan=torch.inf).amin(dim=1)
    return torch.where(classes[:, 0] != classes[:, 1], smaller, torch.full_like(smaller, _WORST))


def _gradients(search: Search, rows: Tensor) -> Tensor:
    """Return the gradients, at inputs found, of the reference's logit of its class less that of the candidate's."""
    runner, inputs = search.reference.runner, search.inputs[rows]
    mine, theirs = (column.to(runner.device)[:, None] for column in search.classes[rows].unbind(1))
    gradients = torch.empty_like(inputs)

    def differentiate(part: slice) -> None:
        with differentiating(runner):
            leaf = differentiable(runner, inputs[part])
            logits = runner.logits(leaf)
            surer = logits.gather(1, theirs[part]) - logits.gather(1, mine[part])
            gradients[part] = torch.autograd.grad(surer.sum(), leaf)[0].to(gradients)

    search.batch.run(len(rows), differentiate)
    return gradients


def _propose(search: Search, rows: Tensor, gradients: Tensor, reach: float) -> Tensor:
    inputs, seeds = search.inputs[rows], search.seeds[rows]
    noise = search.space.noise(search.seeds, search.generator)[rows] - seeds
    across = search.space.step(noise, reach)
    flat = gradients.flatten(1)
    squares = flat.square().sum(dim=1, keepdim=True)
    squares = torch.where(squares > 0, squares, torch.inf)  # without a gradient there is nothing to move along
    along = (across.flatten(1) * flat).sum(dim=1, keepdim=True) / squares
    across = across - (along * flat).view_as(across)
    candidate, reference = search.margins[rows].to(flat).unbind(1)
    wanted = torch.where(candidate.isnan(), reference, (candidate - reference) / 2)[:, None]
    balancing = (wanted / squares * flat).view_as(across)
    return search.space.draw(inputs + across + balancing, seeds, search.generator)
