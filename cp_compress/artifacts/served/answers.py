"""What a server answers to a request for a completion, read in the forms that servers have for log-probabilities."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cp_compress.base.error_reasons import shortened
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.language.next_tokens import Likely
from cp_compress.inputs.tokens import is_whole

_ID = re.compile(r"token_id:(\d{1,9})")
_ROUNDING, _ONE, _LARGEST = 1e-3, 1.02, 1e300
"""How far a log-probability may lie above 0, and the sum of probabilities above 1, where they were rounded."""


@dataclass(frozen=True)
class Entry:
    """One token of a text, as a server tells of it: its id, or how it reads, and what was likely in its place.

    `readings` are ids with their texts, where a server tells both.
    """

    token: int | str
    logprob: float | None
    likely: Sequence[Likely] | None
    readings: Sequence[tuple[int, str]] = ()


@dataclass(frozen=True)
class Answer:
    """A completion: its tokens, those of the prompt first where they were asked for, and what was counted.

    `model` and `version` are what the server calls the model that has answered, None where it does not say.
    """

    entries: Sequence[Entry]
    prompt_tokens: int | None
    model: str | None
    version: str | None


def read_answer(found: Any, where: str) -> Answer:
    """Return what a document says; raises ObservationError for one that is no completion with log-probabilities."""
    choices = found.get("choices") if isinstance(found, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise ObservationError(f"{where} answered {_shown(found)}, which is no completion with one choice")
    told = choices[0].get("logprobs")
    if not isinstance(told, dict):
        raise ObservationError(
            f"{where} gives no log-probabilities (logprobs is {_shown(told)}): start the server so that it does, such "
            "as with --logits_all true for llama-cpp-python"
        )
    entries = _contents(told["content"], where) if told.get("content") is not None else _legacy(told, where)
    usage = found.get("usage")
    counted = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return Answer(
        entries,
        counted if isinstance(counted, int) and not isinstance(counted, bool) else None,
        _text(found.get("model")),
        _text(found.get("system_fingerprint")),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _legacy(told: Mapping[str, Any], where: str) -> list[Entry]:
    """Read the form of /v1/completions: three lists, and a table of log-probabilities by token at each place."""
    parts = [told.get(name) for name in ("tokens", "token_logprobs", "top_logprobs")]
    lists = [part for part in parts if isinstance(part, list)]
    if len(lists) != len(parts) or len(set(map(len, lists))) != 1:
        raise ObservationError(f"{where} answered logprobs without tokens, token_logprobs and top_logprobs of one size")
    tokens, own, tops = lists
    if not all(isinstance(token, str) for token in tokens):
        raise ObservationError(f"{where} answered tokens that are no texts: {_shown(tokens)}")
    ids = bool(tokens) and all(map(_ID.fullmatch, tokens))
    entries = []
    for place, (token, logprob, top) in enumerate(zip(tokens, own, tops, strict=True)):
        if top is not None and not isinstance(top, dict):
            raise ObservationError(f"{where} answered top_logprobs that is no table at token {place}: {_shown(top)}")
        likely = None if not top else [(_key(name, ids), _number(value, where, place)) for name, value in top.items()]
        entries.append(_entry(_key(token, ids), logprob, likely, where, place))
    return entries


def _contents(content: Any, where: str) -> list[Entry]:
    """Read the form of chats, which llama.cpp's own server has for completions: a list of tables with tables."""
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ObservationError(f"{where} answered logprobs.content that is no list of tables: {_shown(content)}")
    entries = []
    for place, row in enumerate(content):
        top = row.get("top_logprobs")
        rows = [row, *(top if isinstance(top, list) else [])]
        if not all(isinstance(one, dict) and isinstance(one.get("token"), str) for one in rows):
            raise ObservationError(f"{where} answered logprobs.content without tokens: {_shown(row)}")
        ids = all(isinstance(one.get("id"), int) for one in rows)
        keys = [one["id"] if ids else one["token"] for one in rows]
        values = [_number(one.get("logprob"), where, place) for one in rows[1:]]
        likely = list(zip(keys[1:], values, strict=True)) or None
        entry = _entry(keys[0], row.get("logprob"), likely, where, place)
        entries.append(replace(entry, readings=[(one["id"], one["token"]) for one in rows if ids]))
    return entries


def _key(token: str, ids: bool) -> int | str:
    found = _ID.fullmatch(token) if ids else None
    return token if found is None else int(found[1])


def _entry(token: int | str, logprob: Any, likely: list[Likely] | None, where: str, place: int) -> Entry:
    own = None if logprob is None else _number(logprob, where, place)
    if likely is None:
        return Entry(token, own, None)
    whole = math.fsum(math.exp(value) for _, value in likely)
    if whole > _ONE:
        raise ObservationError(
            f"{where} answered values that are no log-probabilities: those at token {place} stand for probabilities "
            f"whose sum is {whole:.4g}"
        )
    return Entry(token, own, likely)


def _number(value: Any, where: str, place: int) -> float:
    # comparing converts nothing: a whole number may be too large for a float
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -_LARGEST <= value <= _ROUNDING:
        told = "no finite number of 0 or less"
        raise ObservationError(f"{where} answered {_shown(value)} for a log-probability at token {place}: {told}")
    return min(float(value), 0.0)


def _shown(value: Any) -> str:
    return shortened(repr(value), 120)


def most_likely(entry: Entry, count: int) -> list[Likely]:
    """Return the `count` most likely tokens of an entry, the largest first, fewer where it does not prove so many.

    Servers add the token of the text to the most likely ones. Tables by text join tokens that read the same, such as
    parts of characters: what is left of them stands in the place of the first, with the value of the last.

    >>> most_likely(Entry("b", -3.0, [("", -4.0), ("a", -1.0), ("b", -3.0)]), 3)
    [('', -4.0), ('a', -1.0)]
    """
    likely = list(entry.likely or ())
    if not any(isinstance(key, str) for key, _ in likely):
        return sorted(likely, key=_descending)[:count]
    rest = [one for one in likely if one[0] != entry.token]
    mine = next((one for one in likely if one[0] == entry.token), None)
    joined = count - len(rest)  # or one less, where the token of the text is among the most likely ones
    falls = sum(one[1] < other[1] for one, other in itertools.pairwise(rest))
    parts = [key for key, _ in likely if isinstance(key, str) and not is_whole(key)]
    by_rank = 0 < falls <= joined
    if mine is not None and (by_rank or mine[0] in parts):
        # its value is its own, and its place that of the first that reads so
        ordered = rest if by_rank else sorted(rest, key=_descending)
        return (ordered if mine is likely[-1] else [*ordered[: (at := likely.index(mine))], mine, *ordered[at:]])[
            :count
        ]
    if by_rank:
        return rest[:count]
    # the lowest may be less likely than another that was joined away
    lowest = mine is not None and bool(rest) and mine[1] <= min(value for _, value in rest)
    kept = [] if mine is None or (lowest and (joined > 1 or (joined == 1 and parts))) else [mine]
    unordered = falls > 0 and joined > 0  # so that nobody can tell where parts of characters stood
    return sorted([*rest, *kept], key=lambda one: (unordered and one[0] not in parts, -one[1]))[:count]


def _descending(one: Likely) -> float:
    return -one[1]
