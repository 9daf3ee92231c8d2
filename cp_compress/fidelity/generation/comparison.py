"""Does a compressed model still generate what its reference generates?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cp_compress.base.arguments import check_integer, check_real, explains_keywords, reject
from cp_compress.base.error_reasons import shortened
from cp_compress.base.errors import ObservationError
from cp_compress.base.holdings.reach import modules_within
from cp_compress.fidelity.generation.generating import Generate, Writer, Written, write_both
from cp_compress.fidelity.generation.parting import apart, parting_margins, without_skill
from cp_compress.fidelity.generation.transcripts import word_errors
from cp_compress.fidelity.judging.batches import with_batches
from cp_compress.fidelity.judging.intervals import Evidence
from cp_compress.fidelity.judging.measurement import WITHOUT_SKILL, ExampleChange, Measurement
from cp_compress.fidelity.judging.survival import kaplan_meier_median
from cp_compress.fidelity.judging.units import Units
from cp_compress.fidelity.observing.refusals import require_known_batches
from cp_compress.fidelity.observing.runner import Model
from cp_compress.fidelity.predictions.tables import Slices, read_slices
from cp_compress.fidelity.side_by_side.independent import independent_units
from cp_compress.fidelity.side_by_side.sides import EQUAL, both_sides
from cp_compress.inputs.clusters import Clusters, read_clusters
from cp_compress.inputs.prompts import GenerationData
from cp_compress.inputs.tokens import Tokenizer

_OWNER = "compare_generation"
_LENGTH = 64
_LISTED, _SHOWN = 20, 12
_LONGEST_TEXT = 120
_FEWEST_ALIKE = 20


@explains_keywords
def compare_generation(
    candidate: Model,
    reference: Model,
    data: Any,
    *,
    max_new_tokens: int | None = None,
    generate: Generate | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    tie_margin: float = 0.1,
    tokenizer: Tokenizer | None = None,
    slices: Slices | None = None,
    clusters: Clusters | None = None,
    device: torch.device | str | None = None,
    batch_size: int = 256,
    deployed_batch_size: int | None = None,
) -> Measurement:
    """Measure how far a model generates, greedily, what its reference generates for the same prompts.

    Metrics, over prompts: `exact_generations`, the share for which both write the same; `common_prefix`, the mean share
    of the longer of both that is written before they part, 1 where they do not; `edit_distance`, the mean number of
    insertions, deletions and replacements of tokens between both, over the longer one; `median_first_difference`, the
    median number of tokens before they part, where those that never do are censored (Kaplan-Meier; infinite if fewer
    than half part); with `slices` `min_slice_exact_generations`. Where models say how sure they are, as those of
    `transformers` do: `damaged_generations`, the share that parts where the reference's best token leads the second by
    more than `tie_margin`, so that it is no tie, and `mean_parting_margin`. With true texts: `word_error_rate`,
    `reference_word_error_rate` and `word_error_rate_rise`, from `jiwer`, without regard to case and punctuation.

    Claims at a confidence are about prompts, or clusters of them; equal prompts are one.

    Args:
        candidate: The compressed model: one of `transformers` with a method `generate`, or a callable from a batch of
            inputs to token ids (n, length), rows of token ids, or texts.
        reference: The model that it is compared with.
        data: `GenerationData`, prompts, or a mapping of prompts and targets.
        max_new_tokens: How many tokens a model of `transformers` writes at most; 64 without it.
        generate: What turns (model, batch) into token ids or texts, or a mapping of `tokens` and, by token, `margins`.
            It must write greedily: what differs when it is asked again is refused.
        eos_token_id: The token or tokens that end a generation; what comes after it does not count. By default what the
            model's `generation_config` says.
        tie_margin: The margin of the reference, in logits, up to which another token is a tie.
        tokenizer: Has a method `decode(ids)`; what changed is then shown as text, and true texts can be compared with.
        slices: Named subsets of the prompts, as masks (n,) or indices.
        clusters: Which prompts are not independent of each other: one whole number or text a prompt.
        device: Where to run; by default where each model is.
        batch_size: The largest number of prompts in one call; those of several lengths are run apart.
        deployed_batch_size: The batch size of the deployed model, where answers depend on it.

    Returns:
        The measurement. `per_example` has a row a prompt.

    Raises:
        InvalidArgumentError: If an argument is not as described.
        ObservationError: If the data cannot be read, a model gives no tokens or texts or writes at random, the
            reference writes nothing or the same for all prompts, or its words are not those of the true texts.
        MissingExtraError: If there are true texts and `jiwer` is not installed.

    >>> def model(batch): return [f"{text} and so on" for text in batch]
    >>> compare_generation(model, model, ["one", "two"]).metrics["exact_generations"]
    1.0
    """
    tie = check_real(_OWNER, "tie_margin", tie_margin, "must be 0 or more, in logits", at_least=0)
    rule = "must be a whole number of 1 or more"
    length = (
        _LENGTH if max_new_tokens is None else check_integer(_OWNER, "max_new_tokens", max_new_tokens, rule, at_least=1)
    )
    if generate is not None and not callable(generate):
        reject(_OWNER, "generate", type(generate).__name__, "must be a function of the model and a batch")
    own = generate is not None or not any(callable(getattr(one, "generate", None)) for one in (candidate, reference))
    if max_new_tokens is not None and own:
        where = "generate= decides" if generate is not None else "models without a method generate decide"
        reject(_OWNER, "max_new_tokens", max_new_tokens, f"has no effect: {where} how long a generation is")
    if tokenizer is not None and not callable(getattr(tokenizer, "decode", None)):
        reject(_OWNER, "tokenizer", type(tokenizer).__name__, "must have a method decode(ids) that returns text")
    stops = _stops(eos_token_id)
    prompts = GenerationData.of(data)
    subsets = read_slices(_OWNER, slices, len(prompts))
    known = read_clusters(_OWNER, clusters, prompts, len(prompts))
    sides = both_sides(
        _OWNER,
        Writer,
        (candidate, reference),
        device=device,
        batch_size=batch_size,
        deployed_batch_size=deployed_batch_size,
    )
    words: dict[str, int] = {}
    for side in sides:
        side.prepare(generate, length, stops, words)
    digest = prompts.digest()  # data that change are told before a model is blamed for it
    after, before = write_both(sides, prompts)
    require_known_batches(*sides)
    notes = _require_telling(before, prompts)
    units = independent_units(known, prompts.prompts.repeated())
    measured = _measure((after, before), prompts, subsets, units, tie, tokenizer)
    if prompts.targets is not None:
        measured = _with_targets(measured, (after, before), prompts.targets, tokenizer)
    equal = all(_same(*pair) for pair in zip(after, before, strict=True))
    if equal and not any(True for _ in modules_within(candidate)):
        # equal texts are no sign of one model, and nobody can look into this one
        notes.append("both models generate the same, and nobody can see into the candidate")
        equal = False
    details = {
        **measured.details,
        EQUAL: equal,
        WITHOUT_SKILL: without_skill(before, prompts, tie, words),
        "data_digest": digest,
        "clusters": units.to_json(),
        "tie_margin": tie,
    }
    measured = dataclasses.replace(measured, details=details, notes=(*notes, *measured.notes))
    return with_batches(measured, *sides)


def _stops(given: Any) -> frozenset[int]:
    if given is None:
        return frozenset()
    rule = "must be the id of a token, or a sequence of them"
    several = list(given) if isinstance(given, (Sequence, set, frozenset)) and not isinstance(given, str) else [given]
    if not several:
        reject(_OWNER, "eos_token_id", given, rule)
    return frozenset(check_integer(_OWNER, "eos_token_id", one, rule, at_least=0) for one in several)


def _same(one: Written, other: Written) -> bool:
    if not torch.equal(one.pieces, other.pieces) or one.text != other.text:
        return False
    if one.margins is None or other.margins is None:
        return True
    return torch.equal(one.margins, other.margins)


def _require_telling(before: Sequence[Written], data: GenerationData) -> list[str]:
    """Return notes on what the reference writes; raises ObservationError where that tells nothing."""
    count = len(before)
    total = sum(len(one.pieces) for one in before)
    if not total:
        raise ObservationError(
            f"the reference generates nothing for all {count} prompts, so that a candidate that generates nothing "
            "would be held for equal: check the form of the prompts, and the token that ends a generation"
        )
    empty = sum(not len(one.pieces) for one in before)
    kind = "words" if before[0].text is not None else "tokens"
    notes = [f"{total} {kind} of the reference for {count} prompts"]
    notes += [f"the reference generates nothing for {empty} prompts"] if empty else []
    different = len(torch.unique(data.prompts.repeated()))
    if different > 1 and all(torch.equal(one.pieces, before[0].pieces) for one in before):
        told = f"the reference generates the same for all {different} prompts"
        if different >= _FEWEST_ALIKE:
            raise ObservationError(f"{told}, so that a model that does not read them would, too: check their form")
        notes.append(f"{told}: a model that does not read them would, too")
    return notes


def _measure(
    written: tuple[list[Written], list[Written]],
    data: GenerationData,
    subsets: Mapping[str, Tensor],
    units: Units,
    tie: float,
    tokenizer: Tokenizer | None,
) -> Measurement:
    after, before = written
    count = len(data)
    pairs = list(zip(before, after, strict=True))
    longer, parts, prefix, edits = apart([(old.pieces, new.pieces) for old, new in pairs])
    exact = (parts == longer) & torch.tensor([old.text == new.text for old, new in pairs])
    median = kaplan_meier_median(parts.double(), ~exact)
    metrics = {
        "exact_generations": float(exact.double().mean()),
        "common_prefix": float(prefix.mean()),
        "edit_distance": float(edits.mean()),
        "median_first_difference": math.inf if math.isnan(median) else median,
    }
    counts = dict.fromkeys(metrics, count)
    evidence: dict[str, Evidence] = {
        "exact_generations": units.share(exact),
        "common_prefix": units.mean(prefix),
        "edit_distance": units.mean(edits),
    }
    margins = parting_margins(before, parts, exact)
    if margins is not None:
        damaged = margins.nan_to_num(0.0) > tie
        metrics["damaged_generations"] = float(damaged.double().mean())
        counts["damaged_generations"] = count
        evidence["damaged_generations"] = units.share(damaged)
        parted = ~torch.isnan(margins)
        if bool(parted.any()):
            metrics["mean_parting_margin"], counts["mean_parting_margin"] = (
                float(margins[parted].mean()),
                int(parted.sum()),
            )
    rows: list[list[Any]] = [
        [name, len(some), float(exact[some].double().mean()), float(prefix[some].mean()), float(edits[some].mean())]
        for name, some in subsets.items()
    ]
    if rows:
        worst = min(rows, key=lambda row: row[2])
        metrics["min_slice_exact_generations"], counts["min_slice_exact_generations"] = worst[2], worst[1]
    columns = ["slice", "prompts", "exact generations", "common prefix", "edit distance"]
    per_example = {"exact": exact, "first_difference": parts, "edit_distance": edits}
    return Measurement(
        comparison="generation",
        metrics=metrics,
        counts=counts,
        evidence=evidence,
        per_example=per_example if margins is None else {**per_example, "parting_margin": margins},
        examples=_changes(written, data, parts, exact, edits, margins, tokenizer),
        details={"tables": [{"caption": "slices", "columns": columns, "rows": rows}] if rows else []},
    )


def _changes(
    written: tuple[list[Written], list[Written]],
    data: GenerationData,
    parts: Tensor,
    exact: Tensor,
    edits: Tensor,
    margins: Tensor | None,
    tokenizer: Tokenizer | None,
) -> tuple[ExampleChange, ...]:
    after, before = written
    changes = []
    for place in torch.argsort(edits, descending=True, stable=True)[:_LISTED].tolist():
        if exact[place]:
            continue
        start = int(parts[place])
        old, new = (_shown(one[place], start, tokenizer) for one in (before, after))
        told = f"parts after {start}, edit distance {float(edits[place]):.3g}"
        if margins is not None:
            told += f", margin {float(margins[place]):.3g}"
        changes.append(ExampleChange(place, data.prompts.name(place), old, f"{new} ({told})"))
    return tuple(changes)


def _shown(written: Written, start: int, tokenizer: Tokenizer | None) -> str:
    """Return what a model writes from where both part."""
    if written.text is not None:
        text = " ".join(written.text.split()[start : start + _SHOWN])
    else:
        ids = written.pieces[start : start + _SHOWN].tolist()
        text = "" if not ids else " ".join(map(str, ids)) if tokenizer is None else str(tokenizer.decode(ids))
    return shortened(repr(text), _LONGEST_TEXT) if text else "the end"


def _with_targets(
    measured: Measurement,
    written: tuple[list[Written], list[Written]],
    targets: Sequence[str],
    tokenizer: Tokenizer | None,
) -> Measurement:
    """Return a measurement with the word error rates of both models."""
    if tokenizer is None and any(one.text is None for side in written for one in side):
        reject(_OWNER, "tokenizer", None, "true texts are given and the models write tokens: give what decodes them")
    after, before = (word_errors([_text(one, tokenizer) for one in side], targets) for side in written)
    if before.rate >= 1:
        raise ObservationError(
            f"the reference's word error rate is {before.rate:.3g}: as many words are wrong as there are, so that a "
            "ruined model would lose nothing. Check that targets are in the order of the prompts, or leave them out"
        )
    metrics = {
        "reference_word_error_rate": before.rate,
        "word_error_rate": after.rate,
        "word_error_rate_rise": after.rate - before.rate,
    }
    rows = [torch.tensor(one.errors) / torch.tensor(one.words).clamp_min(1) for one in (before, after)]
    return dataclasses.replace(
        measured,
        metrics={**measured.metrics, **metrics},
        counts={**measured.counts, **dict.fromkeys(metrics, sum(before.words))},
        per_example={**measured.per_example, "reference_word_error_rate": rows[0], "word_error_rate": rows[1]},
    )


def _text(written: Written, tokenizer: Tokenizer | None) -> str:
    if written.text is not None or tokenizer is None:
        return written.text or ""
    ids = written.pieces.tolist()
    try:
        return str(tokenizer.decode(ids, skip_special_tokens=True))  # type: ignore[call-arg]
    except TypeError:  # a decoder of a user's own
        return str(tokenizer.decode(ids))
