"""Two detectors run side by side: from batches of images to the objects that each finds in them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.observing.runner import Model
from cp_compress.fidelity.side_by_side.probing import ASKED, probe_batches
from cp_compress.fidelity.side_by_side.sides import Side, evaluating, run_both
from cp_compress.inputs.detection import DetectionData, Objects, as_objects, content_of, joined_digest

Detect = Callable[[Model, list[Tensor]], Any]
_SUMMARY = 10


class Detections(NamedTuple):
    """What a model finds in one image: boxes (m, 4), labels (m,) and scores (m,), the highest score first."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor

    def above(self, threshold: float) -> Detections:
        """Return those of at least this score."""
        kept = self.scores >= threshold
        return Detections(self.boxes[kept], self.labels[kept], self.scores[kept])


@dataclasses.dataclass(frozen=True, eq=False)
class Detected:
    """What two detectors find in images, the candidate first, and the true objects where they are known.

    Attributes:
        found: The detections of each image, of both models.
        truth: The objects of each image; None where they are not known.
        contents: The digest of each image.
        equal: Whether both find the same in every image, bit for bit.
    """

    found: tuple[list[Detections], list[Detections]]
    truth: list[Objects] | None
    contents: list[str]
    equal: bool

    @property
    def digest(self) -> str:
        """The digest of the data."""
        return joined_digest(self.contents)

    @property
    def repeated(self) -> Tensor:
        """The number (images,) of each image's content, one for those that are equal."""
        known: dict[str, int] = {}
        return torch.tensor([known.setdefault(content, len(known)) for content in self.contents])


def call_model(model: Model, images: list[Tensor]) -> Any:
    """Return what a model finds in images, as detectors of torchvision are called."""
    return model(images)


def detect_both(sides: tuple[Side, Side], data: DetectionData, detect: Detect) -> Detected:
    """Run both models over all images once.

    Images of one batch have one size, unless a deployed batch size is given: a detector pads smaller ones, so that its
    answers would depend on their neighbours.

    Raises ObservationError for detections that are none, data that change between two readings, and a model that
    answers at random.
    """
    found: tuple[list[Detections], list[Detections]] = ([], [])
    truth: list[Objects] = []
    contents: list[str] = []

    def run(part: slice) -> list[int]:
        rows = [data.read(position) for position in range(part.start, part.stop)]
        images = [image for image, _ in rows]
        batches = [images] if sides[1].deployed else list(_of_one_size(images))
        parts = [[one for batch in batches for one in _detect(side, detect, batch, part.start)] for side in sides]
        if part.start == 0:
            alike = [place for place, image in enumerate(images) if image.shape == images[0].shape]
            for side, some in zip(sides, parts, strict=True):
                ask = functools.partial(_summary_again, side, detect, [images[place] for place in alike])
                probe_batches(side, ask, _summary([some[place] for place in alike]))
        for kept, some in zip(found, parts, strict=True):
            kept.extend(some)
        truth.extend(objects for _, objects in rows if objects is not None)
        contents.extend(content_of(*row) for row in rows)
        return [len(batch) for batch in batches]

    with evaluating(*sides):
        run_both(*sides, len(data), run)
    if any(data.content(place) != contents[place] for place in range(min(ASKED, len(data)))):
        raise ObservationError("the data set returns other images when it is read again: leave random augmentation out")
    pairs = zip(*found, strict=True)
    equal = all(all(map(_equal, one, other)) for one, other in pairs)
    return Detected(found, truth if data.labelled else None, contents, equal)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _of_one_size(images: Sequence[Tensor]) -> list[list[Tensor]]:
    batches: list[list[Tensor]] = []
    for image in images:
        if batches and batches[-1][0].shape == image.shape:
            batches[-1].append(image)
        else:
            batches.append([image])
    return batches


def _detect(side: Side, detect: Detect, images: list[Tensor], start: int) -> list[Detections]:
    batch = [image.to(side.runner.device, copy=True) for image in images]
    what = f"a batch of {len(images)} images of shape {tuple(images[0].shape)}"
    output = side.output(lambda model: detect(model, batch), len(images), what)
    if not isinstance(output, (list, tuple)) or len(output) != len(images):
        found = f"{len(output)} results" if isinstance(output, (list, tuple)) else f"a {type(output).__name__}"
        raise ObservationError(
            f"the {side.who} returned {found} for {len(images)} images; expected a list of mappings with boxes, labels "
            "and scores, one an image, as detectors of torchvision give them: say by detect= how images become such a "
            "list, such as by the post-processing of transformers"
        )
    return [
        _as_detections(one, f"what the {side.who} found in image #{start + place}") for place, one in enumerate(output)
    ]


def _as_detections(output: Any, what: str) -> Detections:
    objects = as_objects(output, what)
    if "scores" not in output:
        raise ObservationError(f"{what} has no scores: a detector says how sure it is of each object")
    scores = torch.as_tensor(output["scores"]).detach().cpu().float()
    if scores.shape != objects.labels.shape or not bool(torch.isfinite(scores).all()):
        told = f"{what} has scores {tuple(scores.shape)} for {len(objects.labels)} boxes"
        raise ObservationError(f"{told}; expected one finite number each")
    order = torch.argsort(scores, descending=True, stable=True)
    return Detections(objects.boxes[order], objects.labels[order], scores[order])


def _summary_again(side: Side, detect: Detect, images: list[Tensor], places: list[int]) -> Tensor:
    return _summary(_detect(side, detect, [images[place] for place in places], places[0]))


def _summary(found: Sequence[Detections]) -> Tensor:
    """Return the highest scores (k, 10) of what is found in images, 0 where there are fewer."""
    rows = torch.zeros(len(found), _SUMMARY)
    for row, one in zip(rows, found, strict=True):
        row[: len(one.scores)] = one.scores[:_SUMMARY]
    return rows
