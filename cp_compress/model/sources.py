"""What a candidate was made from: it carries fingerprints of those models, and is compared with no other one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.arguments import explains_keywords, reject
from cp_compress.base.digests import start_digest, update_with_bytes
from cp_compress.base.holdings.reach import modules_within
from cp_compress.base.showing.mistaken import reject_kind

_ATTRIBUTE = "_cp_made_from"
_DIGITS = 16
_MOST_VALUES = 1 << 18
_PRECISIONS = (torch.float16, torch.bfloat16)

_told: ContextVar[bool] = ContextVar("cp_sources_told", default=True)


@dataclass(frozen=True)
class Source:
    """A model by its parameters: their names and shapes, and their values as float16 and as bfloat16 hold them.

    A twin in another precision rounds to the same values in one of the two. Of a parameter with more than 262,144
    values, as many are taken, evenly spaced.
    """

    layers: str
    rounded: tuple[str, str]

    def same_weights(self, other: Source) -> bool:
        """Tell whether two models have the same parameters, up to precision."""
        return self.layers == other.layers and any(a == b for a, b in zip(self.rounded, other.rounded, strict=True))

    def to_json(self) -> list[str]:
        """Return the source as plain Python types."""
        return [self.layers, *self.rounded]

    @staticmethod
    def from_json(content: Any) -> Source:
        """Read what `to_json` wrote; raises TypeError or ValueError for anything else."""
        layers, half, brain = map(str, content)
        return Source(layers, (half, brain))


def source_of(model: object) -> Source | None:
    """Return the fingerprint of a model; None for one without parameters, or whose parameters cannot be read.

    >>> layer = nn.Linear(2, 2)
    >>> source_of(layer).same_weights(source_of(nn.Linear(2, 2))), source_of(layer) == source_of(layer.double())
    (False, True)
    """
    parameters = list(model.named_parameters()) if isinstance(model, nn.Module) else []
    if not parameters:
        return None
    try:
        values = [_some_values(parameter) for _, parameter in parameters]
        return Source(_layers(parameters), (_rounded(values, _PRECISIONS[0]), _rounded(values, _PRECISIONS[1])))
    # of tensors that hold their values in their own way: what they were made from is then not known, and not refused
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return None


def read_sources(model: object) -> tuple[Source, ...]:
    """Return what a model, or a part of it, was made from, as far as it is known; nothing for other models."""
    sources: tuple[Source, ...] = getattr(model, _ATTRIBUTE, ())
    if sources or not isinstance(model, nn.Module):
        return sources
    inner = (getattr(module, _ATTRIBUTE, ()) for module in model.modules())
    return next((found for found in inner if found), ())


def write_sources(model: object, sources: Iterable[Source | None]) -> None:
    """Replace what a model says that it was made from."""
    object.__setattr__(model, _ATTRIBUTE, tuple(dict.fromkeys(source for source in sources if source is not None)))


def add_source(candidate: nn.Module, model: nn.Module) -> None:
    """Let a candidate carry that it was made from a model, and from what that was made from."""
    if _told.get():
        write_sources(candidate, (*read_sources(candidate), *read_sources(model), source_of(model)))


@contextlib.contextmanager
def sources_untold() -> Iterator[None]:
    """Let models that are made inside carry nothing of what they are made from: for those that nobody compares."""
    token = _told.set(False)
    try:
        yield
    finally:
        _told.reset(token)


@explains_keywords
def declare_source(candidate: Callable[..., object], model: nn.Module) -> None:
    """Say that a candidate was made from a model by steps of your own, such as fine-tuning or an export.

    Schemes, training, repairs and searches of this package say so themselves. A candidate that was made from other
    weights than its reference's is refused in every comparison with it, and so is one that has nothing to do with the
    model that a test's fixture gives; this says that they belong together.

    Args:
        candidate: The candidate, or a model of which a scheme is to make one; changed in place.
        model: What it was made from, such as the reference.

    Raises:
        InvalidArgumentError: If `model` is no `torch.nn.Module` with parameters, or `candidate` takes no attribute.

    >>> from cp_compress.model import Quantize
    >>> reference, tuned = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> declare_source(tuned, reference)
    >>> candidate = Quantize("int8").compress(tuned)  # may be compared with `reference` and with `tuned`
    """
    found = (*read_sources(model), source_of(model))
    if found[-1] is None:
        reject_kind("declare_source", "model", model, "must be a torch.nn.Module with parameters", "model")
    try:
        write_sources(candidate, (*read_sources(candidate), *found))
    except (AttributeError, TypeError):
        reject("declare_source", "candidate", type(candidate).__name__, "must be an object that takes attributes")


def other_source(candidate: object, reference: object) -> bool:
    """Tell whether a candidate was made from other weights of the same layers than a reference, or a part of it, has.

    Of a function or another callable, the models that it holds say it.

    Nothing is known, so that this is False, of a candidate that carries nothing, and of a reference with other layers,
    such as one with folded normalisation or a teacher. Models that were made from one source belong together.
    """
    held = () if isinstance(candidate, nn.Module) else modules_within(candidate)
    sources = read_sources(candidate) or tuple(source for part in held for source in getattr(part, _ATTRIBUTE, ()))
    if not sources or not (isinstance(reference, nn.Module) or hasattr(reference, "part_sources")):
        return False
    if any(one.same_weights(other) for one in sources for other in read_sources(reference)):
        return False
    found = sources_within(reference, {source.layers for source in sources})
    return bool(found) and not any(one.same_weights(other) for one in sources for other in found)


def sources_within(model: object, shaped: Collection[str] | None = None) -> list[Source]:
    """Return the fingerprints of a model and its parts, of those that have layers as in `shaped`, or of all.

    A model that is not at hand may have them as `part_sources`.
    """
    if not isinstance(model, nn.Module):
        known: Iterable[Source] = getattr(model, "part_sources", ())
        return [source for source in known if shaped is None or source.layers in shaped]
    parts = [part for part in model.modules() if shaped is None or _layers(list(part.named_parameters())) in shaped]
    return list(dict.fromkeys(source for source in map(source_of, parts) if source is not None))


def _layers(parameters: list[tuple[str, nn.Parameter]]) -> str:
    digest = start_digest()
    digest.update(repr([(name, tuple(parameter.shape)) for name, parameter in parameters]).encode())
    return digest.hexdigest()[:_DIGITS]


def _some_values(parameter: Tensor) -> Tensor:
    flat = parameter.detach().reshape(-1)
    flat = torch.view_as_real(flat).reshape(-1) if flat.is_complex() else flat
    if flat.numel() > _MOST_VALUES:
        step = flat.numel() / _MOST_VALUES
        flat = flat[(torch.arange(_MOST_VALUES, dtype=torch.float64, device=flat.device) * step).long()]
    return flat


def _rounded(values: list[Tensor], precision: torch.dtype) -> str:
    digest = start_digest()
    for value in values:
        update_with_bytes(digest, value.to(precision))
    return digest.hexdigest()[:_DIGITS]
