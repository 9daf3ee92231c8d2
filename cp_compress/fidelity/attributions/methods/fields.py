"""Checks of the fields that several attribution methods have; each sets the field to its checked value."""

from __future__ import annotations

from typing import Any

from cp_compress.base.arguments import check_integer, check_real, reject


def set_layer(method: Any, optional: bool = True) -> None:
    """Check the field `layer` of a frozen method; raises InvalidArgumentError unless it is a path, or may be None."""
    if method.layer is None and optional:
        return
    if method.layer is None:
        text = f"{method.expression_name}(layer='layer3.2.conv2')"
        rule = f"name the layer to look at, one with outputs (n, channels, *space): write {text}"
        reject(method.expression_name, "layer", None, rule)
    if not isinstance(method.layer, str) or not method.layer:
        reject(type(method).__name__, "layer", method.layer, "layer is the path of a module, such as 'layer3.2.conv2'")


def set_count(method: Any, name: str, what: str, at_least: int = 1) -> None:
    """Check and set a field that counts; raises InvalidArgumentError below `at_least`."""
    rule = f"{name} is the number of {what}: a whole number of {at_least} or more"
    value = check_integer(type(method).__name__, name, getattr(method, name), rule, at_least=at_least)
    object.__setattr__(method, name, value)


def set_real(method: Any, name: str, rule: str, **limits: float) -> None:
    """Check and set a field that is a finite number within the limits of `check_real`."""
    object.__setattr__(method, name, check_real(type(method).__name__, name, getattr(method, name), rule, **limits))


def set_seed(method: Any) -> None:
    """Check and set the field `seed`, a whole number of 0 or more."""
    rule = "seed must be a whole number of 0 or more"
    value = check_integer(type(method).__name__, "seed", method.seed, rule, at_least=0)
    object.__setattr__(method, "seed", value)
