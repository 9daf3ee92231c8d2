"""A language model behind an OpenAI-compatible server, asked for the most likely tokens of given texts."""

from __future__ import annotations

import concurrent.futures
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from cp_compress.artifacts.served.answers import Answer, Entry, most_likely, read_answer
from cp_compress.artifacts.served.connection import Address, Connection, RefusedError
from cp_compress.artifacts.served.texts import Texts
from cp_compress.base.arguments import check_choice, check_integer, check_real, explains_keywords, reject
from cp_compress.base.error_reasons import shortened
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.language.next_tokens import Likely, NextTokens
from cp_compress.inputs.tokens import Tokenizer

_OWNER = "ServedModel"
_ASKS = ("echo", "prefixes")
_PATH = "/completions"
_LISTED = 5
_ALIKE, _TRIALS, _MANY = 0.05, 4, 8
_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)

Done = TypeVar("Done")
_Numbered = tuple[int, list[int]]  # a document, or its beginning, with its number


@dataclass(frozen=True)
class _Way:
    """How a server is asked: by ids or texts, without how many leading ids, and how many places late."""

    ids: bool
    lead: int = 0
    late: int = 0


@explains_keywords
class ServedModel:
    """A language model that a server runs, a candidate or reference of language checks.

    The server speaks OpenAI's `/v1/completions` with `logprobs`: llama-cpp-python's server, vLLM, or llama.cpp's own.
    It tells the most likely tokens at each place, so that next-token agreement and top-k overlap are known, and
    perplexity where it tells the probability of the text's own tokens, too. A divergence needs all probabilities: it
    is not known, and no requirement on it is judged.

    Token ids are sent where the server takes them, else the text that `tokenizer=` of the check makes of them; then the
    server must split it into the same tokens. Before the first document is believed, one place is asked about alone,
    so that a server whose log-probabilities lie at other places is noticed. Requests that fail in ways that may pass
    (no connection, 408, 429, 5xx) are repeated after 0.5 s, 1 s, 2 s and so on. Redirects are not followed.

    Args:
        url: The address, such as "http://127.0.0.1:8000/v1", without a user, a password or a query.
        model: The name of the model among those that the server has; None where it has one.
        ask: "echo" asks for the whole text at once. "prefixes" asks for the next token after each beginning of it, one
            request a token, for servers that tell only of what they write, as llama.cpp's own does; a perplexity is
            then known only if every token of the texts is among the most likely ones.
        api_key_env: The environment variable with the server's key, which is sent, but kept and shown nowhere.
        timeout_s: How long one request may take, in seconds above 0.
        retries: How often a request is repeated, 0 to 20.
        concurrency: How many requests are made at once, 1 to 64.

    Raises:
        InvalidArgumentError: If an argument is not as described. Nothing is sent.

    >>> ServedModel("http://127.0.0.1:8000/v1", model="llama-3-8b-q4")
    ServedModel('http://127.0.0.1:8000/v1', model='llama-3-8b-q4')
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        ask: str = "echo",
        api_key_env: str | None = None,
        timeout_s: float = 120.0,
        retries: int = 4,
        concurrency: int = 1,
    ) -> None:
        address = Address.parse(url)
        if model is not None and (not isinstance(model, str) or not model or not model.isprintable()):
            reject(_OWNER, "model", model, "must be the name of a model that the server has, or None where it has one")
        self.model = model
        self.ask = check_choice(_OWNER, "ask", ask, _ASKS)
        if api_key_env is not None and not (isinstance(api_key_env, str) and _VARIABLE.fullmatch(api_key_env)):
            # it may be the key itself
            reject(_OWNER, "api_key_env", "…", "must be the name of an environment variable, not a key")
        rule = "must be seconds above 0, at most 86400"
        seconds = check_real(_OWNER, "timeout_s", timeout_s, rule, above=0, at_most=86400)
        repeats = check_integer(_OWNER, "retries", retries, "must be a whole number of 0 to 20", at_least=0, at_most=20)
        rule = "must be a whole number of 1 to 64"
        self.concurrency = check_integer(_OWNER, "concurrency", concurrency, rule, at_least=1, at_most=64)
        self._connection = Connection(address, api_key_env, seconds, repeats)
        self._way: _Way | None = None
        self._name: str | None = None
        self._version: str | None = None

    def __repr__(self) -> str:
        return f"ServedModel('{self._connection.address}'{'' if self.model is None else f', model={self.model!r}'})"

    @property
    def __name__(self) -> str:
        """What records call it: the model and where it is served."""
        address = self._connection.address
        return f"{self.model or self._name or 'the model'} at {address.host}:{address.port}"

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse to give logits; raises ObservationError."""
        raise ObservationError(
            f"{self.__name__} is a served model, which tells the most likely next tokens and no logits: it can be "
            "compared by compare_language and assert_language_preserved alone"
        )

    def remarks(self) -> list[str]:
        """Return sentences on how the server was asked."""
        found = []
        if self._way is not None and not self._way.ids:
            found.append(f"{self.__name__} takes no token ids: it was sent texts, which it splits into the same tokens")
        if self._way is not None and self._way.late:
            found.append(
                f"{self.__name__} gives the log-probabilities of a text one place late, as llama-cpp-python does where "
                "no token begins it: only tokens among the most likely ones have a known probability"
            )
        return found

    def next_tokens(
        self, documents: Sequence[Tensor], top_k: int, tokenizer: Tokenizer | None = None, first: int = 0
    ) -> list[NextTokens]:
        """Return what the server says of documents of ids, int64 (length,), two tokens or more each.

        Args:
            documents: The ids of each.
            top_k: How many of the most likely tokens are asked for.
            tokenizer: Has a method `decode(ids)`; needed where the server tells tokens by their texts.
            first: The number of the first document, for errors.

        Returns:
            What is known of each document.

        Raises:
            ObservationError: If the server cannot be reached, does not answer all documents in the form of the
                protocol, has another model or splits a text into other tokens.
        """
        texts = Texts(tokenizer)
        if self._name is None:
            self._name = self._served_name()
        if self._way is None:
            self._way = self._agree(documents, top_k, texts)
        way = self._way
        lists = list(enumerate((ids.tolist() for ids in documents), first))
        if self.ask == "prefixes":
            return self._by_prefixes(way, lists, top_k, texts)
        return self._each(lists, lambda one: self._by_echo(way, one[1], top_k, texts))

    def _served_name(self) -> str:
        """Return the model's name, one of those that the server lists where it lists them."""
        try:
            found = self._connection.get("/models")
        except RefusedError as error:
            if error.status not in (404, 405, 501):
                raise
            if self.model is None:
                raise ObservationError(f"{error}; where a server lists no models, name one by model=") from error
            return self.model
        rows = found.get("data") if isinstance(found, dict) else None
        names = [row.get("id") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        listed = ", ".join(shortened(name, 80) for name in names[:_LISTED]) or "none"
        if self.model is None and len(names) == 1 and isinstance(names[0], str):
            return names[0]
        if self.model is None:
            raise ObservationError(
                f"the server at {self._connection.address} has the models {listed}: name one by model="
            )
        if self.model not in names:
            told = f"has no model {self.model!r}; it has {listed}"
            raise ObservationError(f"the server at {self._connection.address} {told}")
        return self.model

    def _complete(self, prompt: list[int] | str, top_k: int, *, echo: bool) -> Answer:
        body: dict[str, Any] = {"model": self._name, "prompt": prompt, "max_tokens": 1, "logprobs": top_k}
        body |= {"temperature": 1.0, "seed": 0, "stream": False}
        if echo:
            body["echo"] = True
        if not isinstance(prompt, str):  # vLLM then tells tokens by their ids
            body["return_tokens_as_token_ids"] = True
        where = f"{self._connection.address}{_PATH}"
        answer = read_answer(self._connection.post(_PATH, body), where)
        if answer.model is not None and answer.model != self._name:
            told = f"was asked for the model {self._name!r}, and answered as {shortened(repr(answer.model), 80)}"
            raise ObservationError(f"{where} {told}: give the name that it has there by model=")
        if answer.version is not None and self._version not in (None, answer.version):
            raise ObservationError(f"{where} answered as version {self._version}, and then as {answer.version}")
        self._version = self._version or answer.version
        return answer

    def _agree(self, documents: Sequence[Tensor], top_k: int, texts: Texts) -> _Way:
        """Find how the server is asked, by the longest of the first documents."""
        ids = max(documents[:_TRIALS], key=len).tolist()
        try:
            return self._checked(_Way(ids=True), ids, top_k, texts)
        except RefusedError as error:
            if error.status not in (400, 422, 500):
                raise
            refused = error
        if not texts.known:
            raise ObservationError(
                f"{refused}. It may take no token ids: give tokenizer=, so that texts can be sent"
            ) from refused
        try:
            return self._checked(_Way(ids=False), ids, top_k, texts)
        except RefusedError as error:
            advice = 'ask="prefixes" asks for one token at a time' if self.ask == "echo" else "is it the right server?"
            told = f"{refused}; with a text: {error}"
            raise ObservationError(f"{told}. If it gives no log-probabilities of a prompt: {advice}") from error

    def _checked(self, way: _Way, ids: list[int], top_k: int, texts: Texts) -> _Way:
        """Return the way as it has to be, by asking about one place in two ways; raises what the server refuses."""
        if self.ask == "prefixes":
            self._after(way, ids[:1], top_k, texts)
            return way
        answer = self._complete(self._prompt(way, ids, texts), top_k, echo=True)
        if not way.ids and answer.prompt_tokens == len(ids) + 1 and texts.is_special(ids[0]):
            way = _Way(ids=False, lead=1)  # the server writes the first token by itself
            answer = self._complete(self._prompt(way, ids, texts), top_k, echo=True)
        entries = self._aligned(way, answer, ids, texts)
        for length in sorted(range(1, len(ids)), reverse=True)[:_TRIALS]:
            try:
                alone = self._after(way, ids[:length], top_k, texts)
            except _OtherTokensError:  # a beginning of a text may be split otherwise
                continue
            fits = [_is_alike(alone, entries.get(length - late)) for late in (0, 1)]
            if fits == [True, False]:
                return way
            if fits == [False, True]:
                return _Way(way.ids, way.lead, late=1)
            if not any(fits):
                break
        raise ObservationError(
            f"{self.__name__} says something else of a token within a text than of the same token when it is asked for "
            'the next one: what it says of texts cannot be believed; ask="prefixes" asks for each token alone'
        )

    def _prompt(self, way: _Way, ids: list[int], texts: Texts) -> list[int] | str:
        return ids if way.ids else texts.joined(ids[way.lead :])

    def _after(self, way: _Way, ids: list[int], top_k: int, texts: Texts) -> list[Likely]:
        """Return the most likely tokens after a beginning of a text."""
        if not way.ids and len(ids) <= way.lead:
            raise _OtherTokensError("there is no text to send before the second token")
        answer = self._complete(self._prompt(way, ids, texts), top_k, echo=False)
        if answer.prompt_tokens not in (None, len(ids)):
            told = f"reads {len(ids)} tokens of ours as {answer.prompt_tokens}"
            raise _OtherTokensError(f"{self.__name__} {told}: it has another tokenizer, or adds tokens of its own")
        if not answer.entries or answer.entries[0].likely is None:
            raise ObservationError(f"{self.__name__} gives no log-probabilities of the token that it writes")
        return self._enough([most_likely(answer.entries[0], top_k)], top_k)[0]

    def _by_echo(self, way: _Way, ids: list[int], top_k: int, texts: Texts) -> NextTokens:
        answer = self._complete(self._prompt(way, ids, texts), top_k, echo=True)
        entries = self._aligned(way, answer, ids, texts)
        own, likely = [], list[list[Likely]]()
        for place in range(1, len(ids)):
            entry = entries.get(place - way.late)
            told = [] if entry is None or entry.likely is None else most_likely(entry, top_k)
            if not told and likely and likely[-1]:
                raise ObservationError(f"{self.__name__} tells nothing of token {place}, but of those before it")
            likely.append(told)
            if not told or entry is None:
                own.append(math.nan)
            elif way.late:
                own.append(_own(told, ids[place], texts))
            elif entry.logprob is None:
                raise ObservationError(f"{self.__name__} gives no log-probability of token {place} (token_logprobs)")
            else:
                own.append(entry.logprob)
        return NextTokens(torch.tensor(own, dtype=torch.float64), self._enough(likely, top_k))

    def _by_prefixes(self, way: _Way, documents: Sequence[_Numbered], top_k: int, texts: Texts) -> list[NextTokens]:
        places = [(number, ids[:place]) for number, ids in documents for place in range(1, len(ids))]
        found = iter(self._each(places, lambda one: self._after(way, one[1], top_k, texts)))
        told = []
        for _, ids in documents:
            likely = [next(found) for _ in ids[1:]]
            own = [_own(one, token, texts) for one, token in zip(likely, ids[1:], strict=True)]
            told.append(NextTokens(torch.tensor(own, dtype=torch.float64), likely))
        return told

    def _aligned(self, way: _Way, answer: Answer, ids: list[int], texts: Texts) -> dict[int, Entry]:
        """Return what was said of each token of a document, by its place; raises for a text that was read otherwise."""
        entries = answer.entries
        if len(ids) > 2 and len(entries) <= 1:
            raise ObservationError(
                f"{self.__name__} gives log-probabilities of what it writes, not of the text that it is given, as "
                'llama.cpp\'s own server does: ask="prefixes" asks for each token alone'
            )
        if any(isinstance(entry.token, str) for entry in entries) and not texts.known:
            raise ObservationError(f"{self.__name__} tells tokens by their texts: give tokenizer=, with decode(ids)")
        counted = answer.prompt_tokens
        if counted not in (None, len(ids)):
            told = f"reads {len(ids)} tokens of ours as {counted}"
            raise _OtherTokensError(
                f"{self.__name__} {told}: it has another tokenizer, adds tokens of its own, or has cut the text"
            )
        for dropped in (0, 1):
            # a token that the server writes before each text is not told, but counted
            if dropped and counted != len(ids):
                continue
            places = range(dropped, len(ids))
            more = len(entries) - len(places)
            pairs = [(place, entries[place - dropped]) for place in places if place - dropped < len(entries)]
            if more in (0, 1) and all(
                texts.agree(ids[place], entry.token, first=place == dropped) for place, entry in pairs
            ):
                return dict(pairs)
        self._explain(entries, ids, texts)

    def _explain(self, entries: Sequence[Entry], ids: list[int], texts: Texts) -> NoReturn:
        for place, (mine, entry) in enumerate(zip(ids, entries, strict=False)):
            if not texts.agree(mine, entry.token, first=place == 0):
                ours = f"{texts.of(mine)!r} (id {mine})" if texts.known else f"the id {mine}"
                theirs = shortened(repr(entry.token), 60)
                raise _OtherTokensError(
                    f"{self.__name__} reads the text as other tokens: at token {place} it has {theirs}, ours is "
                    f"{ours}. It has another tokenizer, or a text that begins or ends within a word is split otherwise"
                )
        raise _OtherTokensError(f"{self.__name__} tells of {len(entries)} tokens for {len(ids)} of ours")

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
                f"{self.__name__} gives {max(counts)} tokens a place, {top_k} were asked for (top_k): ask for fewer, "
                "or let the server give more, as by --max-logprobs for vLLM"
            )
        return likely

    def _each(self, given: Sequence[_Numbered], call: Callable[[_Numbered], Done]) -> list[Done]:
        """Return what a call gives for each; errors say at which document, and how many were answered before."""

        def told(one: _Numbered) -> Done:
            try:
                return call(one)
            except ObservationError as error:
                raise ObservationError(f"document #{one[0]}: {error}") from error

        if self.concurrency == 1:
            return [told(one) for one in given]
        with concurrent.futures.ThreadPoolExecutor(self.concurrency) as pool:
            waiting = [pool.submit(told, one) for one in given]
            try:
                return [one.result() for one in waiting]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


class _OtherTokensError(ObservationError):
    """A server has read other tokens than were meant."""


def _own(likely: Sequence[Likely], token: int, texts: Texts) -> float:
    """Return the log-probability of a token among the most likely ones, NaN if it is not there."""
    for key, value in likely:
        if key == token or (isinstance(key, str) and texts.same(token, key)):
            return value
    return math.nan


def _is_alike(alone: Sequence[Likely], entry: Entry | None) -> bool:
    """Tell whether two answers to one question are the same up to rounding, by the tokens that both have."""
    if entry is None or entry.likely is None:
        return False
    there = dict(entry.likely)
    shared = [abs(value - there[key]) for key, value in alone if key in there]
    return len(shared) >= max(1, len(alone) - 1) and max(shared) < _ALIKE
