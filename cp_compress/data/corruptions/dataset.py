"""Common corruptions of images (weather, camera and compression effects), for a batch and for a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cp_compress.base.arguments import check_choice, check_integer, explains_keywords, reject
from cp_compress.base.digests import digest_text
from cp_compress.data.corruptions.kinds import CORRUPTIONS
from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.tasks import IGNORED, ignored_by
from cp_compress.inputs.wrapping import said_by

CORRUPTION_NAMES = tuple(CORRUPTIONS)


@explains_keywords
def corrupt(
    images: Tensor, corruption: str, severity: int, *, seed: int = 0, indices: Sequence[int] | Tensor | None = None
) -> Tensor:
    """Return corrupted images, in [0, 1].

    Hendrycks and Dietterich 2019, "Benchmarking neural network robustness to common corruptions and perturbations";
    settings of CIFAR-10-C. Random numbers depend only on `seed` and on each image's index, so that the result does not
    depend on how images are batched.

    Args:
        images: Floating-point pixels (n, channels, height, width) in [0, 1] with 1 or 3 channels.
        corruption: One of `CORRUPTION_NAMES`.
        severity: A whole number in 1…5.
        seed: The seed of the random numbers, a whole number of 0 or more.
        indices: The index (n,) of each image for its random numbers; by default its place in the batch.

    Returns:
        The corrupted images (n, channels, height, width), in the dtype and on the device of `images`.

    Raises:
        InvalidArgumentError: If the images, the name, the severity, the seed or the indices are not as described.

    >>> corrupt(torch.full((1, 3, 8, 8), 0.5), "brightness", 2)[0, 0, 0, 0]
    tensor(0.6000)
    """
    check_choice("corrupt", "corruption", corruption, CORRUPTION_NAMES)
    level = check_integer("corrupt", "severity", severity, "must be a whole number in 1..5", at_least=1, at_most=5)
    check_integer("corrupt", "seed", seed, "must be a whole number of 0 or more", at_least=0)
    form = "floating-point images (n, 1 or 3 channels, height, width) in [0, 1] are needed"
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] not in (1, 3):
        reject("corrupt", "images", tuple(getattr(images, "shape", ())), form)
    if not images.is_floating_point():
        reject("corrupt", "images", images.dtype, form)
    if not bool(((images >= 0) & (images <= 1)).all()):  # NaN is neither
        found = f"from {float(images.min()):.4g} to {float(images.max()):.4g}"  # NaN where there is one
        reject("corrupt", "images", found, form)
    places = range(len(images)) if indices is None else [int(index) for index in indices]
    if len(places) != len(images):
        reject("corrupt", "indices", len(places), f"one index for each of {len(images)} images is needed")
    if not len(images):
        return images.clone()
    # half precision lacks operators, and too many digits for geometry
    precise = images.float() if images.element_size() < 4 else images
    draw = _Draw(corruption, seed, places, precise)
    return CORRUPTIONS[corruption](precise, level - 1, draw).clamp(0, 1).to(images.dtype)


class _Draw:
    """Random numbers that depend on the seed, the corruption, the example and how often was drawn, and nothing else."""

    def __init__(self, corruption: str, seed: int, places: Sequence[int], images: Tensor) -> None:
        self.like = images
        self.generators = [
            torch.Generator().manual_seed(int(digest_text(corruption, str(seed), str(place))[:15], 16))
            for place in places
        ]

    def __call__(self, kind: str, shape: tuple[int, ...]) -> Tensor:
        function = torch.randn if kind == "normal" else torch.rand
        rows = [function(shape, generator=generator, dtype=torch.float32) for generator in self.generators]
        return torch.stack(rows).to(self.like)


@explains_keywords
class CorruptedDataset:
    """A data set whose images are corrupted when they are read; labels, order and attributes such as `classes` stay.

    Args:
        dataset: Labelled data in any form that comparisons accept, with images as `corrupt` takes them.
        corruption: One of `CORRUPTION_NAMES`.
        severity: A whole number in 1…5.
        seed: The seed of the random numbers, which also depend on each example's index.

    Raises:
        InvalidArgumentError: If `corrupt` does not accept the name, the severity or the images.

    >>> from cp_compress.examples import digits
    >>> CorruptedDataset(digits(), "fog", 3)[0][0].shape
    torch.Size([1, 8, 8])
    """

    def __init__(self, dataset: Any, corruption: str, severity: int, *, seed: int = 0) -> None:
        self.data = LabeledData(dataset)
        self.corruption, self.severity, self.seed = corruption, severity, seed
        corrupt(self.data.inputs([0]), corruption, severity, seed=seed)

    @property
    def wrapped_dataset(self) -> Any:
        """The data set whose images are corrupted."""
        return self.data.source

    @property
    def classes(self) -> Any:
        """The names of the classes, or None if the data set has none."""
        return said_by(self.wrapped_dataset, "classes")

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return the examples at indices, corrupted in one batch; negative ones count from the end."""
        for index in indices:
            if not -len(self) <= index < len(self):
                raise IndexError(f"index {index} is outside of {len(self)} examples")
        places = [int(index) % len(self) for index in indices]
        images, (_, labels) = self.data.inputs(places), self.data.read(places)
        if labels is None:
            changed = corrupt(images, self.corruption, self.severity, seed=self.seed, indices=places)
            return list(changed.unbind())
        if self.data.task != "single_label":  # `LabeledData` has made its own of the target that does not count
            labels = torch.where(labels == IGNORED, ignored_by(self.data), labels)
        changed = corrupt(images, self.corruption, self.severity, seed=self.seed, indices=places)
        return list(zip(changed.unbind(), labels.unbind(), strict=True))
