"""Images, and the objects in them where they are labelled, in the forms that detectors of torchvision take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from cp_compress.base.arguments import explains_keywords
from cp_compress.base.digests import Digested, digest_tensors, digest_text
from cp_compress.base.errors import ObservationError
from cp_compress.inputs.row_digests import digest_values

_FORMS = (
    "a tensor of images (n, channels, height, width), a list or map-style data set of images (channels, height, width) "
    "or of pairs (image, target), or a pair of all images and all targets; a target is a mapping with boxes and labels"
)
_UNREADABLE = (OSError, LookupError, TypeError, ValueError, RuntimeError)


class Objects(NamedTuple):
    """The objects of one image: boxes (m, 4) as x1, y1, x2, y2 in pixels, labels (m,), and which are crowds (m,)."""

    boxes: Tensor
    labels: Tensor
    crowds: Tensor


@explains_keywords
class DetectionData(Digested):
    """Images that detectors read, with the true objects where they are known, readable by position.

    Args:
        images: Images (channels, height, width), floating point, of any sizes: one tensor, or a list or map-style data
            set, whose rows may be pairs (image, target).
        targets: The true objects of each image: mappings with `boxes` (m, 4), as x1, y1, x2, y2, `labels` (m,) and, of
            COCO, `iscrowd` (m,). None where the rows have them, or nobody knows them.
        classes: The names of the classes: a sequence by label, or a mapping from labels.

    Raises:
        ObservationError: If it has another form, or holds no image. Reading raises it for an image or a target that is
            not as described.

    >>> data = DetectionData(torch.rand(1, 3, 8, 8), [{"boxes": [[0, 0, 4, 4]], "labels": [1]}])
    >>> data.read(0)[1].boxes.tolist()
    [[0.0, 0.0, 4.0, 4.0]]
    """

    def __init__(
        self,
        images: Any,
        targets: Sequence[Mapping[str, Any]] | None = None,
        classes: Sequence[str] | Mapping[int, str] | None = None,
    ) -> None:
        self.source: Any = self
        self._rows, self._targets = images, targets
        if isinstance(images, (Tensor, np.ndarray)) and images.ndim != 4:
            raise ObservationError(f"images are a tensor of shape {tuple(images.shape)}; they must be {_FORMS}")
        unfit = isinstance(images, (str, bytes, Mapping, DataLoader, IterableDataset))
        if unfit or not (hasattr(images, "__len__") and hasattr(images, "__getitem__")):
            raise ObservationError(f"images are a {type(images).__name__}; they must be {_FORMS}")
        if not len(images):
            raise ObservationError("there is no image: nothing is there to compare")
        if targets is not None and len(targets) != len(images):
            raise ObservationError(f"there are {len(images)} images and {len(targets)} targets; each image needs one")
        self._classes = dict(enumerate(classes)) if isinstance(classes, Sequence) else dict(classes or {})
        self.labelled = targets is not None or self._is_pair(self._row(0))

    @classmethod
    def of(cls, source: Any) -> DetectionData:
        """Return detection data: itself, a data set, images alone, or a mapping or pair of images and targets."""
        if isinstance(source, cls):
            return source
        if isinstance(source, Mapping):
            unknown = [name for name in source if name not in ("images", "targets", "classes")]
            if unknown or "images" not in source:
                told = f"dataset is a mapping of {', '.join(map(str, source)) or 'nothing'}"
                raise ObservationError(f"{told}; it takes images, targets and classes")
            made = cls(**source)
        elif isinstance(source, tuple) and len(source) == 2 and _are_targets(source[1]):
            made = cls(*source)
        else:
            made = cls(source, classes=getattr(source, "classes", None))
        made.source = source
        return made

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, position: int) -> tuple[Tensor, Objects | None]:
        """Return an image (channels, height, width), and its objects where they are known."""
        row = self._row(position)
        target = None if self._targets is None else self._targets[position]
        if self._targets is None and self._is_pair(row) != self.labelled:
            raise ObservationError(f"image #{position} {'lacks' if self.labelled else 'has'} a target, others do not")
        if self._is_pair(row):
            row, target = row[0], row[1] if target is None else target
        image = torch.as_tensor(row) if isinstance(row, (Tensor, np.ndarray)) else None
        if image is None or image.ndim != 3 or not image.is_floating_point():
            found = f"{type(row).__name__}" if image is None else f"{image.dtype} of shape {tuple(image.shape)}"
            told = f"image #{position} is a {found}; it must be a floating-point tensor (channels, height, width)"
            raise ObservationError(told)
        return image, None if target is None else as_objects(target, f"the target of image #{position}")

    def content(self, position: int) -> str:
        """Return the digest of an image and its objects."""
        return content_of(*self.read(position))

    def digest(self) -> str:
        """Return the hex digest of all images and objects."""
        return joined_digest(self.content(position) for position in range(len(self)))

    def example_digests(self) -> list[frozenset[str]]:
        """Return the digest of each image, by which data that a model was made with are known."""
        return [frozenset(digest_values(self.read(position)[0][None])) for position in range(len(self))]

    def first_input(self) -> list[Tensor]:
        """Return the first image as a batch."""
        return [self.read(0)[0]]

    def class_name(self, label: int) -> str:
        """Return the name of a class, "class 3" where it has none."""
        return str(self._classes.get(label, f"class {label}"))

    def _row(self, position: int) -> Any:
        try:
            return self._rows[position]
        except _UNREADABLE as error:
            raise ObservationError(f"image #{position} cannot be read: {type(error).__name__}: {error}") from error

    @staticmethod
    def _is_pair(row: Any) -> bool:
        return isinstance(row, (tuple, list)) and len(row) == 2


def content_of(image: Tensor, objects: Objects | None) -> str:
    """Return the digest of an image and its objects."""
    return digest_tensors([image, *(objects or ())])


def joined_digest(contents: Any) -> str:
    """Return the digest of images from the digests of each."""
    return digest_text(*contents)


def as_objects(target: Any, what: str) -> Objects:
    """Return boxes (m, 4), float32, and labels (m,), int64, of a mapping; raises ObservationError for others."""
    if not isinstance(target, Mapping) or not {"boxes", "labels"} <= target.keys():
        found = f"mapping of {', '.join(map(str, target))}" if isinstance(target, Mapping) else type(target).__name__
        raise ObservationError(f"{what} is a {found}; it must be a mapping with boxes (m, 4) and labels (m,)")
    boxes, labels = (torch.as_tensor(target[name]).detach().cpu() for name in ("boxes", "labels"))
    boxes = boxes.reshape(0, 4) if not boxes.numel() else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != (len(boxes),):
        told = f"{what} has boxes {tuple(boxes.shape)} and labels {tuple(labels.shape)}"
        raise ObservationError(f"{told}; they must be (m, 4) and (m,)")
    boxes = boxes.float()
    if not bool(torch.isfinite(boxes).all()):
        raise ObservationError(f"{what} has boxes with NaN or infinite corners")
    turned = (boxes[:, 2:] < boxes[:, :2]).any(dim=1)
    if bool(turned.any()):
        some = boxes[turned][0].tolist()
        raise ObservationError(
            f"{what} has a box {some} whose second corner lies before its first: boxes are x1, y1, x2, y2 "
            "(torchvision.ops.box_convert makes them of other forms)"
        )
    if labels.is_floating_point() and labels.numel():
        raise ObservationError(f"{what} has labels of {labels.dtype}; they must be whole numbers")
    crowds = torch.as_tensor(target.get("iscrowd", torch.zeros(len(boxes)))).detach().cpu().bool().reshape(-1)
    return Objects(boxes, labels.long(), crowds if len(crowds) == len(boxes) else torch.zeros(len(boxes)).bool())


def _are_targets(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) > 0 and all(isinstance(one, Mapping) for one in value)
