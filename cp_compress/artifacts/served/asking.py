"""How a server is asked about texts: by ids or texts, as a whole or token by token, and at which places it answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import torch

from cp_compress.artifacts.served.answers import Answer, Entry, most_likely, read_answer
from cp_compress.artifacts.served.connection import Connection, RefusedError
from cp_compress.artifacts.served.settings import Settings
from cp_compress.artifacts.served.texts import Texts
from cp_compress.base.error_reasons import shortened
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.language.next_tokens import Likely, NextTokens

_PATH = "/completions"
_LISTED = 5
_TRIALS, _MANY = 4, 8
_COMPARED, _ALIKE, _APART = 3, 0.25, 0.5
"""Log-probabilities of one question differ by less than `_ALIKE` nats where rounding differs, as in other batches;
those of two questions by more than `_APART`, among the most likely tokens."""


class OtherTokensError(ObservationError):
    """A server has read other tokens than were meant."""


class Asking:
    """Questions to one server, and what was found of how it takes and answers them.

    Attributes:
        name: What the server calls the model; None until it was asked.
        by_ids: Whether token ids are sent, else texts; None until it is known.
        first: The id of the token that the server writes before each text by itself, so that it is not sent.
        late: How many places late the log-probabilities lie, 0 or 1, by whether the first token is left out of them.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings, self._connection = settings, Connection(settings)
        self._where = f"{settings.address}{_PATH}"
        self._version: str | None = None
        self.name: str | None = None
        self.by_ids: bool | None = None
        self.first: int | None = None
        self.late: dict[int, int] = {}

    @property
    def _who(self) -> str:
        return self._settings.name

    def start(self, ids: list[int], top_k: int, texts: Texts) -> None:
        """Find the model's name and how the server is asked, by a document."""
        if self.name is None:
            self.name = self._served_name()
        if self.by_ids is not None:
            return
        try:
            self._try(ids, top_k, texts, by_ids=True)
            return
        except RefusedError as error:
            if error.status not in (400, 422, 500):
                raise
            refused = error
        if not texts.known:
            told = f"{refused}. It may take no token ids: give tokenizer=, so that texts can be sent"
            raise ObservationError(told) from refused
        try:
            self._try(ids, top_k, texts, by_ids=False)
        except RefusedError as error:
            asks = 'ask="prefixes" asks for one token at a time'
            advice = f". If it gives no log-probabilities of a prompt: {asks}" if self._settings.ask == "echo" else ""
            raise ObservationError(f"{refused}; with a text: {error}{advice}") from error

    def by_echo(self, ids: list[int], top_k: int, texts: Texts) -> NextTokens:
        """Return what the server says of a document that it repeats."""
        self._require_first(ids)
        answer = self._complete(self._prompt(ids, texts), top_k, echo=True)
        entries, dropped = self._aligned(answer, ids, texts)
        if dropped not in self.late:
            self._check_places(ids, entries, dropped, top_k, texts)
        late = self.late[dropped]
        own, likely = [], list[list[Likely]]()
        for place in range(1, len(ids)):
            entry = entries.get(place - late)
            told = [] if entry is None or entry.likely is None else most_likely(entry, top_k)
            if not told and likely and likely[-1]:
                raise ObservationError(f"{self._who} tells nothing of token {place}, but of those before it")
            likely.append(told)
            if not told or entry is None:
                own.append(math.nan)
            elif late:
                own.append(_own(told, ids[place], texts))
            elif entry.logprob is None:
                raise ObservationError(f"{self._who} gives no log-probability of token {place} (token_logprobs)")
            else:
                own.append(entry.logprob)
        return NextTokens(torch.tensor(own, dtype=torch.float64), self._enough(likely, top_k))

    def after(self, ids: list[int], top_k: int, texts: Texts) -> list[Likely]:
        """Return the most likely tokens after a beginning of a text."""
        self._require_first(ids)
        if self.first is not None and len(ids) == 1:
            raise OtherTokensError(f"{self._who} writes the first token itself: there is no text to send before it")
        answer = self._complete(self._prompt(ids, texts), top_k, echo=False)
        self._require_count(answer, ids)
        if not answer.entries or answer.entries[0].likely is None:
            raise ObservationError(f"{self._who} gives no log-probabilities of the token that it writes")
        self._require_vocabulary(answer.entries[0], texts)
        return self._enough([most_likely(answer.entries[0], top_k)], top_k)[0]

    def of_prefixes(self, ids: list[int], likely: Sequence[Sequence[Likely]], texts: Texts) -> NextTokens:
        """Return what is known of a document from what was likely after each of its beginnings."""
        own = [_own(one, token, texts) for one, token in zip(likely, ids[1:], strict=True)]
        return NextTokens(torch.tensor(own, dtype=torch.float64), likely)

    def _served_name(self) -> str:
        """Return the model's name, one of those that the server lists where it lists them."""
        asked = self._settings.model
        try:
            found = self._connection.get("/models")
        except RefusedError as error:
            if error.status not in (404, 405, 501):
                raise
            if asked is None:
                raise ObservationError(f"{error}; where a server lists no models, name one by model=") from error
            return asked
        rows = found.get("data") if isinstance(found, dict) else None
        names = [row.get("id") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        if asked is None and len(names) == 1 and isinstance(names[0], str):
            return names[0]
        if asked is not None and asked in names:
            return asked
        listed = ", ".join(shortened(name, 80) for name in names[:_LISTED]) or "none"
        told = f"has the models {listed}: name one by model="
        if asked is not None:
            told = f"has no model {asked!r}; it has {listed}"
        raise ObservationError(f"the server at {self._settings.address} {told}")

    def _try(self, ids: list[int], top_k: int, texts: Texts, *, by_ids: bool) -> None:
        """Ask about a document in one way; raises RefusedError where the server does not take it."""
        self.by_ids = by_ids
        try:
            if self._settings.ask == "prefixes":
                answer = self._complete(self._prompt(ids, texts), top_k, echo=False)
            else:
                answer = self._complete(self._prompt(ids, texts), top_k, echo=True)
            if not by_ids and answer.prompt_tokens == len(ids) + 1 and texts.begins(ids[0]):
                self.first = ids[0]
                return
            if self._settings.ask == "echo":
                entries, dropped = self._aligned(answer, ids, texts)
                self._check_places(ids, entries, dropped, top_k, texts)
        except ObservationError:
            self.by_ids = None
            raise

    def _complete(self, prompt: list[int] | str, top_k: int, *, echo: bool) -> Answer:
        body: dict[str, Any] = {"model": self.name, "prompt": prompt, "max_tokens": 1, "logprobs": top_k}
        body |= {"temperature": 1.0, "seed": 0, "stream": False}
        if echo:
            body["echo"] = True
        if not isinstance(prompt, str):  # vLLM then tells tokens by their ids
            body["return_tokens_as_token_ids"] = True
        answer = read_answer(self._connection.post(_PATH, body), self._where)
        if answer.model is not None and answer.model != self.name:
            told = f"was asked for the model {self.name!r}, and answered as {shortened(repr(answer.model), 80)}"
            raise ObservationError(f"{self._where} {told}: give the name that it has there by model=")
        if answer.version is not None and self._version not in (None, answer.version):
            raise ObservationError(f"{self._where} answered as version {self._version}, and then as {answer.version}")
        self._version = self._version or answer.version
        return answer

    def _check_places(self, ids: list[int], entries: dict[int, Entry], dropped: int, top_k: int, texts: Texts) -> None:
        """Find at which places a server's log-probabilities lie, by asking about the next token after a beginning."""
        for length in range(len(ids) - 1, 0, -1)[:_TRIALS]:
            try:
                alone = self.after(ids[:length], top_k, texts)
            except OtherTokensError:  # a beginning of a text may be split otherwise
                continue
            near = [_distance(alone, entries.get(length - late)) for late in (0, 1)]
            if min(near) > _ALIKE:
                break
            if max(near) > _APART:
                self.late[dropped] = near.index(min(near))
                return
        raise ObservationError(
            f"{self._who} says something else of a token within a text than of the same token when it is asked for the "
            'next one, or too little to tell: what it says of texts cannot be believed; ask="prefixes" asks for each '
            "token alone"
        )

    def _prompt(self, ids: list[int], texts: Texts) -> list[int] | str:
        return ids if self.by_ids else texts.joined(ids[self.first is not None :])

    def _require_first(self, ids: list[int]) -> None:
        if self.first is not None and ids[0] != self.first:
            raise OtherTokensError(
                f"{self._who} writes the token {self.first} before each text, and this one begins with {ids[0]}"
            )

    def _require_count(self, answer: Answer, ids: list[int]) -> None:
        if answer.prompt_tokens not in (None, len(ids)):
            raise OtherTokensError(
                f"{self._who} reads {len(ids)} tokens of ours as {answer.prompt_tokens}: it has another tokenizer, "
                "adds tokens of its own, or has cut the text. Where it writes a first token itself, let documents "
                "begin with it, and give a tokenizer that names it (bos_token_id)"
            )

    def _require_vocabulary(self, entry: Entry, texts: Texts) -> None:
        """Refuse a server that tells ids which read otherwise than ours."""
        for token, text in entry.readings:
            if texts.known and not texts.agree(token, text):
                told = f"its token {token} reads {shortened(repr(text), 60)}, ours {texts.of(token)!r}"
                raise OtherTokensError(f"{self._who} has another tokenizer: {told}")

    def _aligned(self, answer: Answer, ids: list[int], texts: Texts) -> tuple[dict[int, Entry], int]:
        """Return what was said of each token of a document, by its place, and how many of the first are left out."""
        entries = answer.entries
        if len(ids) > 2 and len(entries) <= 1:
            raise ObservationError(
                f"{self._who} gives log-probabilities of what it writes, not of the text that it is given, as "
                'llama.cpp\'s own server does: ask="prefixes" asks for each token alone'
            )
        if any(isinstance(entry.token, str) for entry in entries) and not texts.known:
            raise ObservationError(f"{self._who} tells tokens by their texts: give tokenizer=, with decode(ids)")
        self._require_count(answer, ids)
        for dropped in (0, 1):
            # a token that begins each text may not be told, but is counted
            if dropped and answer.prompt_tokens is None:
                continue
            more = len(entries) - (len(ids) - dropped)
            found = {place: entries[place - dropped] for place in range(dropped, len(ids)) if more in (0, 1)}
            if found and all(
                texts.agree(ids[place], entry.token, first=place == dropped) for place, entry in found.items()
            ):
                return found, dropped
        self._explain(entries, ids, texts)

    def _explain(self, entries: Sequence[Entry], ids: list[int], texts: Texts) -> NoReturn:
        for place, (mine, entry) in enumerate(zip(ids, entries, strict=False)):
            if not texts.agree(mine, entry.token, first=place == 0):
                ours = f"{texts.of(mine)!r} (id {mine})" if texts.known else f"the id {mine}"
                theirs = shortened(repr(entry.token), 60)
                raise OtherTokensError(
                    f"{self._who} reads the text as other tokens: at token {place} it has {theirs}, ours is {ours}. It "
                    "has another tokenizer, or a text that begins or ends within a word is split otherwise"
                )
        raise OtherTokensError(f"{self._who} tells of {len(entries)} tokens for {len(ids)} of ours")

    def _enough(self, likely: list[list[Likely]], top_k: int) -> list[list[Likely]]:
        """Refuse answers with fewer tokens than were asked for; tables by text may join a few that read the same."""
        told = [one for one in likely if one]
        counts = [len(one) for one in told]
        if any(isinstance(key, str) for one in told for key, _ in one):
            short = max(counts) < top_k - (len(told) < _MANY)
        else:
            short = bool(told) and min(counts) < top_k
        if short:
            raise ObservationError(
                f"{self._who} gives {max(counts)} tokens a place, {top_k} were asked for (top_k): ask for fewer, or "
                "let the server give more, as by --max-logprobs for vLLM"
            )
        return likely


def _own(likely: Sequence[Likely], token: int, texts: Texts) -> float:
    """Return the log-probability of a token among the most likely ones, NaN if it is not there."""
    for key, value in likely:
        if key == token or (isinstance(key, str) and texts.same(token, key)):
            return value
    return math.nan


def _distance(alone: Sequence[Likely], entry: Entry | None) -> float:
    """Return by how much the most likely tokens of one answer are likely otherwise in another, inf if one is not."""
    if entry is None or entry.likely is None:
        return math.inf
    there = dict(entry.likely)
    return max(abs(value - there.get(key, math.inf)) for key, value in alone[:_COMPARED])
