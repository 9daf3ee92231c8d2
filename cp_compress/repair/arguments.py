"""The arguments of `adapt`: checked before any work, and described to recognise a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cp_compress.base.arguments import check_choice, reject
from cp_compress.base.digests import digest_model, digest_text
from cp_compress.base.errors import CompressionError, NoEffectError, ObservationError
from cp_compress.base.showing.describing import describe
from cp_compress.fidelity.observing.pairing import require_same_examples
from cp_compress.fidelity.observing.refusals import same_data
from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.seen import example_digests, shared_examples
from cp_compress.inputs.wrapping import said_by
from cp_compress.model.representations.half_stored import find_half
from cp_compress.model.representations.integer_layers import require_float_weights
from cp_compress.training.arguments import check_module, identify_model
from cp_compress.training.distributed import world
from cp_compress.training.loop import PRECISIONS, Task

_OWNER = "adapt"
_COMPARED = 64


@dataclass(frozen=True, eq=False)
class Pairs:
    """The same examples twice, in one order: as they are decoded, and as they were."""

    decoded: LabeledData
    originals: LabeledData


def check_adaptation(
    model: object, reference: object, preserve: object, optimizer: object, schedule: object, precision: str
) -> None:
    """Reject arguments of `adapt` that are not what they must be."""
    trained = check_module(_OWNER, "model", model)
    check_module(_OWNER, "reference", reference)
    if not any(parameter.requires_grad for parameter in trained.parameters()):
        reject(_OWNER, "model", type(model).__name__, "none of its parameters requires gradients: all are frozen")
    for name, factory in (("optimizer", optimizer), ("schedule", schedule)):
        if factory is not None and not callable(factory):
            reject(_OWNER, name, factory, "must be a callable: a factory")
    check_choice(_OWNER, "precision", precision, tuple(PRECISIONS))
    terms = preserve if isinstance(preserve, Sequence) else [None]
    if not all(callable(getattr(term, "bind", None)) and not isinstance(term, type) for term in terms):
        reject(_OWNER, "preserve", preserve, "must be terms such as [PreserveEmbedding(at_most=0.05, layer='layer3')]")


def check_pairs(decoded: Any, originals: Any) -> Pairs:
    """Return data as pairs.

    Raises ObservationError unless both hold the same number of examples with the same labels and shapes, and decoded
    ones resemble their own original (`require_same_examples`); InvalidArgumentError for the two in the wrong order;
    and NoEffectError when the decoded data is the original.
    """
    pairs = Pairs(LabeledData(decoded), LabeledData(originals))
    kept = said_by(originals, "codec")
    if kept is not None and not getattr(kept, "lossless", False) and said_by(decoded, "codec") is None:
        rule = f"they are decoded from {kept}, and `decoded` is not; check the order of the two arguments"
        reject(_OWNER, "originals", type(originals).__name__, rule)
    sizes = len(pairs.decoded), len(pairs.originals)
    if sizes[0] != sizes[1]:
        raise ObservationError(f"decoded holds {sizes[0]} examples, originals {sizes[1]}; both must hold the same")
    spread = torch.linspace(0, sizes[0] - 1, min(sizes[0], _COMPARED)).long()
    after, before = (data.inputs(spread) for data in (pairs.decoded, pairs.originals))
    if after.shape != before.shape or after.dtype != before.dtype:
        found = " and ".join(f"{tuple(part.shape[1:])} {part.dtype}" for part in (after, before))
        raise ObservationError(f"examples of decoded and originals are {found}: they must be of one shape and dtype")
    labels = pairs.originals.read_labels()
    other = (pairs.decoded.read_labels() != labels).nonzero()
    if len(other):
        raise ObservationError(
            f"decoded and originals have different labels at example #{int(other[0])}; both must be in the same order"
        )
    require_same_examples(pairs.decoded, pairs.originals, labels)
    lossless = getattr(said_by(decoded, "codec"), "lossless", False)
    if torch.equal(after, before) and (lossless or same_data(decoded, originals)):
        raise NoEffectError(f"{_OWNER}: decoded holds the same values as originals, so there is nothing to adapt to")
    return pairs


def check_validation(validation: object, originals: LabeledData) -> Pairs:
    """Return validation data as pairs; rejects what is no pair, and examples that are trained on."""
    if not isinstance(validation, (tuple, list)) or len(validation) != 2:
        rule = "must be a pair of data sets (decoded, originals), of examples that are not trained on"
        reject(_OWNER, "validation", type(validation).__name__, rule)
    pairs = check_pairs(*validation)
    shared = shared_examples(pairs.originals, example_digests(originals))
    if shared:
        first = ", ".join(f"#{index}" for index in shared[:5])
        rule = f"{len(shared)} of its examples ({first}{', …' if len(shared) > 5 else ''}) are trained on"
        reject(_OWNER, "validation", type(pairs.originals.source).__name__, rule)
    return pairs


def refuse_rounded(model: nn.Module) -> None:
    """Raise CompressionError for a model whose numbers a scheme has rounded: training would undo that."""
    remedy = "adapt the model before it is rounded, then round the result"
    require_float_weights(f"{_OWNER} ({remedy})", model)
    for path, module in model.named_modules():
        if find_half(module):
            raise CompressionError(f"{_OWNER}: {path or 'the model'} is stored in 16 bits; {remedy}")


def identify_adaptation(
    model: nn.Module, reference: nn.Module, pairs: Pairs, task: Task, settings: dict[str, Any], *factories: Any
) -> dict[str, str]:
    """Return what makes this adaptation another than the next, as texts."""
    *makers, rate = factories
    return {
        "kind": _OWNER,
        **identify_model(model),
        "reference": str(digest_model(reference)),
        "decoded": pairs.decoded.digest(),
        "originals": pairs.originals.digest(),
        **{name: str(value) for name, value in settings.items()},
        "batch_size": str(task.batch_size),
        "precision": task.precision,
        "processes": str(world()[1]),
        "preserve": digest_text(*map(repr, task.terms)),
        "optimizer": ", ".join("default" if maker is None else describe(maker) for maker in makers),
        "multiplier_rate": str(rate),
    }
