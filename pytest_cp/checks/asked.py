"""Whether what a test asked its fixtures for was what its checks compared.

The id of a test names a candidate. A check of another one says nothing about it, however well it ends.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.errors import FORESEEN
from cp_compress.base.holdings.reach import reachable_from
from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.trees import leaves_of
from cp_compress.inputs.wrapping import said_by
from cp_compress.model.record import compression_steps
from cp_compress.model.sources import read_sources, source_of

_FIRST = 4


class Asked:
    """What a test asked its fixtures for, and what its checks were about; of both, no more than is needed is held."""

    def __init__(self, models: Iterable[Any] = (), data: Iterable[Any] = ()) -> None:
        self._models, self._data = list(models), list(data)
        self.compared: list[str] = []
        self.unseen: list[str] = []

    @property
    def models_missed(self) -> bool:
        """Whether a model was asked for that no check was about."""
        return bool(self._models)

    @property
    def data_missed(self) -> bool:
        """Whether compressed data was asked for that no check was about."""
        return bool(self._data)

    def see(self, candidate: Any = None, reference: Any = None, data: Iterable[Any] = ()) -> None:
        """Take note of the subjects of a check.

        A candidate that cannot be seen into, such as a program that was exported, is taken for what was asked for.
        """
        if self._data:
            given = [one for one in data if one is not None]
            self._data = [asked for asked in self._data if not any(same_data(asked, one) for one in given)]
        if candidate is None or not self._models:
            return
        name = " | ".join(compression_steps(candidate)) or getattr(candidate, "__name__", type(candidate).__name__)
        self.compared.append(name)
        left = [asked for asked in self._models if asked is not reference and not same_model(asked, candidate)]
        if left and not any(True for _ in _outermost_modules(reachable_from(candidate))):
            self.unseen.append(name)
            left = []
        self._models = left


def same_model(asked: Any, compared: Any) -> bool:
    """Tell whether what was compared is a model that was asked for, holds it, is a part of it, or was made from it.

    It is a part where tensors are shared, and was made from it where it carries its steps (a copy that was tuned), its
    weights (a copy in another class or precision) or the declaration of `declare_source`.
    """
    if _shared(asked, compared):
        return True
    if any(part is compared for part in reachable_from(asked)) and not isinstance(compared, Tensor):
        return True  # a fixture of the user's own may give several models
    steps, weights = compression_steps(asked), source_of(asked)
    for part in [compared, *_outermost_modules(reachable_from(compared))]:
        own = compression_steps(part)
        if steps and own[: len(steps)] == steps and _of_one_source(asked, part):
            return True
        # packed layers keep their weights out of parameters: candidates of two schemes would share what is left
        found = source_of(part) if not (steps and own) else None
        known = (*read_sources(part), *([found] if found is not None else []))
        if weights is not None and any(weights.same_weights(source) for source in known):
            return True
    return False


def same_data(asked: Any, compared: Any) -> bool:
    """Tell whether data that was compared is what was asked for, holds it, is a part of it, or what its codec made."""
    if _shared(asked, compared):
        return True
    codec, own = said_by(asked, "codec"), said_by(compared, "codec")
    if own is not None:
        return codec is not None and str(own) == str(codec)
    return _starts_alike(asked, compared)


def _shared(asked: Any, compared: Any) -> bool:
    """Tell whether what was compared is what was asked for, holds it, or shares a tensor with it."""
    if asked is compared:
        return True
    within = list(reachable_from(compared))
    wanted = {id(asked)} | _tensor_places(reachable_from(asked))
    return any(id(part) in wanted for part in within) or not wanted.isdisjoint(_tensor_places(within))


def _starts_alike(asked: Any, compared: Any) -> bool:
    """Tell whether the first examples of two data sets are equal."""
    try:
        one, other = LabeledData(asked), LabeledData(compared)
        first = range(min(_FIRST, len(one), len(other)))
        ours, theirs = (leaves_of(data.read(first)[0]) for data in (one, other))
        return len(ours) == len(theirs) and all(map(_equal, ours, theirs))
    except FORESEEN:
        return False


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.double(), other.double().to(one.device))


def _of_one_source(one: Any, other: Any) -> bool:
    mine, others = read_sources(one), read_sources(other)
    return not mine or not others or any(a.same_weights(b) for a, b in itertools.product(mine, others))


def _outermost_modules(parts: Iterable[Any]) -> Iterator[nn.Module]:
    inner: set[int] = set()
    for part in parts:
        if isinstance(part, nn.Module) and id(part) not in inner:
            inner.update(map(id, part.modules()))
            yield part


def _tensor_places(parts: Iterable[Any]) -> set[Any]:
    """Return where the tensors among parts lie in memory: a traced or a wrapped module shares them."""
    places: set[Any] = set()
    for part in parts:
        tensors = [part] if isinstance(part, Tensor) else []
        if isinstance(part, torch.jit.ScriptModule):
            tensors += [*part.parameters(), *part.buffers()]
        for tensor in tensors:
            try:
                place = tensor.data_ptr()
            except (RuntimeError, NotImplementedError):  # of tensors that hold their values in their own way
                place = 0
            if place and tensor.numel() > 1:
                places.add(("at", str(tensor.device), place))
    return places
