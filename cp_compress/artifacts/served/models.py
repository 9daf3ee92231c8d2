"""A language model behind an OpenAI-compatible server, asked for the most likely tokens of given texts."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from torch import Tensor

from cp_compress.artifacts.served.asking import Asking
from cp_compress.artifacts.served.settings import read_settings
from cp_compress.artifacts.served.texts import Texts
from cp_compress.base.arguments import explains_keywords
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.language.next_tokens import NextTokens
from cp_compress.inputs.tokens import Tokenizer

_FIRST, _LEAST = 8, 6
Done = TypeVar("Done")
_Numbered = tuple[int, list[int]]  # a document, or its beginning, with its number


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
        self.settings = read_settings(
            url,
            model=model,
            ask=ask,
            api_key_env=api_key_env,
            timeout_s=timeout_s,
            retries=retries,
            concurrency=concurrency,
        )
        self._asking = Asking(self.settings)

    def __repr__(self) -> str:
        model = "" if self.settings.model is None else f", model={self.settings.model!r}"
        return f"ServedModel('{self.settings.address}'{model})"

    @property
    def __name__(self) -> str:
        """What records call it: the model and where it is served."""
        return self.settings.name

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse to give logits; raises ObservationError."""
        raise ObservationError(
            f"{self.settings.name} is a served model, which tells the most likely next tokens and no logits: it can be "
            "compared by compare_language and assert_language_preserved alone"
        )

    def remarks(self) -> list[str]:
        """Return sentences on how the server was asked."""
        found = []
        if self._asking.by_ids is False:
            found.append(
                f"{self.settings.name} takes no token ids: it was sent texts, which it splits into the same tokens"
            )
        if any(self._asking.late.values()):
            found.append(
                f"{self.settings.name} gives the log-probabilities of a text one place late, as llama-cpp-python does "
                "where no token begins it: only tokens among the most likely ones have a known probability"
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
        lists = list(enumerate((ids.tolist() for ids in documents), first))
        # a short one of the first documents, but for those that tell too little
        first_asked = sorted(lists[:_FIRST], key=lambda one: (len(one[1]) < _LEAST, len(one[1])))[:1]
        self._each(first_asked, lambda ids: self._asking.start(ids, top_k, texts))
        if self.settings.ask == "echo":
            return self._each(lists, lambda ids: self._asking.by_echo(ids, top_k, texts))
        beginnings = [(number, ids[:place]) for number, ids in lists for place in range(1, len(ids))]
        found = iter(self._each(beginnings, lambda ids: self._asking.after(ids, top_k, texts)))
        return [self._asking.of_prefixes(ids, [next(found) for _ in ids[1:]], texts) for _, ids in lists]

    def _each(self, given: Sequence[_Numbered], call: Callable[[list[int]], Done]) -> list[Done]:
        """Return what a call gives for each; errors say at which document."""

        def told(one: _Numbered) -> Done:
            try:
                return call(one[1])
            except ObservationError as error:
                raise ObservationError(f"document #{one[0]}: {error}") from error

        if self.settings.concurrency == 1:
            return [told(one) for one in given]
        with concurrent.futures.ThreadPoolExecutor(self.settings.concurrency) as pool:
            waiting = [pool.submit(told, one) for one in given]
            try:
                return [one.result() for one in waiting]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
