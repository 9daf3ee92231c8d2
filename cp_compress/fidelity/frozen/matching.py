"""Whether examples are those that were frozen, in the same order: told by their digests, with which ones are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cp_compress.base.batching import rows_in_cache, slices
from cp_compress.fidelity.frozen.content import DIGEST_BYTES
from cp_compress.inputs.reading import DataDigest, LabeledData
from cp_compress.inputs.row_digests import digest_values
from cp_compress.inputs.tasks import IGNORED, UNKNOWN, join_batches
from cp_compress.inputs.trees import Inputs, TensorTree, leaves_of, values_in

_LISTED = 5


def read_examples_of(data: LabeledData) -> tuple[list[str], Tensor | None, str]:
    """Return the digests of all inputs of a data set by their values, its labels, and the digest of both."""
    digests: list[str] = []
    labels: list[Tensor] = []
    running = DataDigest()
    size = rows_in_cache(values_in(data.read([0])[0]))
    for part in slices(len(data), size):
        inputs, truth = data.read(range(part.start, part.stop))
        digests += digest_values(inputs, 2 * DIGEST_BYTES)
        running.update(inputs, truth)
        labels += [] if truth is None else [truth]
    truth = join_batches(labels, data.task, own=1, fill=IGNORED) if labels else None
    return digests, truth, running.hexdigest()


def describe_inputs(inputs: Inputs) -> list[dict[str, Any]]:
    """Return the name, dtype, shape and range of each tensor of a few examples, as plain Python types."""
    names = inputs.names if isinstance(inputs, TensorTree) else ("",)
    return [
        {
            "name": name,
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape[1:]),
            "range": _range(tensor),
        }
        for name, tensor in zip(names, leaves_of(inputs), strict=True)
    ]


def _range(tensor: Tensor) -> list[float] | None:
    if tensor.is_complex() or not tensor.numel() or not bool(torch.isfinite(tensor.double()).all()):
        return None
    return [float(tensor.min()), float(tensor.max())]


def told_inputs(described: Sequence[Mapping[str, Any]]) -> str:
    """Return in words what `describe_inputs` found.

    >>> told_inputs([{"name": "", "dtype": "uint8", "shape": [3, 8, 8], "range": [0, 255]}])
    'uint8 (3, 8, 8) in [0, 255]'
    """
    parts = []
    for one in described:
        within = "" if one["range"] is None else f" in [{one['range'][0]:.4g}, {one['range'][1]:.4g}]"
        shape = ", ".join(map(str, one["shape"])) + ("," if len(one["shape"]) == 1 else "")
        parts.append(f"{one['name']} {one['dtype']} ({shape}){within}".strip())
    return "; ".join(parts)


def other_examples(frozen: Sequence[str], given: Sequence[str]) -> str | None:
    """Return which of the examples given are not those that were frozen, in words; None where all are, in order.

    >>> other_examples(["a", "b", "c"], ["a", "c", "b"])
    'they are in another order, from #1 on: it is the one that was frozen as #2'
    >>> other_examples(["a", "b", "c"], ["a", "b"])
    '1 of 3 frozen examples is missing (#2)'
    >>> other_examples(["a", "b"], ["a", "x"])
    '1 of 2 examples is another one than was frozen (#1)'
    """
    if list(frozen) == list(given):
        return None
    missing, foreign = Counter(frozen) - Counter(given), Counter(given) - Counter(frozen)
    lacking, strange = _places(frozen, missing), _places(given, foreign)
    if not lacking and not strange:
        first = next(place for place, pair in enumerate(zip(frozen, given, strict=True)) if pair[0] != pair[1])
        where = list(frozen).index(given[first])
        return f"they are in another order, from #{first} on: it is the one that was frozen as #{where}"
    if strange and len(strange) == len(given):
        return f"none of the {len(given)} examples is one of the {len(frozen)} that were frozen"
    told = []
    if strange:
        verb = "is another one than was" if len(strange) == 1 else "are others than were"
        told.append(f"{len(strange)} of {len(given)} examples {verb} frozen{_listed(strange)}")
    if lacking and lacking != strange:
        verb = "is" if len(lacking) == 1 else "are"
        told.append(f"{len(lacking)} of {len(frozen)} frozen examples {verb} missing{_listed(lacking)}")
    return ", and ".join(told)


def _places(digests: Sequence[str], wanted: Counter[str]) -> list[int]:
    """Return the last places of digests that are wanted so many times."""
    left = Counter(wanted)
    found = []
    for place in range(len(digests) - 1, -1, -1):
        if left[digests[place]] > 0:
            left[digests[place]] -= 1
            found.append(place)
    return found[::-1]


def _listed(places: Sequence[int]) -> str:
    more = "…" if len(places) > _LISTED else ""
    return f" ({', '.join(f'#{place}' for place in places[:_LISTED])}{more})"


def other_labels(frozen: Tensor, given: Tensor) -> str | None:
    """Return which labels are not those that were frozen, in words; None where all are."""
    if frozen.shape != given.shape:
        return f"its targets have shape {tuple(given.shape)}, and those that were frozen {tuple(frozen.shape)}"
    wrong = (frozen != given).flatten(1).any(dim=1) if frozen.ndim > 1 else frozen != given
    places = wrong.nonzero().flatten().tolist()
    if not places:
        return None
    shown = (
        f": #{places[0]} has {int(given[places[0]])}, frozen was {int(frozen[places[0]])}" if given.ndim == 1 else ""
    )
    return f"{len(places)} of {len(given)} labels are others{_listed(places)}{shown}"


def unlabeled_as(targets: Tensor) -> Tensor:
    """Return targets of the same places without labels."""
    return torch.where(targets == IGNORED, IGNORED, UNKNOWN)
