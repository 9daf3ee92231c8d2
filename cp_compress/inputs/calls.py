"""What a module is called with, by position or by keyword."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn


def first_input(module: nn.Module, args: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """Return the first argument of a module's call, or None without any.

    Without arguments by position it is the first tensor among the keywords, in the order in which `forward` names them.

    >>> first_input(nn.Linear(2, 1), (), {"input": 3})
    >>> first_input(nn.Linear(2, 1), (1, 2), {})
    1
    """
    if args:
        return args[0]
    named = [name for name in _parameters(module) if name in keywords]
    values = [keywords[name] for name in [*named, *(name for name in keywords if name not in named)]]
    return next((value for value in values if isinstance(value, Tensor)), None)


def _parameters(module: nn.Module) -> list[str]:
    try:
        return list(inspect.signature(module.forward).parameters)
    except (TypeError, ValueError):  # a function that Python cannot look into
        return []
