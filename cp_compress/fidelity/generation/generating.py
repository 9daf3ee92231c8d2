"""Two generating models run side by side, greedily: what each writes, and how sure it is of each token."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.observing.runner import Model
from cp_compress.fidelity.side_by_side.masks import mask_parameter
from cp_compress.fidelity.side_by_side.probing import probe_batches
from cp_compress.fidelity.side_by_side.sides import Side, evaluating, run_both
from cp_compress.inputs.items import to_device
from cp_compress.inputs.prompts import GenerationData
from cp_compress.inputs.tokens import pad

Generate = Callable[[Model, Any], Any]
_IDS, _MASK = "input_ids", "attention_mask"
_PROBED, _FEW = 64, 4


@dataclasses.dataclass(frozen=True, eq=False)
class Written:
    """What a model writes for one prompt.

    Attributes:
        pieces: The numbers (m,), int64, of its tokens, or of the words of a text.
        margins: By how much each token's score exceeds that of the second (m,), float32, in logits; None where the
            model does not say.
        text: The text; None of a model that gives tokens.
    """

    pieces: Tensor
    margins: Tensor | None = None
    text: str | None = None


class Writer(Side):
    """A model that writes; `words` are the numbers of words, of a model that gives texts, for both models."""

    words: dict[str, int]
    generate: Generate
    generate_again: Generate
    stops: frozenset[int]
    probed = _PROBED

    def prepare(self, generate: Generate | None, length: int, stops: frozenset[int], words: dict[str, int]) -> None:
        """Set how it writes: by a function, by itself, or by `generate` of a model of `transformers`."""
        model = self.runner.model
        self.words, self.stops = words, stops
        if generate is not None:
            self.generate = self.generate_again = generate
        elif callable(getattr(model, "generate", None)):
            config = getattr(model, "generation_config", None)
            known = getattr(config, "eos_token_id", None)
            self.stops = stops or frozenset([known] if isinstance(known, int) else known or ())
            self.generate = lambda model, batch: write_greedily(model, batch, length)
            # the beginning of what is written shows whether chance or the batch has a part in it
            self.probed = min(length, _FEW)
            self.generate_again = lambda model, batch: write_greedily(model, batch, self.probed)
        else:
            self.generate = self.generate_again = self._call

    def _call(self, model: Any, batch: Any) -> Any:
        """Return what a callable makes of a batch: ids by position, with the mask where it takes one."""
        if not isinstance(batch, Mapping) or _IDS not in batch:
            return model(**batch) if isinstance(batch, Mapping) else model(batch)
        ids, mask = batch[_IDS], batch[_MASK]
        name, needed, _ = mask_parameter(model)
        padded = not bool(mask.all())
        if not padded and not needed:
            return model(ids)
        if name is None:
            raise ObservationError(
                f"prompts of several lengths are padded for a deployed batch, and the {self.who} takes no "
                "attention_mask, so that it would read the padding as text: leave deployed_batch_size out, or give a "
                "model that takes it"
            )
        return model(ids, **{name: mask}) if name else model(ids, mask)

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether it reads by an encoder and writes by a decoder."""
        return bool(getattr(getattr(self.runner.model, "config", None), "is_encoder_decoder", False))


