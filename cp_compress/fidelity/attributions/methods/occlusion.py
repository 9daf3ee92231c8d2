"""Attribution without gradients: how the logit changes when a part of the input is covered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cp_compress.base.arguments import check_integer, explains_keywords, reject
from cp_compress.fidelity.attributions.methods.captum_calls import attr
from cp_compress.fidelity.attributions.methods.method import AttributionMethod, AttributionSubject, Maps, Need

Extent = int | tuple[int, ...]
_SMALLEST_WINDOW, _WINDOWS_A_SIDE, _STRIDE = 4, 8, 2


@explains_keywords
@dataclass(frozen=True, repr=False)
class Occlusion(AttributionMethod):
    """The change of the class's logit when a window of the input is covered (Zeiler and Fergus 2014).

    `window` and `stride` are in pixels: one number for every spatial dimension, or one for each. By default a window is
    an eighth of each side, at least 4, and the stride half of it; the stride of a `window` that is given is 2. A window
    covers all channels of an image (C, H, W), and in a vector of features so many consecutive features; what it covers
    is set to zero. It needs no gradients.

    In token ids (length,), `mask_token` is the id that is read in the place of a covered token, such as
    `tokenizer.mask_token_id`: each token is then covered alone by default, and padding never. Without it the id 0 is
    read, where ids are the only input.
    """

    window: Extent | None = None
    stride: Extent | None = None
    mask_token: int | None = None
    expression_name: ClassVar[str] = "occlusion"
    needs: ClassVar[tuple[Need, ...]] = ()

    def __post_init__(self) -> None:
        for name in ("window", "stride"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _as_extent(name, getattr(self, name)))
        if self.mask_token is not None:
            rule = "must be the id of the token that is read in the place of a covered one, a whole number of 0 or more"
            token = check_integer("Occlusion", "mask_token", self.mask_token, rule, at_least=0)
            object.__setattr__(self, "mask_token", token)
        if self.window is not None and self.stride is not None:
            self._check_gaps(*_aligned(self.window, self.stride))

    def attribute(self, subject: AttributionSubject, inputs: Tensor, target: Tensor) -> Maps:
        """Return at each place the mean change of the logit over the windows that cover it."""
        if self.mask_token is not None and (inputs.is_floating_point() or inputs.ndim != 2):
            found = f"the inputs are {inputs.dtype} of shape {tuple(inputs.shape[1:])}"
            reject("Occlusion", "mask_token", self.mask_token, f"covers token ids (length,), and {found}: leave it out")
        window, stride = self.sizes(tuple(inputs.shape[1:]))

        def logits(covered: Tensor, *beside: Tensor) -> Tensor:
            return subject.logits(covered.to(inputs.dtype), *beside)  # covering makes uint8 int64

        maps: Tensor = attr.Occlusion(logits).attribute(
            inputs.detach(),
            sliding_window_shapes=window,
            strides=stride,
            baselines=self.mask_token or 0,
            target=target,
            additional_forward_args=subject.beside,
            # several windows at a time where the batch of examples alone would not fill a call
            perturbations_per_eval=max(1, subject.limit // len(inputs)),
        )
        return maps

    def sizes(self, input_shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return window and stride over every dimension of an input of shape (C, H, W), (H, W) or (features,).

        Raises InvalidArgumentError when the window does not fit into the input.
        """
        spatial = input_shape[1:] if len(input_shape) > 2 else input_shape
        usual = tuple(max(_SMALLEST_WINDOW, side // _WINDOWS_A_SIDE) for side in spatial)
        if self.mask_token is not None:
            usual = (1,) * len(spatial)
        window = usual if self.window is None else _spread("window", self.window, len(spatial))
        steps = tuple(max(1, size // 2 if self.window is None else min(size, _STRIDE)) for size in window)
        stride = steps if self.stride is None else _spread("stride", self.stride, len(spatial))
        self._check_gaps(window, stride)
        if any(size > limit for size, limit in zip(window, spatial, strict=True)):
            found = window if self.window is None else self.window
            reject("Occlusion", "window", found, f"larger than the input, which is {spatial}")
        channels = input_shape[: len(input_shape) - len(spatial)]
        return channels + window, channels + stride

    def _check_gaps(self, window: tuple[int, ...], stride: tuple[int, ...]) -> None:
        if any(step > size for size, step in zip(window, stride, strict=True)):
            found = window if self.window is None else self.window
            reject("Occlusion", "stride", self.stride, f"steps wider than the window {found} would leave gaps")


def _as_extent(name: str, value: object) -> Extent:
    rule = f"{name} must be a whole number of 1 or more, or one for each spatial dimension"
    if isinstance(value, (tuple, list)) and value:
        return tuple(check_integer("Occlusion", name, part, rule, at_least=1) for part in value)
    return check_integer("Occlusion", name, value, rule, at_least=1)


def _aligned(window: Extent, stride: Extent) -> tuple[tuple[int, ...], tuple[int, ...]]:
    dimensions = max(len(part) if isinstance(part, tuple) else 1 for part in (window, stride))
    return _spread("window", window, dimensions), _spread("stride", stride, dimensions)


def _spread(name: str, extent: Extent, dimensions: int) -> tuple[int, ...]:
    if isinstance(extent, int):
        return (extent,) * dimensions
    if len(extent) != dimensions:
        reject("Occlusion", name, extent, f"needs one number, or one for each of {dimensions} spatial dimensions")
    return extent
