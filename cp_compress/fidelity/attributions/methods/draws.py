"""What attribution methods draw at random: the same for all examples and for both models of a comparison."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cp_compress.base.arguments import reject
from cp_compress.fidelity.attributions.methods import AttributionMethod, DeepLiftShap, GradientShap, SmoothGrad
from cp_compress.inputs.reading import LabeledData


@dataclass(frozen=True)
class Draws:
    """Patterns of noise and baselines (k, *input), and the shares (k,) of the way from baseline to input."""

    noise: Tensor
    baselines: Tensor
    shares: Tensor


def draw(method: AttributionMethod, data: LabeledData, input_shape: tuple[int, ...]) -> Draws:
    """Return what a method draws by its seed for inputs of a shape; baselines are examples of `data`.

    Raises InvalidArgumentError for more baselines than there are examples.
    """
    none = torch.zeros(0)
    if isinstance(method, SmoothGrad):
        generator = torch.Generator().manual_seed(method.seed)
        return Draws(method.deviation * torch.randn(method.samples, *input_shape, generator=generator), none, none)
    if isinstance(method, DeepLiftShap):
        if method.baselines > len(data):
            reject("DeepLiftShap", "baselines", method.baselines, f"the data set has {len(data)} examples only")
        generator = torch.Generator().manual_seed(method.seed)
        chosen = torch.randperm(len(data), generator=generator)[: method.baselines]
        return Draws(none, data.select(chosen)[0], none)
    if isinstance(method, GradientShap):
        generator = torch.Generator().manual_seed(method.seed)
        chosen = torch.randint(len(data), (method.samples,), generator=generator)
        shares = torch.rand(method.samples, generator=generator)
        noise = method.deviation * torch.randn(method.samples, *input_shape, generator=generator)
        baselines = data.select(chosen)[0] if method.baselines == "data" else torch.zeros_like(noise)
        return Draws(noise, baselines, shares)
    return Draws(none, none, none)