class _Margins:
    """Notes at each step by how much the best score exceeds the second, and changes nothing."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        best = scores.float().topk(2, dim=-1).values
        self.steps.append((best[:, 0] - best[:, 1]).cpu())
        return scores


def write_greedily(model: Any, batch: Any, length: int) -> dict[str, Any]:
    """Return what a model of `transformers` generates greedily, and its margins.

    Sampling and beams of its settings are left out; penalties and forced tokens stay, and margins are those of the
    scores after them.
    """
    noted = _Margins()
    config = getattr(model, "generation_config", None)
    filling = getattr(config, "pad_token_id", None)
    settings = {
        "max_new_tokens": length,
        "do_sample": False,
        "num_beams": 1,
        "logits_processor": [noted],
        "pad_token_id": 0 if filling is None else filling,
    }
    with warnings.catch_warnings(), _without_sampling(model, config):
        # that a temperature has no effect without sampling is what is meant
        warnings.filterwarnings("ignore", message=".*do_sample.*")
        found = model.generate(**batch, **settings) if isinstance(batch, Mapping) else model.generate(batch, **settings)
    tokens = getattr(found, "sequences", found)
    steps = len(noted.steps)
    if not steps or tokens.shape[1] < steps or len(noted.steps[0]) != len(tokens):
        return {"tokens": tokens}
    return {"tokens": tokens[:, -steps:], "margins": torch.stack(noted.steps, dim=1)}


@contextlib.contextmanager
def _without_sampling(model: Any, config: Any) -> Iterator[None]:
    """Let the settings of a model say what `generate` is told: versions of transformers take theirs over defaults."""
    if not getattr(config, "do_sample", False) and getattr(config, "num_beams", 1) in (1, None):
        yield
        return
    model.generation_config = copy.deepcopy(config)
    model.generation_config.update(do_sample=False, num_beams=1)
    try:
        yield
    finally:
        model.generation_config = config


def write_both(sides: tuple[Writer, Writer], data: GenerationData) -> tuple[list[Written], list[Written]]:
    """Run both models over all prompts once, and return what each writes.

    Prompts of one batch have one number of tokens, unless a deployed batch size is given, so that none is padded.

    Raises ObservationError for outputs that are no tokens or texts, and a model that writes at random.
    """
    lengths = data.lengths()
    found: tuple[list[Written | None], list[Written | None]] = ([None] * len(data), [None] * len(data))
    order = list(range(len(data)))
    if not sides[1].deployed:
        order.sort(key=lengths.__getitem__)

    def run(part: slice) -> list[int]:
        places = order[part]
        batches = [places] if sides[1].deployed else _of_one_length(places, lengths)
        for batch in batches:
            for side, kept in zip(sides, found, strict=True):
                row = _write(side, data, batch)
                if batch[0] == order[0]:
                    alike = [place for place, one in enumerate(batch) if lengths[one] == lengths[batch[0]]]
                    ask = functools.partial(_summary_again, side, data, [batch[place] for place in alike])
                    probe_batches(side, ask, _summary([row[place] for place in alike], side.probed))
                for place, written in zip(batch, row, strict=True):
                    kept[place] = written
        return [len(batch) for batch in batches]

    with evaluating(*sides):
        run_both(*sides, len(data), run)
    whole = [[one for one in side if one is not None] for side in found]
    return whole[0], whole[1]


def _of_one_length(places: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    batches: list[list[int]] = []
    for place in places:
        if batches and lengths[batches[-1][0]] == lengths[place]:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches


def _write(side: Writer, data: GenerationData, places: list[int], *, again: bool = False) -> list[Written]:
    batch = _without_padding(data.prompts.batch(places), left=not side.is_encoder_decoder)
    batch = to_device(batch, side.runner.device)
    what = f"a batch of {len(places)} prompts"
    write = side.generate_again if again else side.generate
    output = side.output(lambda model: write(model, batch), len(places), what)
    margins = None
    if isinstance(output, Mapping) and "tokens" in output:
        output, margins = output["tokens"], output.get("margins")
    rows = list(output) if isinstance(output, (Tensor, np.ndarray, list, tuple)) else None
    if rows is None or len(rows) != len(places):
        told = type(output).__name__ if rows is None else f"{len(rows)} rows"
        raise ObservationError(
            f"the {side.who} returned {told} for {len(places)} prompts; expected token ids (n, length), a list of rows "
            "of token ids, or a list of texts: say by generate= how a batch becomes them"
        )
    notes = [None] * len(rows) if margins is None else list(margins)
    return [_as_written(side, row, note, place) for row, note, place in zip(rows, notes, places, strict=True)]


def _as_written(side: Writer, row: Any, margins: Any, place: int) -> Written:
    if isinstance(row, str):
        numbers = [side.words.setdefault(word, len(side.words)) for word in row.split()]
        return Written(torch.tensor(numbers, dtype=torch.int64), text=row)
    tokens = torch.as_tensor(row).detach().cpu() if len(row) else torch.empty(0, dtype=torch.int64)
    if tokens.ndim != 1 or tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise ObservationError(
            f"the {side.who} returned {tokens.dtype} of shape {tuple(tokens.shape)} for prompt #{place}; expected "
            "token ids (length,): say by generate= how a batch becomes them"
        )
    ends = torch.isin(tokens, torch.tensor(sorted(side.stops), dtype=tokens.dtype)).nonzero().flatten()
    end = int(ends[0]) + 1 if len(ends) else len(tokens)
    known = None if margins is None else torch.as_tensor(margins).detach().float().cpu()[:end]
    return Written(tokens[:end].long(), known)


def _without_padding(batch: Any, *, left: bool) -> Any:
    """Return token ids without padding, or with no more than they need in one batch: before them for a decoder."""
    ids, mask = (batch.get(_IDS), batch.get(_MASK)) if isinstance(batch, Mapping) else (batch, None)
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point():
        return batch
    kept = torch.ones_like(ids, dtype=torch.bool) if mask is None else torch.as_tensor(mask) != 0
    return dict(
        zip((_IDS, _MASK), pad([row[some].long() for row, some in zip(ids, kept, strict=True)], left=left), strict=True)
    )


def _summary_again(side: Writer, data: GenerationData, alike: list[int], places: list[int]) -> Tensor:
    return _summary(_write(side, data, [alike[place] for place in places], again=True), side.probed)


def _summary(written: Sequence[Written], length: int) -> Tensor:
    """Return the first pieces (k, length) of what is written, −1 beyond the last."""
    rows = torch.full((len(written), length), -1.0)
    for row, one in zip(rows, written, strict=True):
        pieces = one.pieces[:length]
        row[: len(pieces)] = pieces.float()
    return rows
