"""Each model's own worst case: the directions in which its nearest boundary is estimated to lie."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from cp_compress.base.arguments import check_choice, check_integer, check_real, explains_keywords
from cp_compress.base.digests import digest_text
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.boundaries.directions import Directions
from cp_compress.fidelity.boundaries.families import PURPOSE
from cp_compress.fidelity.observing.gradients import differentiable, differentiating, require_gradients
from cp_compress.fidelity.observing.observation import Observation, require_observations
from cp_compress.fidelity.observing.sampling import batch_size_for, choose_examples
from cp_compress.fidelity.varying.inputs import Input, Varied
from cp_compress.fidelity.varying.layers import vary
from cp_compress.inputs.tasks import require_one_class

_CLASSES = 10
_NAMES = {"gradient": "its own steepest gradient", "deepfool": "its own DeepFool step"}
_METHODS, _STEPS, _OVERSHOOT = ("gradient", "deepfool"), 20, 0.02


@explains_keywords
def worst_case_directions(
    observation: Observation,
    examples: int | Sequence[int] | Tensor | None = None,
    *,
    methods: Sequence[str] = _METHODS,
    steps: int = _STEPS,
    overshoot: float = _OVERSHOOT,
    batch_size: int | None = None,
    input: Input = None,
    at_layer: str | None = None,
) -> Directions:
    """Return, for each example, estimates of the direction of this model's own nearest boundary.

    A candidate must be searched along its own directions, because along the reference's it looks more robust than it
    is.

    Args:
        observation: The observed model and data.
        examples: A number of examples spread evenly over the data set, their indices, or None for all.
        methods: "gradient" for the gradient of (the runner-up's logit − the predicted class's); "deepfool" for the
            direction to where the class changes after at most `steps` linearisations towards the nearest of the ten
            most likely classes (Moosavi-Dezfooli et al. 2016, "DeepFool", algorithm 2).
        steps: The largest number of linearisations.
        overshoot: By which fraction each step goes beyond the linearised boundary, 0 or more.
        batch_size: The largest number of inputs in one call; by default 32 on a CPU and 512 elsewhere,
            and never more than the observations were made with.
        input: Which of several inputs is moved: its name, or its place in a tuple; the others stay as each example has
            them. By default the only floating-point tensor, or else the only one, that is no mask.
        at_layer: The path of a layer whose outputs are moved instead of the input, such as one that embeds token ids.

    Returns:
        The directions of each example, one for each method.

    Raises:
        InvalidArgumentError: If an argument is not as described.
        ObservationError: If the data has several predictions per example, the model has no gradients, or a gradient is
            zero or not finite.

    >>> from cp_compress.fidelity import observe
    >>> seen = observe(torch.nn.Linear(4, 3), (torch.ones(2, 4), torch.tensor([0, 1])))
    >>> worst_case_directions(seen).names
    ('its own steepest gradient', 'its own DeepFool step')
    """
    require_observations("worst_case_directions", observation=observation)
    owner = "worst_case_directions"
    for method in methods:
        check_choice(owner, "methods", method, tuple(_NAMES))
    limit = check_integer(owner, "steps", steps, "must be a whole number of 1 or more", at_least=1)
    overshoot = check_real(owner, "overshoot", overshoot, "must be a share of 0 or more", at_least=0)
    require_one_class(observation.task)
    chosen = choose_examples(owner, examples, len(observation))
    varied = vary(observation, chosen, input, at_layer, owner=owner, purpose=PURPOSE)
    return worst_directions_at(varied, methods, limit, overshoot, batch_size)


def worst_directions_at(
    varied: Varied,
    methods: Sequence[str] = _METHODS,
    steps: int = _STEPS,
    overshoot: float = _OVERSHOOT,
    batch_size: int | None = None,
) -> Directions:
    """Return `worst_case_directions` of some examples; the arguments are checked there."""
    observation, runner, chosen, beyond = varied.observation, varied.runner, varied.chosen, 1 + overshoot
    inputs, rows = varied.values(), torch.arange(len(varied))
    run_first = functools.partial(varied.logits, rows=rows[:1])
    require_gradients(runner, inputs[:1], "a worst-case direction", run_first)
    classes = min(_CLASSES, observation.classes)
    found = {method: torch.empty_like(inputs) for method in methods}

    def run(part: slice) -> None:
        for method in methods:
            if method == "gradient":
                _, towards = _linearise(varied, inputs[part], rows[part], observation.predictions[chosen[part]], 2)
                found[method][part] = towards[:, 0].cpu()
            else:
                predictions = observation.predictions[chosen[part]]
                found[method][part] = _deepfool(varied, inputs[part], rows[part], predictions, classes, steps, beyond)

    batch_size_for(runner.device, batch_size, observation.batch_size.limit).run(len(inputs), run)
    tensor = torch.stack([found[method] for method in methods], dim=1)
    size = tensor.flatten(2).abs().amax(dim=2)
    bad = chosen[(~torch.isfinite(size) | (size == 0)).any(dim=1)]
    if len(bad):
        raise ObservationError(
            f"the gradient of the logits is zero, NaN or infinite on {len(bad)} examples (first #{int(bad[0])}): "
            "it gives no worst-case direction"
        )
    origin = worst_case_origin(varied, methods, steps, overshoot)
    names = worst_case_names(methods)
    return Directions(tensor, names, ("worst case",) * len(names), per_example=True, origin=origin)


def worst_case_names(methods: Sequence[str] = _METHODS) -> tuple[str, ...]:
    """Return the names of the directions that `worst_case_directions` gives."""
    return tuple(_NAMES[method] for method in methods)


def worst_case_origin(
    varied: Varied, methods: Sequence[str] = _METHODS, steps: int = _STEPS, overshoot: float = _OVERSHOOT
) -> str | None:
    """Return the digest of what worst cases at examples come from, None for a bare callable."""
    if varied.observation.model_digest is None:
        return None
    parts = (varied.observation.model_digest, varied.digest, *methods, str(steps), str(1 + float(overshoot)))
    return digest_text("worst case", *parts)


def _linearise(varied: Varied, inputs: Tensor, rows: Tensor, own: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return (logit of each likeliest other class − the own class's) (n, k) and its gradients (n, k, *input)."""
    with differentiating(varied.runner):
        leaf = differentiable(varied.runner, inputs)
        logits = varied.logits(leaf, rows)
        place = own.to(logits.device)[:, None]
        mine = logits.gather(1, place)
        others = logits.detach().scatter(1, place, -torch.inf).topk(classes - 1, dim=1).indices
        gaps = logits.gather(1, others) - mine
        totals = gaps.sum(dim=0).unbind()
        gradients = [torch.autograd.grad(total, leaf, retain_graph=True)[0] for total in totals]
    return gaps.detach(), torch.stack(gradients, dim=1)


def _deepfool(
    varied: Varied, inputs: Tensor, rows: Tensor, own: Tensor, classes: int, steps: int, beyond: float
) -> Tensor:
    """Return the moves (n, *input) that DeepFool makes, on the CPU."""
    start = inputs.to(varied.runner.device)
    moves = torch.zeros_like(start)
    going = torch.arange(len(start))
    for _ in range(steps):
        gaps, gradients = _linearise(varied, start[going] + beyond * moves[going], rows[going], own[going], classes)
        lengths = gradients.flatten(2).norm(dim=2)
        inside = (gaps < 0).all(dim=1)  # those that have crossed rest
        distance = gaps.abs() / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)
        nearest = torch.where(lengths > 0, distance, torch.inf).argmin(dim=1)
        every = torch.arange(len(going), device=gaps.device)
        # a hair more than the linear distance, so that a step onto the boundary does not stall
        sizes = (gaps[every, nearest].abs() + 1e-4) / lengths[every, nearest].square().clamp_min(1e-30)
        shape = (-1, *[1] * (moves.ndim - 1))
        step = (sizes * inside).view(shape) * gradients[every, nearest]
        moves[going] += step.to(moves)
        going = going[inside.cpu()]
        if not len(going):
            break
    return moves.cpu()
