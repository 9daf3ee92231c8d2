"""Labelled examples from files: arrays in a `.npz`, or a folder with a folder of images for each class."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

from cp_compress.artifacts.archives import ZIP_MAGIC, open_archive
from cp_compress.artifacts.arrays import member_names, read_member_array
from cp_compress.artifacts.guards import MAX_BYTES, check_max_bytes, opened, told
from cp_compress.base.arguments import check_choice, check_integer, explains_keywords, reject
from cp_compress.base.error_reasons import shortened
from cp_compress.base.errors import ArtifactError, ObservationError
from cp_compress.base.files import read_regular
from cp_compress.inputs.forms import TableDataset
from cp_compress.inputs.reading import as_labels
from cp_compress.inputs.trees import MASKS, Inputs, TensorTree

_OWNER = "read_examples"
# Pillow reads more, and asks other programs to for some of them
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF")
_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
_MODES = {1: "L", 3: "RGB"}
MAX_EXAMPLES, MAX_PIXELS = 10_000_000, 64_000_000
_LARGEST_NAMES = 1 << 24
_PREFIX = "inputs."


@explains_keywords
class ArrayExamples(TensorDataset):
    """Inputs (n, ...) and labels (n,) of a `.npz` file; `classes` are the names of the classes where it has them."""

    def __init__(self, inputs: Tensor, labels: Tensor, classes: tuple[str, ...] | None) -> None:
        super().__init__(inputs, labels)
        if classes is not None:
            self.classes = classes


@explains_keywords
class NamedArrays(TableDataset):
    """Several inputs (n, ...) by name, or one, of a `.npz` file, with labels (n,) or without; `classes` are names."""

    def __init__(self, inputs: Inputs, labels: Tensor | None, classes: tuple[str, ...] | None) -> None:
        super().__init__(inputs, labels)
        if classes is not None:
            self.classes = classes


@explains_keywords
class ImageFolder:
    """A map-style data set of images in class folders, each read on access; `read_examples` makes it.

    An example is the image (channels, height, width), float32 in [0, 1], and the number of its class.

    Args:
        files: The paths of all images.
        labels: The classes (n,) of all images.
        classes: The names of the classes, in the order of their numbers.
        size: The (height, width) that all images are resized to, or None.
        channels: 3 or 1.
        numbered_by_folder: Whether classes are numbered as their folders are sorted, because nobody said what the
            model's order is.
    """

    def __init__(
        self,
        files: Sequence[Path],
        labels: Tensor,
        classes: tuple[str, ...],
        size: tuple[int, int] | None,
        channels: int,
        numbered_by_folder: bool = False,
    ) -> None:
        self.files, self.labels, self.classes = tuple(files), labels, classes
        self.numbered_by_folder = numbered_by_folder
        self._size, self._channels = size, channels

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return an image and its class; raises ArtifactError, naming the file, if it cannot be read."""
        return self._image(self.files[index]), int(self.labels[index])

    def _image(self, path: Path) -> Tensor:
        from PIL import Image, UnidentifiedImageError
        from torchvision.transforms.functional import pil_to_tensor

        from cp_compress.data.deep_images import image_of_numbers, is_deep

        with opened(path, MAX_PIXELS * 4) as file, told(path, "reading the image"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of images that are large; larger ones than allowed are refused here
            try:
                opened_image = Image.open(file, formats=_FORMATS)
            except UnidentifiedImageError as error:
                raise ArtifactError(path, f"is not a supported image: {', '.join(_FORMATS)}") from error
            with opened_image as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ArtifactError(path, f"has {image.width} × {image.height} pixels, more than {MAX_PIXELS:,}")
                deep = is_deep(image.mode)
                if deep and (image.format != "PNG" or not image.mode.startswith("I;16")):
                    rule = "with more than 8 bits per channel only grey PNG files of 16 bits have a known range"
                    raise ArtifactError(path, f"is a {image.format} image of mode {image.mode}: {rule}")
                # Pillow's own conversion to 8 bits cuts off at 255
                made = image_of_numbers(image) if deep else image.convert(_MODES[self._channels])
                if self._size is not None and (made.height, made.width) != self._size:
                    made = made.resize((self._size[1], self._size[0]), Image.Resampling.BILINEAR)
                pixels: Tensor = pil_to_tensor(made)
        scaled = pixels.float() / (65535 if deep else 255)
        return scaled.expand(self._channels, -1, -1).contiguous()


@explains_keywords
def read_examples(
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    classes: Sequence[str] | str | os.PathLike[str] | None = None,
    inputs: str | Sequence[str] | None = None,
    labels: str | None = None,
    max_examples: int = MAX_EXAMPLES,
    max_bytes: int = MAX_BYTES,
) -> ArrayExamples | NamedArrays | ImageFolder:
    """Return the labelled examples of a `.npz` file, or of a folder that has one folder of images per class.

    In a folder each sub-folder is a class. They are numbered in sorted order, which fits a model that was trained on
    the same folders; for another one `classes` says which of its classes each folder is. Images are PNG, JPEG, BMP,
    WebP, PNM or TIFF. White is 255, and 65535 in grey PNG files of 16 bits; other images of more than 8 bits per
    channel are refused. Pickled arrays are never read.

    Args:
        path: The file or the folder.
        size: For a folder, the (height, width) that all images are resized to, bilinearly; None if they have one size.
        channels: For a folder, 3 (the default) or 1.
        classes: For a folder, the names of all classes of the model in the order of its logits, among which each folder
            is found by its own: a sequence of names, or a text file (UTF-8) with one name a line.
        inputs: For a file, the name of the array of inputs (n, ...), or the names of several, which a model then takes
            by name; by default "inputs", or what begins with "inputs.", or, where there are "input_ids" or a mask, all
            arrays beside the labels.
        labels: For a file, the name of the array of class numbers (n,); "labels" by default, and none where the file
            holds inputs alone. An array `classes` of texts, if present, names the classes.
        max_examples: The largest number of examples.
        max_bytes: The largest size of the file, also when unpacked.

    Returns:
        A data set with the names of the classes as `classes`.

    Raises:
        ArtifactError: If the file is damaged, empty, too large or has too many examples; if a link leaves the folder, a
            file in it is not an image, or a folder's name is not among `classes`. The file is named.
        InvalidArgumentError: If an argument is not as described, or does not apply to the file or folder.
    """
    limit = check_max_bytes(_OWNER, max_bytes)
    most = check_integer(_OWNER, "max_examples", max_examples, "must be a whole number of 1 or more", at_least=1)
    folder = Path(path).is_dir()
    for name, value, of_folder in (
        ("size", size, True),
        ("channels", channels, True),
        ("classes", classes, True),
        ("inputs", inputs, False),
        ("labels", labels, False),
    ):
        if value is not None and of_folder != folder:
            reject(
                _OWNER,
                name,
                value,
                f"{os.fspath(path)} is a {'folder' if folder else 'file'}, which does not take this argument",
            )
    if folder:
        names = None if classes is None else _read_classes(classes)
        return _read_folder(Path(path), _checked_size(size), _checked_channels(channels), names, most)
    return _read_arrays(path, _checked_names(inputs), labels, most, limit)


def _read_arrays(
    path: str | os.PathLike[str], inputs: str | Sequence[str] | None, labels: str | None, most: int, max_bytes: int
) -> ArrayExamples | NamedArrays:
    with opened(path, max_bytes) as file:
        if file.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
            raise ArtifactError(path, "is not a .npz file")
        archive = open_archive(file, path, max_bytes)
        held = member_names(archive)
        wanted = _input_names(held, inputs, labels or "labels")
        values = {name: read_member_array(archive, name, path) for name in wanted}
        alone = labels is None and _without_labels(held, wanted)
        numbers = None if alone else read_member_array(archive, labels or "labels", path)
        named = "classes" in held
        names = read_member_array(archive, "classes", path, kinds="U").ravel().tolist() if named else None
    first = next(iter(values.values()))
    least = 2 if len(values) == 1 else 1
    wrong = [one for one in values.values() if one.ndim < least or len(one) != len(first)]
    if wrong or not len(first) or (numbers is not None and (numbers.ndim != 1 or len(numbers) != len(first))):
        parts = [f"{name} of shape {one.shape}" for name, one in values.items()]
        parts += [] if numbers is None else [f"{labels or 'labels'} of shape {numbers.shape}"]
        shapes = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
        raise ArtifactError(path, f"has {shapes}; expected (n, ...) and (n,) with at least one example")
    if len(first) > most:
        raise ArtifactError(path, f"has {len(first):,} examples; at most {most:,} are allowed (max_examples=)")
    truth = None if numbers is None else _truth(numbers, labels or "labels", path)
    known = None if names is None else tuple(names)
    with told(path, "making tensors of it"):
        if len(values) == 1 and isinstance(inputs or "", str) and truth is not None:
            return ArrayExamples(torch.from_numpy(first), truth, known)
        tensors = {name.removeprefix(_PREFIX): torch.from_numpy(one) for name, one in values.items()}
        one = isinstance(inputs or "", str) and len(values) == 1
        return NamedArrays(next(iter(tensors.values())) if one else TensorTree(tensors), truth, known)


def _truth(numbers: NDArray[Any], name: str, path: str | os.PathLike[str]) -> Tensor:
    try:
        return as_labels(numbers, len(numbers))
    except ObservationError as error:
        raise ArtifactError(path, f"{name}: {error}") from error


def _input_names(held: Sequence[str], inputs: str | Sequence[str] | None, labels: str) -> list[str]:
    """Return the arrays that are inputs: those that were named, "inputs", "inputs.…", or all beside a text's ids."""
    if inputs is not None:
        return [inputs] if isinstance(inputs, str) else list(inputs)
    below = [name for name in held if name.startswith(_PREFIX)]
    if "inputs" in held or below:
        return below if "inputs" not in held else ["inputs"]
    if {"input_ids", *MASKS} & set(held):
        return [name for name in held if name not in (labels, "classes")]
    return ["inputs"]


def _without_labels(held: Sequence[str], wanted: Sequence[str]) -> bool:
    """Tell whether a file has no labels, and nothing else that may be meant for them."""
    return "labels" not in held and set(held) <= {*wanted, "classes"}


def _read_classes(classes: Any) -> tuple[str, ...]:
    """Return the names of classes from a sequence, or from a text file with one a line."""
    rule = "must be the names of all classes of the model, in the order of its logits, or a file with one a line"
    if isinstance(classes, (str, os.PathLike)):
        path = Path(classes)
        with told(path, "reading the names of classes"):
            lines = read_regular(path, _LARGEST_NAMES).decode("utf-8-sig").splitlines()
        while lines and not lines[-1].strip():
            lines.pop()
        names = [line.strip() for line in lines]
    else:
        names = list(classes) if isinstance(classes, Iterable) else []
    if not names or not all(isinstance(name, str) and name for name in names):
        reject(_OWNER, "classes", shortened(classes, 200), rule)
    return tuple(names)


def _numbers_of(path: Path, folders: Sequence[str], classes: tuple[str, ...]) -> list[int]:
    """Return which class each folder is, by its name."""
    places = {name: number for number, name in enumerate(classes)}
    unknown = [name for name in folders if name not in places]
    if unknown:
        listed = shortened(", ".join(map(repr, unknown[:5])), 200)
        first = shortened(", ".join(map(repr, classes[:5])), 200)
        more = "" if len(unknown) <= 5 else f" and {len(unknown) - 5} more"
        known = f"the {len(classes)} names in classes= ({first}{', …' if len(classes) > 5 else ''})"
        raise ArtifactError(path, f"has folders that are none of {known}: {listed}{more}")
    several = [name for name, count in Counter(classes).items() if count > 1 and name in set(folders)]
    if several:  # several classes of well-known data sets have one name
        told = f"has the folder {shortened(several[0], 80)!r}, which is the name of several of the classes in classes="
        raise ArtifactError(path, told)
    return [places[name] for name in folders]


def _read_folder(
    path: Path, size: tuple[int, int] | None, channels: int, classes: tuple[str, ...] | None, max_examples: int
) -> ImageFolder:
    root = path.resolve()
    with told(path, "listing it"):
        folders = sorted(each.name for each in path.iterdir() if not each.name.startswith(".") and each.is_dir())
    if not folders:
        raise ArtifactError(path, "holds no folders; expected one for each class, with images in it")
    places = list(range(len(folders))) if classes is None else _numbers_of(path, folders, classes)
    files: list[Path] = []
    numbers: list[int] = []
    for number, name in zip(places, folders, strict=True):
        before = len(files)
        with told(path / name, "listing it"):
            found = sorted(path.joinpath(name).iterdir())
        for file in found:
            if file.name.startswith("."):
                continue
            _check_image_file(file, root)
            files.append(file)
            numbers.append(number)
            if len(files) > max_examples:
                raise ArtifactError(path, f"has more than {max_examples:,} examples (max_examples=)")
        if len(files) == before:
            raise ArtifactError(path / name, "holds no images")
    names = tuple(folders) if classes is None else classes
    return ImageFolder(files, torch.tensor(numbers), names, size, channels, numbered_by_folder=classes is None)


def _check_image_file(file: Path, root: Path) -> None:
    with told(file, "following its links"):  # which may go in a circle
        place = file.resolve()
    if not place.is_relative_to(root):
        raise ArtifactError(file, "is a link to a file outside of its folder")
    if not file.is_file():
        raise ArtifactError(file, "is not a regular file")
    if file.suffix.lower() not in _ENDINGS:
        raise ArtifactError(file, f"is not an image by its name; supported are {', '.join(_ENDINGS)}")


def _checked_names(inputs: Any) -> str | Sequence[str] | None:
    rule = "must be the name of an array, or the names of several, each once"
    if inputs is None or (isinstance(inputs, str) and inputs):
        return inputs
    names = list(inputs) if isinstance(inputs, (list, tuple)) else []
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        reject(_OWNER, "inputs", inputs, rule)
    return names


def _checked_size(size: Any) -> tuple[int, int] | None:
    rule = "must be (height, width), two whole numbers of 1 or more"
    if size is None:
        return None
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        reject(_OWNER, "size", size, rule)
    height, width = (check_integer(_OWNER, "size", part, rule, at_least=1, at_most=1 << 14) for part in size)
    return height, width


def _checked_channels(channels: int | None) -> int:
    if channels is None:
        return 3
    check_choice(_OWNER, "channels", str(channels), tuple(map(str, _MODES)))
    return channels
