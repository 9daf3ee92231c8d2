"""The values that a scheme would give a model's parameters: its projection onto what the scheme can express."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cp_compress.base.errors import CompressionError, NoEffectError
from cp_compress.model.layers import used_value
from cp_compress.model.order import leaves_of
from cp_compress.model.pruning.zeroing import EmptiedLayerError
from cp_compress.model.scheme import Compose, Scheme, as_scheme, compose
from cp_compress.model.sources import sources_untold

if TYPE_CHECKING:
    from collections.abc import Iterable


def project(scheme: Scheme | str, model: nn.Module) -> dict[str, Tensor]:
    """Return what each parameter that a scheme changes would be used as, by name, in the parameter's dtype.

    Factors are multiplied out, integers are scaled, held 16-bit values are widened; nothing is returned for a model
    that the scheme would leave as it is. Raises what the scheme raises, and CompressionError for a scheme that gives a
    parameter another shape.
    """
    scheme = as_scheme("project", scheme)
    try:
        with sources_untold():
            candidate = scheme.compress(model)
    except NoEffectError:
        return {}
    except EmptiedLayerError as error:  # no model to be used, but its values are what was asked for
        candidate = error.candidate
    values = {}
    for name, parameter in model.named_parameters():
        value = used_value(candidate, name)
        if value is None or value.shape != parameter.shape:
            found = "none" if value is None else tuple(value.shape)
            raise CompressionError(
                f"{scheme} changes the shape of {name} from {tuple(parameter.shape)} to {found}: a projection keeps "
                "shapes; use shrink=False"
            )
        value = value.detach().to(parameter.dtype)
        if not torch.equal(value, parameter.detach()):
            values[name] = value
    return values


def split_rounding(scheme: Scheme | str) -> tuple[Scheme | None, Scheme | None]:
    """Return the part of a scheme that chooses what stays, and the part at its end that rounds numbers.

    A scheme rounds when it declares that it leaves "rounded_numbers". Raises CompressionError where rounding comes
    before something else.

    >>> from cp_compress.model import Prune, Quantize
    >>> split_rounding(Prune(0.1) | Quantize("int8"))[1]
    quantize(int8)
    """
    scheme = as_scheme("split_rounding", scheme)
    parts = list(scheme.schemes if isinstance(scheme, Compose) else [scheme])
    rounding = ["rounded_numbers" in (leaves_of(part) or ()) for part in parts]
    first = rounding.index(True) if True in rounding else len(parts)
    if not all(rounding[first:]):
        raise CompressionError(f"{scheme}: what rounds numbers must come last for a model to be trained under it")
    return _join(parts[:first]), _join(parts[first:])


def with_density(scheme: Scheme | str, share: float) -> Scheme:
    """Return the scheme with each density d replaced by 1 − share·(1 − d): milder for a share below 1.

    Raises CompressionError for a scheme without a density, and for one that removes what it drops.

    >>> from cp_compress.model import Prune
    >>> str(with_density(Prune(0.5), 0.5))
    'prune(density=0.75)'
    """
    scheme = as_scheme("with_density", scheme)
    parts: Iterable[Any] = scheme.schemes if isinstance(scheme, Compose) else [scheme]
    changed: list[Any] = []
    for part in parts:
        if not dataclasses.is_dataclass(part) or not hasattr(part, "density"):
            raise CompressionError(f"{part} is no dataclass with a density, which could be lowered step by step")
        if "removed_channels" in (leaves_of(part) or ()):
            advice = "; use shrink=False" if hasattr(part, "shrink") else ""
            raise CompressionError(f"{part} removes what it drops, which cannot be done gradually{advice}")
        changed.append(_replace_density(part, part.density if share == 1 else 1 - share * (1 - part.density)))
    return compose(changed)


def _replace_density(part: Any, density: float) -> Scheme:
    changed: Scheme = dataclasses.replace(part, density=density)
    return changed


def _join(parts: list[Any]) -> Scheme | None:
    return compose(parts) if parts else None
