"""Images of more than 8 bits per channel, whose values Pillow and torchvision's own loader would clip."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from cp_compress.base.errors import ObservationError
from cp_compress.inputs.wrapping import layers_of


def is_deep(mode: str) -> bool:
    """Tell whether a mode of PIL has more than 8 bits a channel.

    >>> is_deep("I;16"), is_deep("RGB")
    (True, False)
    """
    return mode.startswith("I") or mode == "F"


def image_of_numbers(image: Image.Image) -> Image.Image:
    """Return an image of one channel with the same values in mode F, which Pillow resizes without rounding.

    >>> image_of_numbers(Image.new("I;16", (1, 1), 40_000)).getpixel((0, 0))
    40000.0
    """
    return Image.fromarray(np.asarray(image, dtype=np.float32))


def refuse_deep_images(source: Any, positions: Sequence[int]) -> None:
    """Raise ObservationError, naming example and file, for files of more than 8 bits a channel at those positions.

    Only data sets are looked at whose files torchvision's default loader reads, which makes white of such values.
    """
    source, places = list(layers_of(source, positions))[-1]
    folders: Any = sys.modules.get("torchvision.datasets.folder")
    if folders is None or not isinstance(source, folders.DatasetFolder) or source.loader is not folders.default_loader:
        return
    for number, place in zip(positions, places, strict=True):
        path = source.samples[place][0]
        mode = _mode_of(path)
        if mode is not None and is_deep(mode):
            rule = "images of more than 8 bits per channel must be given as tensors"
            raise ObservationError(f"example #{number} is an image of mode {mode} ({path}): {rule}")


def _mode_of(path: str) -> str | None:
    """Return the mode that a file's header states, None where it cannot be read, as the loader will say."""
    try:
        with Image.open(path) as image:
            return str(image.mode)
    except (OSError, SyntaxError, ValueError):
        return None
