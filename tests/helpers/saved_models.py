"""The networks of the files in tests/model/storage/saved_files, and the schemes that made their models.

Run as a program it writes the files: once, by the version whose files later ones must read.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from cp_compress.base.digests import digest_model
from cp_compress.model import CalibrationData, Compose, Quantize, Scheme, parse_scheme, save


def small_network() -> nn.Module:
    layers = [nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, bias=False), nn.ReLU()]
    return _filled(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 12), nn.Linear(12, 3)))


def small_images() -> Tensor:
    return torch.sin(torch.arange(3 * 2 * 64).float()).view(3, 2, 8, 8)


def _filled(model: nn.Module) -> nn.Module:
    """Give every tensor values that need no random numbers."""
    with torch.no_grad():
        for number, tensor in enumerate([*model.parameters(), *model.buffers()], 1):
            if tensor.is_floating_point():
                tensor.copy_((torch.arange(tensor.numel()) * number).float().sin().view(tensor.shape).abs() - 0.4)
                tensor[tensor.abs() < 0.01] = 0.5
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.abs_()
    return model.eval()


@dataclasses.dataclass(frozen=True)
class Halve:
    """A scheme of a user's own that says nothing but its name."""

    expression_name: ClassVar[str] = "halve"
    positional_fields: ClassVar[tuple[str, ...]] = ()

    def compress(self, model: nn.Module) -> nn.Module:
        made = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.mul_(0.5)
        return made


def _parsed(text: str) -> Scheme:
    return parse_scheme(text)


SCHEMES: dict[str, Scheme] = {
    "channels": _parsed("filter_prune(density=0.5, example_shape=(2, 8, 8)) | prune(density=0.5)"),
    "dynamic_integers": _parsed("nm_prune | quantize(int8, mode=dynamic)"),
    "factors_of_integers": _parsed("low_rank(rank=2, include=('7',)) | quantize(int4, group_size=3)"),
    "fixed_point": _parsed("fixed_point(bits=6, include=('type:Linear',))"),
    "half_computed": _parsed("quantize(bfloat16, mode=dynamic)"),
    "half_stored": _parsed("prune(density=0.3, scope=layer) | quantize(float16)"),
    "own_scheme": Compose(Halve(), _parsed("prune(density=0.4)")),
    "static_integers": Quantize("int8", "static", calibration=CalibrationData(small_images())),
}


def main(folder: str) -> None:
    for name, scheme in SCHEMES.items():
        model = scheme.compress(small_network())
        model[0].train()
        path = Path(folder) / f"{name}.cp"
        save(model, path)
        print(name, path.stat().st_size, digest_model(model))


if __name__ == "__main__":
    main(sys.argv[1])
