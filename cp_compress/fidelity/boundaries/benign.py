"""Directions in which an input may change without changing what it shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cp_compress.base.arguments import explains_keywords, reject
from cp_compress.base.batching import slices
from cp_compress.base.digests import digest_text
from cp_compress.base.errors import ObservationError
from cp_compress.base.lazy import LazyModule
from cp_compress.fidelity.boundaries.directions import Directions
from cp_compress.fidelity.boundaries.families import PURPOSE
from cp_compress.fidelity.observing.observation import Observation, require_observations
from cp_compress.fidelity.observing.sampling import choose_examples
from cp_compress.fidelity.varying.inputs import Input, Varied
from cp_compress.fidelity.varying.layers import vary
from cp_compress.inputs.tasks import require_one_class

if TYPE_CHECKING:
    import torchvision.transforms.v2.functional as transforms
else:  # it imports the compiler of torch, which takes seconds
    transforms = LazyModule("torchvision.transforms.v2.functional")

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


@explains_keywords
def benign_directions(
    reference: Observation,
    examples: int | Sequence[int] | Tensor | None = None,
    *,
    kinds: Sequence[str] | None = None,
    input: Input = None,
) -> Directions:
    """Return, for each example, directions along which a person would not expect another prediction.

    For images (n, channels, height, width) these are brightness and contrast up and down, a shift by one pixel and a
    rotation by 5°, with the border repeated, a Gaussian blur of 0.7 pixels, and for images in [0, 1] with 1 or 3
    channels JPEG: the direction is from the image to the changed one. For inputs of every shape there is the direction
    towards the nearest other example that the reference puts into the same class. A change that leaves an example as it
    is, such as a shift of a blank image, is absent for this example, and left out if it changes no example.

    Args:
        reference: The observed reference and data.
        examples: A number of examples spread evenly over the data set, their indices, or None for all.
        kinds: The names of directions; by default all that exist for the inputs.
        input: Which of several inputs changes, as `compare_boundaries` takes it.

    Returns:
        The directions of each example.

    Raises:
        InvalidArgumentError: If a kind is unknown.
        ObservationError: If the data has several predictions per example, inputs are padded, a kind in `kinds` leaves
            an example as it is, or no direction is left.

    >>> from cp_compress.examples import digits, digits_cnn
    >>> from cp_compress.fidelity import observe
    >>> benign_directions(observe(digits_cnn(), digits()), 4, kinds=["brighter", "blurred"]).tensor.shape
    torch.Size([4, 2, 1, 8, 8])
    """
    require_observations("benign_directions", reference=reference)
    owner = "benign_directions"
    require_one_class(reference.task)
    chosen = choose_examples(owner, examples, len(reference))
    varied = vary(reference, chosen, input, owner=owner, purpose=PURPOSE)
    known = _known_kinds(varied.values())
    for kind in kinds or ():
        if kind not in known:
            reject(owner, "kinds", kind, f"known for inputs of this shape are {', '.join(known)}")
    return benign_directions_at(varied, kinds)


def require_benign(varied: Varied) -> None:
    """Raise ObservationError for values that have no benign changes: what layers give, and padded inputs."""
    if varied.layer is not None:
        told = f"what {varied.layer} gives has no changes of which a person says that they alter nothing"
    elif varied.counting is not None:
        told = f"{varied.what} are padded, so that no other example has the same places"
    else:
        return
    raise ObservationError(f'{told}: use directions="gate", "worst" or your own')


def benign_directions_at(varied: Varied, kinds: Sequence[str] | None = None) -> Directions:
    """Return `benign_directions` of some examples; the arguments are checked there."""
    require_benign(varied)
    chosen = varied.chosen
    changes = BenignChanges(varied, None if kinds is None else tuple(kinds))
    still = changes.still(slice(0, len(chosen)))
    if kinds is not None and bool(still.any()):
        column = int(still.any(dim=0).nonzero()[0])
        found = chosen[still[:, column]]
        raise ObservationError(f"{changes.kinds[column]!r} leaves {len(found)} examples as they are, first #{found[0]}")
    changes, still = changes.without_idle(still)
    return changes.directions(slice(0, len(chosen)), still, changes.origin)


class BenignChanges:
    """Benign changes of the inputs (n, *input) of some examples of a reference's data.

    `kinds` names them; examples are addressed by slices of the n.
    """

    def __init__(self, varied: Varied, kinds: tuple[str, ...] | None = None, nearest: Tensor | None = None) -> None:
        self.varied, self.inputs = varied, varied.values()
        self.kinds = tuple(_known_kinds(self.inputs)) if kinds is None else kinds
        if nearest is None and _SAME_CLASS in self.kinds:
            nearest = _nearest_of_class(varied, self.inputs)
        self._nearest = nearest

    def moves(self, kind: str, part: slice) -> Tensor:
        """Return what a change adds to inputs (k, *input)."""
        inputs = self.inputs[part]
        if kind == _SAME_CLASS:
            assert self._nearest is not None
            return self.varied.data.inputs(self._nearest[part]) - inputs
        if kind == _JPEG:
            from cp_compress.data import JPEG  # codecs stand beside fidelity, not below it

            return JPEG(quality=75).requantise(inputs) - inputs
        return _CHANGES[kind](inputs) - inputs

    def still(self, part: slice) -> Tensor:
        """Return which changes leave which inputs as they are (k, kinds), bool."""
        sizes = [self.moves(kind, part).flatten(1).abs().amax(dim=1) for kind in self.kinds]
        return torch.stack(sizes, dim=1) < _ROUNDING

    def without_idle(self, still: Tensor) -> tuple[BenignChanges, Tensor]:
        """Leave out the changes that leave all inputs as they are, by what `still` gave for all; raise if all do."""
        kept = (~still.all(dim=0)).nonzero().flatten()
        if not len(kept):
            raise ObservationError("every benign change leaves the examples as they are, so there is no direction")
        kinds = tuple(self.kinds[column] for column in kept.tolist())
        return BenignChanges(self.varied, kinds, self._nearest), still[:, kept]

    @property
    def origin(self) -> str | None:
        """The digest of what the directions come from, None for a bare callable."""
        model = self.varied.observation.model_digest
        return None if model is None else digest_text("benign", model, self.varied.digest, *self.kinds)

    @property
    def families(self) -> tuple[str, ...]:
        """The family of each kind."""
        return ("benign",) * len(self.kinds)

    def directions(self, part: slice, still: Tensor, origin: str | None = None) -> Directions:
        """Return the directions along all changes; those that `still` (k, kinds) marks are absent."""
        tensor = torch.stack([self.moves(kind, part) for kind in self.kinds], dim=1)
        absent = still if bool(still.any()) else None
        return Directions(tensor, self.kinds, self.families, per_example=True, origin=origin, absent=absent)


def _known_kinds(inputs: Tensor) -> list[str]:
    if inputs.ndim != 4:
        return [_SAME_CLASS]
    is_photograph = inputs.shape[1] in (1, 3) and float(inputs.min()) >= 0 and float(inputs.max()) <= 1
    return [_SAME_CLASS, *_CHANGES, *([_JPEG] if is_photograph else [])]


def _nearest_of_class(varied: Varied, inputs: Tensor) -> Tensor:
    """Return the nearest other example of each one's class (n,), itself where there is none; works in blocks."""
    reference, chosen = varied.observation, varied.chosen
    own = reference.predictions[chosen]
    rows = inputs.flatten(1)
    others = torch.isin(reference.predictions, own).nonzero().flatten()
    nearest, place = torch.full((len(rows),), torch.inf, dtype=torch.float64), chosen.clone()
    size = max(1, _BLOCK_VALUES // rows.shape[1])
    for part in slices(len(others), size):
        block = others[part]
        there = varied.data.inputs(block).flatten(1).double()
        for few in slices(len(rows), max(1, min(size, _BLOCK_VALUES // len(block)))):
            # a product of matrices would give copies a distance
            distances = torch.cdist(rows[few].double(), there, compute_mode="donot_use_mm_for_euclid_dist")
            distances[own[few, None] != reference.predictions[block][None, :]] = torch.inf
            distances[distances == 0] = torch.inf  # itself and its copies
            best, column = distances.min(dim=1)
            place[few] = torch.where(best < nearest[few], block[column], place[few])
            nearest[few] = torch.minimum(nearest[few], best)
    return place


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
