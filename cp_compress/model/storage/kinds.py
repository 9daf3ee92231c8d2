"""Which layers a stored model consists of: a short digest of the class and the settings of each, in order."""

from __future__ import annotations

import re

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from cp_compress.base.digests import described, digest_text
from cp_compress.base.errors import CompressionError, CorruptStreamError

_DIGITS = 4
# what results do not depend on, so that an architecture for inference may have it otherwise
_WITHOUT_EFFECT = re.compile(r", momentum=[^,)]*|(?:, )?inplace=True")


def describe_kinds(model: nn.Module) -> str:
    """Return the digests of all modules, in the order of `named_modules`, joined."""
    return "".join(digest_text(_kind(module))[:_DIGITS] for _, module in model.named_modules())


def require_kinds(model: nn.Module, stored: object) -> None:
    """Raise CompressionError, naming the layer, for a model of other layers than those of the saved one."""
    modules = list(model.named_modules())
    if not isinstance(stored, str) or len(stored) % _DIGITS:
        raise CorruptStreamError("what it says of its layers is not readable")
    if len(stored) != _DIGITS * len(modules):
        raise CompressionError(f"the file has {len(stored) // _DIGITS} modules, the model {len(modules)}")
    for at, (path, module) in enumerate(modules):
        kind = _kind(module)
        if stored[_DIGITS * at : _DIGITS * (at + 1)] != digest_text(kind)[:_DIGITS]:
            rule = "load into the architecture that the file was made from"
            raise CompressionError(f"{path or 'it'} is {kind} in the model and another layer in the file: {rule}")


def _kind(module: nn.Module) -> str:
    name = type(module).__name__
    return name if isinstance(module, _DropoutNd) else f"{name}({_WITHOUT_EFFECT.sub('', described(module))})"
