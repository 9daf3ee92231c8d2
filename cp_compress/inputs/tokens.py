"""Documents of token ids in every form that users of language models have, read in one way: without their padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from cp_compress.base.batching import slices
from cp_compress.base.digests import Digested, start_digest, update_with_bytes
from cp_compress.base.errors import ObservationError
from cp_compress.base.showing.mistaken import mistaken
from cp_compress.inputs.row_digests import digest_values

_FORMS = (
    "a tensor of token ids (n, length), a pair (ids, attention mask) of such tensors, a mapping with input_ids (and "
    "attention_mask), a list of 1-D tensors, or a map-style data set of such rows"
)
_UNREADABLE = (OSError, LookupError, TypeError, ValueError, RuntimeError)
_ARRAYS = (Tensor, np.ndarray)


class Tokenizer(Protocol):
    """What can turn ids into text, such as a tokenizer of `transformers`."""

    def decode(self, token_ids: Any) -> Any:
        """Return the text of a list of ids."""


LOST = "\N{REPLACEMENT CHARACTER}"
"""What a text has in the place of bytes that are no whole character."""


def is_whole(text: str) -> bool:
    """Tell whether a token's text says which token it is: parts of a character read like others, or as nothing.

    >>> is_whole(" the"), is_whole(""), is_whole(" \ufffd")
    (True, False, False)
    """
    return bool(text) and LOST not in text


class Readings:
    """How token ids read within a text, as a tokenizer decodes them: special ones and spaces included."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._found: dict[int, str] = {}
        self._before: tuple[int, str] | None = None

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids, without the changes that tokenizers of `transformers` make to please readers."""
        plain: Any = self._tokenizer.decode
        try:
            return str(plain(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        except TypeError:  # not one of transformers
            return str(plain(ids))

    def of(self, token: int) -> str:
        """Return how one token reads after another one: alone, tokenizers may leave out the space before it."""
        if token not in self._found:
            alone = self.decode([token])
            if self._before is None and is_whole(alone) and self.decode([token, token]).startswith(alone):
                self._before = token, alone
            if self._before is not None:
                both = self.decode([self._before[0], token])
                alone = both[len(self._before[1]) :] if both.startswith(self._before[1]) else alone
            self._found[token] = alone
        return self._found[token]


class Documents(NamedTuple):
    """Some documents: their ids, each int64 (length,), and whether any was padded before its first token."""

    ids: list[Tensor]
    padded_left: bool


class TokenData(Digested):
    """Documents of token ids, readable by index, with the padding that a mask shows taken off.

    Each has two tokens or more; the targets of a causal language model are its ids, shifted by one place.

    Args:
        source: A tensor of ids (n, length); a pair (ids, attention mask) or a mapping with "input_ids" and, where
            documents are padded, "attention_mask"; a list of 1-D tensors, arrays or lists of ids; or a map-style data
            set whose rows have one of these forms.

    Raises:
        ObservationError: If it has another form, or holds no document. Reading raises it for a document that is not as
            described.

    >>> data = TokenData((torch.tensor([[5, 6, 0], [7, 8, 9]]), torch.tensor([[1, 1, 0], [1, 1, 1]])))
    >>> [ids.tolist() for ids in data.read([0, 1]).ids]
    [[5, 6], [7, 8, 9]]
    """

    def __init__(self, source: Any) -> None:
        self.source: Any = source.source if isinstance(source, TokenData) else source
        self._ids, self._mask = _as_tensors(self.source)
        if self._ids is None and not _is_map_style(self.source):
            advice = mistaken(self.source, "data")
            raise ObservationError(
                f"dataset is a {type(self.source).__name__}; it must be {_FORMS}{advice and f'; {advice}'}"
            )
        if not len(self):
            raise ObservationError("dataset holds no document: there is nothing to compare")

    @property
    def wrapped_dataset(self) -> Any:
        """The object that the documents are read from."""
        return self.source

    def __len__(self) -> int:
        return len(self.source if self._ids is None else self._ids)

    def read(self, positions: Sequence[int]) -> Documents:
        """Return the documents at positions, in their order."""
        documents, left = [], False
        for position in positions:
            ids, mask = self._row(int(position))
            found, before = _without_padding(ids, mask, int(position))
            documents.append(found)
            left |= before
        return Documents(documents, left)

    def digest(self, batch_size: int = 1024) -> str:
        """Return the hex digest of all documents; it depends on neither the form nor the padding."""
        digest = TokenDigest()
        for part in slices(len(self), batch_size):
            digest.update(self.read(range(part.start, part.stop)).ids)
        return digest.hexdigest()

    def example_digests(self, batch_size: int = 1024) -> list[frozenset[str]]:
        """Return the digest of each document: that of an example whose input are its ids without padding."""
        parts = (self.read(range(part.start, part.stop)).ids for part in slices(len(self), batch_size))
        return [frozenset(digest_values(ids[None])) for part in parts for ids in part]

    def first_input(self) -> Tensor:
        """Return the ids (1, length) of the first document."""
        return self.read([0]).ids[0][None]

    def _row(self, position: int) -> tuple[Tensor, Tensor | None]:
        if self._ids is not None:
            return self._ids[position], None if self._mask is None else self._mask[position]
        try:
            row = self.source[position]
        except _UNREADABLE as error:
            told = f"document #{position} cannot be read: {type(error).__name__}: {error}"
            raise ObservationError(told) from error
        return _parts_of(row, f"document #{position}")


class TokenDigest:
    """A running digest of documents that does not depend on how they are cut into batches."""

    def __init__(self) -> None:
        self._digest = start_digest()

    def update(self, documents: Sequence[Tensor]) -> None:
        """Add documents of ids, each int64 (length,)."""
        for ids in documents:
            self._digest.update(len(ids).to_bytes(8, "little"))
            update_with_bytes(self._digest, ids)

    def hexdigest(self) -> str:
        """Return the hex digest of what was added so far."""
        return self._digest.hexdigest()


def pad(documents: Sequence[Tensor], *, left: bool = False, more: int = 0, fill: int = 0) -> tuple[Tensor, Tensor]:
    """Return documents as one batch of ids (n, length) and the mask (n, length), int64, of the places that are theirs.

    Args:
        documents: The ids of each, int64 (length,).
        left: Whether shorter ones are filled up before their first token, instead of after the last one.
        more: How many places are added to the longest document.
        fill: The id of places that are filled up.

    >>> pad([torch.tensor([3, 4, 5]), torch.tensor([6])], left=True)[0].tolist()
    [[3, 4, 5], [0, 0, 6]]
    """
    length = max(map(len, documents)) + more
    ids = torch.full((len(documents), length), fill)
    mask = torch.zeros(len(documents), length, dtype=torch.int64)
    for row, document in enumerate(documents):
        place = slice(length - len(document), None) if left else slice(0, len(document))
        ids[row, place], mask[row, place] = document, 1
    return ids, mask


def _is_map_style(source: Any) -> bool:
    if isinstance(source, (DataLoader, IterableDataset, str, bytes, Mapping)):
        return False
    return hasattr(source, "__len__") and hasattr(source, "__getitem__")


def _as_tensors(source: Any) -> tuple[Tensor | None, Tensor | None]:
    """Return ids and mask, each (n, length), of data that holds them as tensors."""
    if isinstance(source, _ARRAYS):
        ids = torch.as_tensor(source)
        if ids.ndim != 2:
            told = f"dataset is a tensor of shape {tuple(ids.shape)}"
            raise ObservationError(f"{told}: token ids are (n, length), such as ids[None] of one document")
        _check_mask(ids, None, "dataset")
        return ids, None
    if isinstance(source, Mapping):
        if "input_ids" not in source:
            raise ObservationError(f"dataset is a mapping of {', '.join(map(str, source))}; it needs input_ids")
        ids, mask = _mapped(source, "dataset", matrix=True)
    elif isinstance(source, (tuple, list)) and len(source) == 2 and all(_is_matrix(part) for part in source):
        ids, mask = (torch.as_tensor(part) for part in source)
    else:
        return None, None
    _check_mask(ids, mask, "dataset")
    return ids, mask


def _is_matrix(value: Any) -> bool:
    return isinstance(value, _ARRAYS) and value.ndim == 2


def _mapped(row: Mapping[Any, Any], what: str, *, matrix: bool) -> tuple[Tensor, Tensor | None]:
    """Return ids and mask that a mapping holds under the names that tokenizers give them."""
    ids = _as_ids(row["input_ids"], f"input_ids of {what}")
    if ids.ndim != (2 if matrix else 1):
        form = "(n, length)" if matrix else "(length,)"
        raise ObservationError(f"input_ids of {what} have shape {tuple(ids.shape)}; they must be {form}")
    given = row.get("attention_mask")
    mask = None if given is None else _as_ids(given, f"attention_mask of {what}")
    labels = row.get("labels")
    if labels is not None:
        targets = _as_ids(labels, f"labels of {what}")
        kept = torch.ones_like(ids, dtype=torch.bool) if mask is None or mask.shape != ids.shape else mask != 0
        if targets.shape != ids.shape or not torch.equal(targets[kept], ids[kept]):
            raise ObservationError(
                f"labels of {what} are not its input_ids: the targets of a causal language model are the ids, shifted "
                "by us; leave labels out, and cut documents to what shall be compared"
            )
    return ids, mask


def _parts_of(row: Any, what: str) -> tuple[Tensor, Tensor | None]:
    """Return ids and mask of one row of a data set."""
    if isinstance(row, Mapping):
        if "input_ids" not in row:
            raise ObservationError(f"{what} is a mapping of {', '.join(map(str, row))}; it needs input_ids")
        ids, mask = _mapped(row, what, matrix=False)
    elif isinstance(row, (tuple, list)) and row and all(hasattr(part, "__len__") for part in row):
        if len(row) > 2:
            raise ObservationError(f"{what} has {len(row)} parts; a row is ids, or a pair (ids, attention mask)")
        parts = [_as_ids(part, what) for part in row]
        ids, mask = parts[0], parts[1] if len(parts) == 2 else None
    else:
        ids, mask = _as_ids(row, what), None
    if ids.ndim != 1:
        raise ObservationError(f"{what} has ids of shape {tuple(ids.shape)}; one document is (length,)")
    _check_mask(ids, mask, what)
    return ids, mask


def _as_ids(value: Any, what: str) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ObservationError(f"{what}: token ids must be whole numbers, each row of one length: {error}") from error


def _check_mask(ids: Tensor, mask: Tensor | None, what: str) -> None:
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ObservationError(f"{what} holds {ids.dtype}; token ids are of an integer dtype")
    if mask is None:
        return
    if mask.shape != ids.shape:
        raise ObservationError(f"{what} has ids of shape {tuple(ids.shape)} and a mask of {tuple(mask.shape)}")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ObservationError(
            f"the second part of {what} is no attention mask of 0 and 1: targets are not taken, they are the ids "
            "shifted by us"
        )


def _without_padding(ids: Tensor, mask: Tensor | None, position: int) -> tuple[Tensor, bool]:
    """Return the ids (length,), int64, of a document, and whether it was padded before its first token."""
    left = False
    if mask is not None:
        kept = mask.nonzero().flatten().cpu()
        if len(kept) and int(kept[-1] - kept[0]) + 1 != len(kept):
            raise ObservationError(f"the attention mask of document #{position} has a 0 between two 1: no padding")
        left = len(kept) > 0 and int(kept[0]) > 0
        ids = ids[kept.to(ids.device)]
    ids = ids.detach().cpu().to(torch.int64)
    if len(ids) < 2:
        raise ObservationError(
            f"document #{position} has {len(ids)} token{'' if len(ids) == 1 else 's'}: there is no next token to "
            "predict; leave out documents of fewer than two, or join them"
        )
    if int(ids.min()) < 0:
        raise ObservationError(f"document #{position} holds the token id {int(ids.min())}; mask what is no token")
    return ids, left
