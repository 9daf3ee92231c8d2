"""How a model of token ids is told which places of a batch hold tokens."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from cp_compress.inputs.trees import MASKS


def parameters_of(model: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a model's call by name; none of a function that Python cannot look into."""
    try:
        return dict(inspect.signature(model.forward if isinstance(model, nn.Module) else model).parameters)
    except (TypeError, ValueError):
        return {}


def mask_parameter(model: Callable[..., Any]) -> tuple[str | None, bool, bool]:
    """Return the name of the parameter that takes the mask, whether it must be given, and whether this is known.

    The name is None for a model that takes none, and "" for a second one by position. It is not known of a wrapper that
    takes any keyword and hands it on.
    """
    taken = parameters_of(model)
    for name in MASKS:
        if name in taken and taken[name].kind is not inspect.Parameter.POSITIONAL_ONLY:
            return name, taken[name].default is inspect.Parameter.empty, True
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [one for one in taken.values() if one.kind in positional and one.default is one.empty]
    if len(needed) > 1:
        return "", True, True
    if any(one.kind is one.VAR_KEYWORD for one in taken.values()):  # a wrapper that hands on what it is given
        return MASKS[0], False, False
    return None, False, True
