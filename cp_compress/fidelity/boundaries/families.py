"""Families of directions with a meaning: class gradients, low frequencies, noise, compression residuals."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cp_compress.base.arguments import check_integer, explains_keywords, reject
from cp_compress.base.digests import digest_text
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.boundaries.directions import Directions, join_directions, low_frequency_basis
from cp_compress.fidelity.observing.gradients import differentiable, differentiating, require_gradients
from cp_compress.fidelity.observing.observation import Observation, require_observations
from cp_compress.fidelity.observing.sampling import batch_size_for, choose_examples
from cp_compress.fidelity.varying.inputs import Input, Varied
from cp_compress.fidelity.varying.layers import vary
from cp_compress.inputs.tasks import require_one_class

PURPOSE = "a comparison of boundaries"
_COUNT_RULE = "must be a whole number of 1 or more"
USUAL_VALUES = 2**14  # of an input; along more of them there are fewer directions, because each costs more
_RANKS = ("the runner-up", "the third class", "the fourth class", "the fifth class")


@explains_keywords
def class_gradient_directions(
    observation: Observation,
    examples: int | Sequence[int] | Tensor | None = None,
    *,
    count: int = 9,
    batch_size: int | None = None,
    input: Input = None,
    at_layer: str | None = None,
) -> Directions:
    """Return, for each example, the steepest directions from its predicted class towards its most likely other classes.

    A direction is the gradient of (another class's logit − the predicted class's) with respect to the input, at the
    example. Its digest is that of the model and the inputs.

    Args:
        observation: The observed model and data.
        examples: A number of examples spread evenly over the data set, their indices, or None for all.
        count: The number of other classes; with fewer classes there is one direction for each.
        batch_size: The largest number of inputs in one call; by default 32 on a CPU and 512 elsewhere,
            and never more than the observations were made with.
        input: Which of several inputs is moved: its name, or its place in a tuple; the others stay as each example has
            them. By default the only floating-point tensor, or else the only one, that is no mask.
        at_layer: The path of a layer whose outputs are moved instead of the input, such as one that embeds token ids.

    Returns:
        The directions of each example.

    Raises:
        InvalidArgumentError: If an argument is not as described.
        ObservationError: If the data has several predictions per example, the model is not differentiable in its
            inputs, or a gradient is zero or not finite.

    >>> from cp_compress.fidelity import observe
    >>> seen = observe(torch.nn.Linear(4, 3), (torch.ones(2, 4), torch.tensor([0, 1])))
    >>> class_gradient_directions(seen).tensor.shape
    torch.Size([2, 2, 4])
    """
    require_observations("class_gradient_directions", observation=observation)
    owner = "class_gradient_directions"
    asked = check_integer(owner, "count", count, _COUNT_RULE, at_least=1)
    require_one_class(observation.task)
    chosen = choose_examples(owner, examples, len(observation))
    return _class_gradients(vary(observation, chosen, input, at_layer, owner=owner, purpose=PURPOSE), asked, batch_size)


def _class_gradients(varied: Varied, count: int, batch_size: int | None) -> Directions:
    observation, runner = varied.observation, varied.runner
    ranks = min(count, observation.classes - 1)
    inputs, rows = varied.values(), torch.arange(len(varied))
    first = functools.partial(varied.logits, rows=rows[:1])
    require_gradients(runner, inputs[:1], "a direction along class gradients", first)
    batch = batch_size_for(runner.device, batch_size, observation.batch_size.limit)
    found: list[Tensor] = []

    def run(part: slice) -> None:
        leaf = differentiable(runner, inputs[part])
        logits = varied.logits(leaf, rows[part])
        order = logits.topk(ranks + 1, dim=1).indices
        best = logits.gather(1, order[:, :1])
        towards = (logits.gather(1, order[:, 1:]) - best).sum(dim=0)
        gradients = [torch.autograd.grad(one, leaf, retain_graph=True)[0] for one in towards.unbind()]
        found.append(torch.stack(gradients, dim=1).cpu())

    with differentiating(runner):
        batch.run(len(inputs), run)
    tensor = torch.cat(found)
    _check_gradients(tensor, varied.chosen)
    names = class_gradient_names(observation, count)
    origin = class_gradient_origin(varied, ranks)
    return Directions(tensor, names, ("class gradient",) * ranks, per_example=True, origin=origin)


def standard_counts(input_shape: Sequence[int]) -> tuple[int, int, int]:
    """Return how many class gradients, low-frequency waves and Gaussian directions a gate has for inputs of a shape.

    >>> standard_counts((3, 32, 32)), standard_counts((3, 224, 224))
    ((9, 15, 8), (3, 4, 2))
    """
    return (9, 15, 8) if math.prod(input_shape) <= USUAL_VALUES else (3, 4, 2)


def class_gradient_names(observation: Observation, count: int = 9) -> tuple[str, ...]:
    """Return the names of the directions that `class_gradient_directions` gives."""
    return tuple(f"gradient towards {_rank_name(rank)}" for rank in range(min(count, observation.classes - 1)))


def class_gradient_origin(varied: Varied, ranks: int) -> str | None:
    """Return the digest of what `ranks` class gradients at examples come from, None for a bare callable."""
    model = varied.observation.model_digest
    return None if model is None else digest_text("class gradients", model, varied.digest, str(ranks))


@explains_keywords
def low_frequency_directions(input_shape: Sequence[int], count: int | None = None) -> Directions:
    """Return the first `count` waves of `low_frequency_basis` as directions shared by all examples, or all of them.

    >>> low_frequency_directions((1, 8, 8), 2).names
    ('uniform', 'half a horizontal wave')
    """
    basis = low_frequency_basis(input_shape)
    if count is not None:
        count = check_integer("low_frequency_directions", "count", count, _COUNT_RULE, at_least=1)
    names = basis.names[:count]
    return Directions(basis.tensor[:count], names, ("low frequency",) * len(names))


@explains_keywords
def gaussian_directions(input_shape: Sequence[int], count: int, seed: int) -> Directions:
    """Return `count` directions drawn evenly from the sphere by a seed, float32, shared by all examples.

    >>> gaussian_directions((3, 4, 4), 2, seed=1).names
    ('Gaussian 0 of seed 1', 'Gaussian 1 of seed 1')
    """
    asked = check_integer("gaussian_directions", "count", count, _COUNT_RULE, at_least=1)
    start = check_integer("gaussian_directions", "seed", seed, "must be a whole number of 0 or more", at_least=0)
    shape = tuple(input_shape)
    if not shape or math.prod(shape) < 1:
        reject("gaussian_directions", "input_shape", shape, "must be the shape of one input with at least one value")
    drawn = torch.randn(asked, *shape, generator=torch.Generator().manual_seed(start))
    names = tuple(f"Gaussian {number} of seed {start}" for number in range(asked))
    return Directions(drawn, names, ("Gaussian",) * asked)


@explains_keywords
def residual_directions(decoded: Tensor, original: Tensor) -> Directions:
    """Return, for each example, the direction from an original input (n, *input) to its decoded version.

    Raises InvalidArgumentError if the shapes differ, and, naming them, for examples that were decoded without any
    error: they have no such direction and must be left out.

    >>> residual_directions(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)).tensor
    tensor([[[0.6000, 0.8000]]])
    """
    owner = "residual_directions"
    if not (isinstance(decoded, Tensor) and isinstance(original, Tensor) and decoded.shape == original.shape):
        shapes = tuple(tuple(getattr(part, "shape", ())) for part in (decoded, original))
        reject(owner, "decoded", shapes, "decoded and original inputs must be tensors of one shape")
    if not decoded.is_floating_point() or not original.is_floating_point() or decoded.ndim < 2:
        reject(owner, "decoded", (decoded.dtype, original.dtype), "both must be floating-point inputs (n, *input)")
    difference = decoded.detach().double() - original.detach().double()
    exact = (~difference.flatten(1).any(dim=1)).nonzero().flatten().tolist()
    if exact:
        rule = f"examples {exact[:10]} were decoded exactly ({len(exact)} of {len(decoded)}): they have no residual"
        reject(owner, "decoded", tuple(decoded.shape), rule)
    dtype = torch.promote_types(decoded.dtype, original.dtype)
    return Directions(difference[:, None].to(dtype), ("compression residual",), ("residual",), per_example=True)


@explains_keywords
def gate_directions(
    reference: Observation,
    examples: int | Sequence[int] | Tensor | None = None,
    *,
    seed: int = 0,
    residuals: Directions | None = None,
    class_gradients: int | None = None,
    low_frequency: int | None = None,
    gaussian: int | None = None,
    batch_size: int | None = None,
    input: Input = None,
    at_layer: str | None = None,
) -> Directions:
    """Return the fixed set of directions of a gate, the same for every candidate.

    For each example these are the reference's class gradients, low-frequency waves (if the inputs have a shape for
    which waves exist), random Gaussian directions, and `residuals`. Along class gradients the next class is near, along
    random directions far away, so that random directions alone give loose upper bounds of the distance. But the
    reference's gradients are the reference's worst case, not the candidate's: along them a candidate looks more robust
    than it is. The digest depends on the reference, the examples and the seed.

    Args:
        reference: The observed reference and data.
        examples: A number of examples spread evenly over the data set, their indices, or None for all.
        seed: The seed of the Gaussian directions.
        residuals: The `residual_directions` of the same examples, or None.
        class_gradients: The number of class gradients; by default 9, and 3 for inputs of more than 16,384 values.
        low_frequency: The number of low-frequency waves; by default 15, and 4 for such inputs.
        gaussian: The number of Gaussian directions; by default 8, and 2 for such inputs.
        batch_size: The largest number of inputs in one call; by default 32 on a CPU and 512 elsewhere,
            and never more than the observations were made with.
        input: Which of several inputs is moved: its name, or its place in a tuple; the others stay as each example has
            them. By default the only floating-point tensor, or else the only one, that is no mask.
        at_layer: The path of a layer whose outputs are moved instead of the input, such as one that embeds token ids.

    Returns:
        The directions of each example.

    Raises:
        InvalidArgumentError: If a number is below 1, or the residuals are of other examples.
        ObservationError: If the reference has no gradients, or the data has several predictions per example.

    >>> from cp_compress.fidelity import observe
    >>> seen = observe(torch.nn.Linear(4, 3), (torch.ones(2, 4), torch.tensor([0, 1])))
    >>> gate_directions(seen, gaussian=1).names[1:3]
    ('gradient towards the third class', 'uniform')
    """
    require_observations("gate_directions", reference=reference)
    require_one_class(reference.task)
    chosen = choose_examples("gate_directions", examples, len(reference))
    varied = vary(reference, chosen, input, at_layer, owner="gate_directions", purpose=PURPOSE)
    if class_gradients is not None:
        check_integer("gate_directions", "class_gradients", class_gradients, _COUNT_RULE, at_least=1)
    if at_layer is not None and low_frequency is not None:
        reject("gate_directions", "low_frequency", low_frequency, "what a layer gives has no waves: leave it out")
    if residuals is not None and (
        not isinstance(residuals, Directions) or not residuals.per_example or len(residuals.tensor) != len(chosen)
    ):
        rule = f"must be `residual_directions` of the same {len(chosen)} examples"
        reject("gate_directions", "residuals", residuals, rule)
    shared = shared_gate_directions(varied, low_frequency, gaussian, seed=seed)
    return gate_directions_at(varied, shared, residuals, class_gradients, batch_size)


def gate_directions_at(
    varied: Varied,
    shared: Sequence[Directions],
    residuals: Directions | None = None,
    class_gradients: int | None = None,
    batch_size: int | None = None,
) -> Directions:
    """Return the directions of a gate for some examples, `shared_gate_directions` of more of them among these."""
    gradients = standard_counts(varied.counting_shape)[0] if class_gradients is None else class_gradients
    parts = [_class_gradients(varied, gradients, batch_size), *(without_padding(one, varied) for one in shared)]
    return join_directions(parts if residuals is None else [*parts, residuals])


def shared_gate_directions(
    varied: Varied, low_frequency: int | None = None, gaussian: int | None = None, *, seed: int = 0
) -> list[Directions]:
    """Return the sets in `gate_directions` that all examples share, of the shape of the longest without padding.

    What a layer gives has no order of its features in which a wave would be slow.
    """
    shape = varied.counting_shape
    _, usual_waves, usual_gaussian = standard_counts(shape)
    count = usual_waves if low_frequency is None else low_frequency
    waves = [low_frequency_directions(shape, count)] if len(shape) <= 3 and varied.layer is None else []
    return [*waves, gaussian_directions(shape, usual_gaussian if gaussian is None else gaussian, seed)]


def without_padding(shared: Directions, varied: Varied) -> Directions:
    """Return directions for the longest example without padding as those of each, 0 at its places of padding.

    Each takes the first values of a direction for its own places, so that padding changes no distance.
    """
    if varied.counting is None:
        return shared
    places = (varied.counting.cumsum(dim=1) - 1).clamp_min(0)
    own = shared.tensor[:, places].transpose(0, 1)
    keep = varied.counting.view(len(places), 1, -1, *[1] * (own.ndim - 3))
    return Directions(own * keep, shared.names, shared.families, per_example=True)


def at_counting_places(directions: Directions, varied: Varied) -> Directions:
    """Return directions (…, *input) that are 0 at places of padding; absent for examples to which nothing is left."""
    assert varied.counting is not None
    tensor = (
        directions.tensor if directions.per_example else directions.tensor.expand(len(varied), *directions.tensor.shape)
    )
    keep = varied.counting.view(len(varied), 1, -1, *[1] * (tensor.ndim - 3))
    moved = tensor * keep
    absent = ~moved.flatten(2).any(dim=2)
    if directions.absent is not None:
        absent = absent | directions.absent
    return Directions(
        moved, directions.names, directions.families, True, directions.digest, absent if bool(absent.any()) else None
    )


def _rank_name(rank: int) -> str:
    return _RANKS[rank] if rank < len(_RANKS) else f"class {rank + 2} by rank"


def _check_gradients(gradients: Tensor, chosen: Tensor) -> None:
    size = gradients.flatten(2).abs().amax(dim=2)
    bad = chosen[(~torch.isfinite(size) | (size == 0)).any(dim=1)]
    if len(bad):
        raise ObservationError(
            f"the gradient of the logits is zero, NaN or infinite on {len(bad)} examples (first #{int(bad[0])}): "
            "it gives no direction"
        )
