"""What stored examples were made from: a digest of each original, as a codec was given it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from cp_compress.base.digests import start_digest, update_with_tensor
from cp_compress.base.errors import ObservationError
from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.tasks import TaskDataset
from cp_compress.inputs.wrapping import layers_of, said_by

ORIGINALS = "_cp_originals"
"""The attribute of a data set that says what its examples were made from."""
DIGEST_BYTES = 8
"""The length of a digest of one example."""
NO_FORM = (-1,)
"""The shape of examples that differ in theirs."""

_COMPARED = 64
_HANDING_ON = (DataLoader, Subset, TaskDataset, LabeledData)


@dataclass(frozen=True)
class Originals:
    """The digests of examples, `DIGEST_BYTES` each, with the shape and dtype that all of them have.

    `values` are the digests by which `cp_compress.inputs.seen` knows the same examples, in another dtype too.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    digests: bytes
    values: bytes = b""

    def at(self, position: int) -> bytes:
        """Return the digest of one example."""
        return self.digests[position * DIGEST_BYTES : (position + 1) * DIGEST_BYTES]

    def among(self, positions: Sequence[int]) -> list[bytes]:
        """Return the digests of the examples at positions."""
        return [self.at(position) for position in positions]

    def values_at(self, positions: Sequence[int]) -> bytes:
        """Return the digests by values of the examples at positions, joined; nothing where there are none."""
        size = DIGEST_BYTES
        return b"".join(self.values[position * size : (position + 1) * size] for position in positions)


def join_originals(parts: Sequence[Originals]) -> Originals:
    """Return the digests of consecutive parts of a data set as those of one, of no form where the parts differ."""
    forms = {_form(part) for part in parts}
    shape, dtype = forms.pop() if len(forms) == 1 else (NO_FORM, torch.uint8)
    return Originals(shape, dtype, b"".join(part.digests for part in parts), b"".join(part.values for part in parts))


def digest_rows(inputs: Tensor) -> bytes:
    """Return a short digest of each row of inputs (n, ...), joined."""
    digests = []
    for row in inputs.detach().cpu():
        digest = start_digest()
        update_with_tensor(digest, row)
        digests.append(digest.digest()[:DIGEST_BYTES])
    return b"".join(digests)


def keep_originals(stored: object, source: Any, originals: Originals) -> None:
    """Let a data set carry what its examples were made from, and what those of `source`, its data set, were."""
    object.__setattr__(stored, ORIGINALS, with_earlier(source, originals))


def with_earlier(source: Any, originals: Originals) -> tuple[Originals, ...]:
    """Return the originals of stored examples, and what the examples of `source`, their data set, were made from."""
    earlier = [
        Originals(known.shape, known.dtype, b"".join(known.among(places)), known.values_at(places))
        for known, places in _carried(source, range(len(originals.digests) // DIGEST_BYTES))
    ]
    return originals, *earlier


def values_behind(source: Any, count: int) -> list[list[str]]:
    """Return for each of `count` examples the digests, by values, of what it was made from, as far as it is known."""
    found: list[list[str]] = [[] for _ in range(count)]
    for known, places in _carried(source, range(count)):
        values = known.values_at(places).hex()
        for at in range(len(values) // (2 * DIGEST_BYTES)):
            found[at].append(values[2 * DIGEST_BYTES * at : 2 * DIGEST_BYTES * (at + 1)])
    return found


def other_originals(stored: LabeledData, data: LabeledData) -> list[int]:
    """Return which examples of a sample of `data` are not those that `stored` was made from; none where it is unknown.

    It is unknown where the originals had another shape or dtype than `data`, where a transform or a `collate_fn` makes
    something else of the stored examples, and where `stored` carries nothing. Data that was stored from the same
    originals, or from which `stored` was made in several steps, is its original too.
    """
    count = min(len(stored), len(data))
    sample = torch.linspace(0, count - 1, min(count, _COMPARED), dtype=torch.float64).round().long().tolist()
    known = (
        [] if stored.collates_itself or said_by(stored, "transform") is not None else _carried(stored.source, sample)
    )
    if not known:
        return []
    made_from = [originals.among(places) for originals, places in known]
    if any(originals.among(places) in made_from for originals, places in _carried(data.source, sample)):
        return []
    try:
        inputs = data.inputs(sample)
    except ObservationError:  # whoever observes it says what is wrong with it
        return []
    form = (tuple(inputs.shape[1:]), inputs.dtype)
    alike = [made for made, (originals, _) in zip(made_from, known, strict=True) if _form(originals) == form]
    given = Originals(*form, digest_rows(inputs)).among(range(len(inputs)))
    if not alike or given in alike:
        return []
    return [place for place, one, other in zip(sample, given, alike[0], strict=True) if one != other]


def _form(originals: Originals) -> tuple[tuple[int, ...], torch.dtype]:
    return originals.shape, originals.dtype


def _carried(source: Any, sample: Sequence[int]) -> list[tuple[Originals, list[int]]]:
    """Return what a data set, or one that it hands on as it is, carries, with the places of a sample in it."""
    for layer, places in layers_of(source, sample):
        originals: tuple[Originals, ...] = getattr(layer, ORIGINALS, ())
        if originals:
            return [(one, places) for one in originals]
        if not isinstance(layer, _HANDING_ON):  # it may change what it hands on
            return []
    return []
