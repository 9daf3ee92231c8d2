"""Which places of padded examples count: what masks say that stand among inputs, or that parts of a model are given.

A model may make its mask of its inputs, as a wrapper does that hands `ids != 0` to an encoder. The parts inside are
then called with it, under a name that tells what it means.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.fidelity.observing.hooks import watching
from cp_compress.inputs.trees import Inputs, is_mask, mask_of

# by the names of arguments: whether 1 stands for a place that counts, or for padding
_NAMES = {"attention_mask": True, "key_padding_mask": False, "src_key_padding_mask": False}


class Masks:
    """The masks (n, length), bool, True for places that count, that are known of a batch of `count` examples."""

    def __init__(self, inputs: Inputs) -> None:
        self._count = len(inputs)
        self._known: dict[tuple[int, ...], Tensor] = {}
        own = mask_of(inputs)
        if own is not None:
            self._add(own)

    def of(self, places: tuple[int, ...]) -> Tensor | None:
        """Return which of the places of a tensor (n, *places) count; None where all do, or none is known."""
        return self._known.get(places)

    @contextlib.contextmanager
    def noting(self, model: nn.Module) -> Iterator[None]:
        """Learn from what the parts of a model are called with until the block ends; the outermost tells."""
        hooks = {
            path: functools.partial(self._note, named)
            for path, part in model.named_modules()
            if (named := _taken(part))
        }
        with watching(model, {}, hooks):
            yield

    def _note(self, named: Mapping[str, int | None], args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        for name, place in named.items():
            given = keywords.get(name)
            if given is None and place is not None and place < len(args):
                given = args[place]
            if isinstance(given, Tensor) and is_mask(given, self._count) and not _is_causal(given):
                self._add(given.bool() if _NAMES[name] else ~given.bool())

    def _add(self, mask: Tensor) -> None:
        places = tuple(mask.shape[1:])
        if places not in self._known and not bool(mask.all()):
            self._known[places] = mask.detach().cpu()


def _is_causal(mask: Tensor) -> bool:
    """Tell whether a mask may say which places see each other, as in a batch of as many examples as places."""
    square = mask.shape[0] == mask.shape[1] and len(mask) > 1
    return square and (torch.equal(mask, mask.tril()) or torch.equal(mask, mask.triu()))


def _taken(module: nn.Module) -> Mapping[str, int | None]:
    """Return the arguments of a module that are masks, with their place among those by position."""
    own = vars(module).get("forward")
    return _masks_of(type(module).forward, bound=True) if own is None else _masks_of(own, bound=False)


@functools.lru_cache(maxsize=1024)
def _masks_of(forward: Callable[..., Any], *, bound: bool) -> Mapping[str, int | None]:
    try:
        parameters = list(inspect.signature(forward).parameters.values())[1 if bound else 0 :]
    except (TypeError, ValueError):  # a function that Python cannot look into
        return {}
    found: dict[str, int | None] = {
        one.name: None if one.kind is one.KEYWORD_ONLY else place
        for place, one in enumerate(parameters)
        if one.name in _NAMES
    }
    if any(one.kind is one.VAR_KEYWORD for one in parameters):  # a wrapper that hands on what it is given
        found = {**dict.fromkeys(_NAMES), **found}
    return found
