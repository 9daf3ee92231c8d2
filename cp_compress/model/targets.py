"""Which layers a scheme works on: patterns on their paths and on their types, the same for every scheme."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from torch import nn

from cp_compress.base.errors import CompressionError
from cp_compress.model.layers import Weight
from cp_compress.model.record import Skip
from cp_compress.model.settings import TYPE, Patterns


def choose(
    owner: str, found: Sequence[Weight], include: Patterns, exclude: Patterns
) -> tuple[list[Weight], list[Skip]]:
    """Return the weights whose layers are included and not excluded, and the others with the reason.

    Without `include` every layer is. Raises CompressionError for a pattern that matches no layer.
    """
    for name, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns:
            if not any(_matches(weight, (pattern,)) for weight in found):
                paths = ", ".join(weight.owners[0].path or "the model itself" for weight in found[:8])
                raise CompressionError(f"{owner}: {name} pattern {pattern!r} matches no layer; layers are {paths}")
    chosen, skips = [], []
    for weight in found:
        if include and not _matches(weight, include):
            skips.append(Skip(weight.name, "matched by no pattern of include"))
        elif _matches(weight, exclude):
            skips.append(Skip(weight.name, "matched by a pattern of exclude"))
        else:
            chosen.append(weight)
    return chosen, skips


def matches(path: str, module: nn.Module, patterns: Patterns) -> bool:
    """Tell whether a layer matches one of several patterns."""
    kinds = [kind.__name__ for kind in type(module).__mro__]
    for pattern in patterns:
        names = kinds if pattern.startswith(TYPE) else [path]
        if any(fnmatch.fnmatchcase(name, pattern.removeprefix(TYPE)) for name in names):
            return True
    return False


def _matches(weight: Weight, patterns: Patterns) -> bool:
    return any(matches(owner.path, owner.module, patterns) for owner in weight.owners)
