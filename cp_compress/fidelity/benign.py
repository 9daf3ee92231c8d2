"""Directions in which an input may change without changing what it shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torchvision.transforms.v2.functional as transforms
from torch import Tensor

from cp_compress.base.arguments import reject
from cp_compress.base.batching import slices
from cp_compress.base.digests import digest_tensors, digest_text
from cp_compress.base.errors import ObservationError
from cp_compress.base.tasks import require_one_class
from cp_compress.fidelity.directions import Directions
from cp_compress.fidelity.observation import Observation
from cp_compress.fidelity.sampling import choose_examples

_CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "brighter": lambda images: images + 0.1,
    "darker": lambda images: images - 0.1,
    "more contrast": lambda images: _contrast(images, 1.25),
    "less contrast": lambda images: _contrast(images, 0.8),
    "shifted right by a pixel": lambda images: _shift(images, 1, 3),
    "shifted down by a pixel": lambda images: _shift(images, 1, 2),
    "turned by 5° to the left": lambda images: _turn(images, 5.0),
    "turned by 5° to the right": lambda images: _turn(images, -5.0),
    "blurred": lambda images: transforms.gaussian_blur(images, kernel_size=[3, 3], sigma=[0.7]),
}
_JPEG = "stored as JPEG of quality 75"
_ROUNDING = 1e-5  # a blur of a blank image moves it by less
_SAME_CLASS = "towards another example of its class"
_BLOCK_VALUES = 2**21


def benign_directions(
    reference: Observation,
    examples: int | Sequence[int] | Tensor | None = None,
    *,
    kinds: Sequence[str] | None = None,
) -> Directions:
    """Return, for each example, directions along which a person would not expect another answer.

    For images (n, channels, height, width): brightness and contrast up and down, a shift by one pixel and a rotation
    by 5°, with the border repeated, a Gaussian blur of 0.7 pixels, and for images in [0, 1] with 1 or 3 channels JPEG:
    the direction is from the image to the changed one. For inputs of every shape: towards the nearest other of all
    examples that the reference puts into the same class.
    `kinds` chooses among their names; by default all that exist for the inputs are given. What leaves an example as it
    is, such as a shift of a blank image, is absent for this example, and left out where it does so for all.

    Raises InvalidArgumentError for unknown kinds, ObservationError for data of many answers an example, where a kind
    that was asked for leaves an example as it is, and where none is left.

    >>> from cp_compress.examples import digits, digits_cnn
    >>> from cp_compress.fidelity import observe
    >>> benign_directions(observe(digits_cnn(), digits()), 4, kinds=["brighter", "blurred"]).tensor.shape
    torch.Size([4, 2, 1, 8, 8])
    """
    owner = "benign_directions"
    require_one_class(reference.task)
    chosen = choose_examples(owner, examples, len(reference))
    inputs, _ = reference.data.select(chosen)
    if not inputs.is_floating_point():
        raise ObservationError(f"inputs are {inputs.dtype}: moving along a direction needs a floating-point dtype")
    known = _known_kinds(inputs)
    for kind in kinds or ():
        if kind not in known:
            reject(owner, "kinds", kind, f"known for inputs of this shape are {', '.join(known)}")
    moves, gaps = {}, []
    for kind in kinds or known:
        move = _changed(kind, reference, chosen, inputs) - inputs
        still = move.flatten(1).abs().amax(dim=1) < _ROUNDING
        if kinds is not None and bool(still.any()):
            first = int(chosen[still][0])
            raise ObservationError(f"{kind!r} leaves {int(still.sum())} examples as they are, first #{first}")
        if not bool(still.all()):
            moves[kind] = move
            gaps.append(still)
    if not moves:
        raise ObservationError("every benign change leaves the examples as they are: there is no such direction")
    names = tuple(moves)
    origin = None
    if reference.model_digest is not None:
        origin = digest_text("benign", reference.model_digest, digest_tensors([inputs]), *names)
    tensor = torch.stack(list(moves.values()), dim=1)
    absent = torch.stack(gaps, dim=1)
    return Directions(
        tensor,
        names,
        ("benign",) * len(names),
        per_example=True,
        origin=origin,
        absent=absent if bool(absent.any()) else None,
    )


def _known_kinds(inputs: Tensor) -> list[str]:
    if inputs.ndim != 4:
        return [_SAME_CLASS]
    is_photograph = inputs.shape[1] in (1, 3) and float(inputs.min()) >= 0 and float(inputs.max()) <= 1
    return [_SAME_CLASS, *_CHANGES, *([_JPEG] if is_photograph else [])]


def _changed(kind: str, reference: Observation, chosen: Tensor, inputs: Tensor) -> Tensor:
    if kind == _SAME_CLASS:
        return _same_class(reference, chosen, inputs)
    if kind == _JPEG:
        from cp_compress.data import JPEG  # codecs stand beside fidelity, not below it

        return JPEG(quality=75).requantise(inputs)
    return _CHANGES[kind](inputs)


def _same_class(reference: Observation, chosen: Tensor, inputs: Tensor) -> Tensor:
    """Return the nearest other example of each one's class, itself where there is none; reads the data in blocks."""
    own = reference.predictions[chosen]
    rows = inputs.flatten(1).double()
    others = torch.isin(reference.predictions, own).nonzero().flatten()
    nearest, place = torch.full((len(rows),), torch.inf, dtype=torch.float64), chosen.clone()
    for part in slices(len(others), max(1, _BLOCK_VALUES // rows.shape[1])):
        block = others[part]
        # a product of matrices would give copies a distance
        distances = torch.cdist(
            rows, reference.data.select(block)[0].flatten(1).double(), compute_mode="donot_use_mm_for_euclid_dist"
        )
        distances[own[:, None] != reference.predictions[block][None, :]] = torch.inf
        distances[distances == 0] = torch.inf  # itself and its copies
        best, column = distances.min(dim=1)
        place = torch.where(best < nearest, block[column], place)
        nearest = torch.minimum(nearest, best)
    return reference.data.select(place)[0]


def _contrast(images: Tensor, factor: float) -> Tensor:
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + factor * (images - mean)


def _shift(images: Tensor, pixels: int, dim: int) -> Tensor:
    size = images.shape[dim]
    rows = (torch.arange(size) - pixels).clamp(0, size - 1)  # the border is repeated
    return images.index_select(dim, rows)


def _turn(images: Tensor, degrees: float) -> Tensor:
    height, width = images.shape[2:]
    edge = [width // 2, height // 2]
    padded = torch.nn.functional.pad(images, (edge[0], edge[0], edge[1], edge[1]), mode="replicate")
    turned: Tensor = transforms.rotate(padded, degrees, interpolation=transforms.InterpolationMode.BILINEAR)
    cropped: Tensor = transforms.center_crop(turned, [height, width])
    return cropped
