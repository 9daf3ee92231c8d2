"""The configuration that a model of transformers carries, where it tells sizes that a removal has changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
GROUPS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads")
NEURONS = ("intermediate_size", "n_inner", "hidden_dim", "ffn_dim", "encoder_ffn_dim", "d_ff", "mlp_dim")
_PREFIX = "config."
_WIDTH = "head_dim"
_DERIVED = ("n_inner", _WIDTH)  # absent or None where it follows from the width


_KNOWN = (*HEADS, *GROUPS, *NEURONS, _WIDTH)


def config_sizes(model: nn.Module) -> Iterator[tuple[str, str, int]]:
    """Yield the sizes that the configurations of a model tell: the path of its module, the name, and the value."""
    for path, config in _configurations(model):
        for name in _KNOWN:
            if type(value := vars(config).get(name)) is int:
                yield path, _PREFIX + name, value


def is_config_size(module: nn.Module, name: str) -> bool:
    """Tell whether a name that `config_sizes` gave is one that the configuration of a module tells."""
    return name.removeprefix(_PREFIX) in _KNOWN and name.startswith(_PREFIX) and hasattr(module, "config")


def set_config_size(module: nn.Module, name: str, value: int) -> bool:
    """Set what a configuration tells, never to more than before; tell whether that was possible."""
    config, name = module.config, name.removeprefix(_PREFIX)
    before = vars(config).get(name)
    if not ((before is None and name in _DERIVED) or (type(before) is int and 1 <= value <= before)):
        return False
    setattr(config, name, value)
    return True


def nearest_config(model: nn.Module, path: str) -> str | None:
    """Return the path of the first module of a model with the configuration that holds at a path, or None.

    That is the configuration of the module there, or of the first one around it that has any.
    """
    while not _is_configuration(config := getattr(model.get_submodule(path), "config", None)):
        if not path:
            return None
        path = path.rpartition(".")[0]
    return next(first for first, known in _configurations(model) if known is config)


def tell_config(config: Any, names: Sequence[str], before: int, after: int, width: int | None) -> None:
    """Let a configuration say that there are fewer of something, where it said how many there were.

    `width` is the size of heads, which would otherwise follow from their number.
    """
    known = vars(config)
    for name in names:
        if known.get(name) == before or (name in known and known[name] is None and name in _DERIVED):
            setattr(config, name, after)
            if width is not None and (known.get(_WIDTH) is None and not hasattr(type(config), _WIDTH)):
                setattr(config, _WIDTH, width)


def _is_configuration(config: object) -> bool:
    return hasattr(config, "model_type") and hasattr(config, "to_dict")


def _configurations(model: nn.Module) -> Iterator[tuple[str, Any]]:
    known: set[int] = set()
    for path, module in model.named_modules():
        config = getattr(module, "config", None)
        if _is_configuration(config) and id(config) not in known:
            known.add(id(config))
            yield path, config
