"""What a generating model is given, such as prompts or recordings, and the true texts where they are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cp_compress.base.arguments import explains_keywords
from cp_compress.base.digests import Digested, digest_text
from cp_compress.base.errors import ObservationError
from cp_compress.inputs.items import Items


@explains_keywords
class GenerationData(Digested):
    """Inputs that a model generates from, with the texts that it should generate where they are known.

    Args:
        prompts: The inputs, in a form that the model takes in batches: token ids (a tensor, what a tokenizer returns,
            or rows of several lengths), texts, or features such as spectrograms.
        targets: The true text of each, such as a transcript; None where nobody knows them.

    Raises:
        ObservationError: If the inputs have another form, there are none, or targets are no texts, one an input.

    >>> data = GenerationData(["one", "two"], targets=["1", "2"])
    >>> len(data), data.targets
    (2, ('1', '2'))
    """

    def __init__(self, prompts: Any, targets: Sequence[str] | None = None) -> None:
        self.source: Any = self
        self.prompts = Items(prompts, "the prompts")
        self.targets: tuple[str, ...] | None = None
        if targets is not None:
            texts = isinstance(targets, Sequence) and not isinstance(targets, str)
            if not texts or len(targets) != len(self.prompts) or not all(isinstance(one, str) for one in targets):
                raise ObservationError(f"targets must be a text for each of {len(self.prompts)} prompts")
            if not any(one.split() for one in targets):
                raise ObservationError("targets hold no word: leave them out where nobody knows them")
            self.targets = tuple(targets)

    @classmethod
    def of(cls, source: Any) -> GenerationData:
        """Return generation data: itself, prompts alone, or a mapping of prompts and targets."""
        if isinstance(source, cls):
            return source
        if isinstance(source, Mapping) and "prompts" in source:
            unknown = [name for name in source if name not in ("prompts", "targets")]
            if unknown:
                raise ObservationError(
                    f"dataset is a mapping of {', '.join(map(str, source))}; it takes prompts, targets"
                )
            made = cls(**source)
        else:
            made = cls(source)
        made.source = source
        return made

    def __len__(self) -> int:
        return len(self.prompts)

    def digest(self) -> str:
        """Return the hex digest of prompts and targets."""
        return digest_text(self.prompts.digest(), repr(self.targets))

    def example_digests(self) -> list[frozenset[str]]:
        """Return the digests of the prompts by which data that a model was made with are known."""
        return self.prompts.example_digests()

    def first_input(self) -> Any:
        """Return the first prompt as a batch."""
        batch = self.prompts.batch([0])
        return batch["input_ids"] if isinstance(batch, Mapping) and "input_ids" in batch else batch

    def lengths(self) -> list[int]:
        """Return the number of tokens of each prompt, which is one in a batch without padding; 0 of other inputs."""
        return [_length(self.prompts.batch([place])) for place in range(len(self))]


def _length(batch: Any) -> int:
    ids = batch.get("input_ids") if isinstance(batch, Mapping) else batch
    if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.ndim != 2:
        return 0
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    return ids.shape[1] if mask is None else int(torch.as_tensor(mask).sum())
