"""Detectors of transformers, called as those of torchvision are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.arguments import explains_keywords
from cp_compress.base.errors import ArtifactError, ObservationError


@explains_keywords
class TransformerDetector(nn.Module):
    """A detector of transformers that maps images to objects; `load_transformer` makes it.

    `network` is the library's module; the library's post-processing of its architecture turns what it gives into boxes.
    """

    def __init__(self, network: Any, post_process: Any) -> None:
        super().__init__()
        self.network = network
        self._post_process = post_process

    def forward(self, images: Tensor | Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Return boxes (m, 4) as (x1, y1, x2, y2) in pixels, labels (m,) and scores (m,) of each image.

        `images` (n, channels, height, width), or a list of such images of one size, are what the network takes: resized
        and normalised. All objects are returned, whatever their score. Raises ObservationError for images of two sizes.
        """
        if not isinstance(images, Tensor):
            if len({tuple(image.shape) for image in images}) > 1:
                raise ObservationError("images of one batch must have one size: resize them before")
            images = torch.stack(list(images))
        output = self.network(pixel_values=images, return_dict=True)
        sizes = torch.tensor([tuple(images.shape[-2:])] * len(images))
        found = self._post_process(output, threshold=0.0, target_sizes=sizes.to(images.device))
        return [{name: one[name] for name in ("boxes", "labels", "scores")} for one in found]


def post_processing(network: Any, path: Any) -> Any:
    """Return the library's function that turns what a detector gives into objects.

    Raises ArtifactError where the library has none.
    """
    from transformers import IMAGE_PROCESSOR_MAPPING

    kinds = IMAGE_PROCESSOR_MAPPING.get(type(network.config), ())
    listed = list(kinds.values()) if isinstance(kinds, dict) else list(kinds) if isinstance(kinds, tuple) else [kinds]
    for kind in listed:
        if hasattr(kind, "post_process_object_detection"):
            return kind().post_process_object_detection
    raise ArtifactError(path, "is a detector for which transformers has no post-processing: wrap it, and use detect=")
