"""How tokens read: the texts by which a server tells them, beside the ids that documents hold."""

from __future__ import annotations

from typing import Any

from cp_compress.inputs.tokens import LOST, Readings, Tokenizer, is_whole


class Texts:
    """The texts of token ids, as a tokenizer decodes them, special ones and spaces included."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._readings = None if tokenizer is None else Readings(tokenizer)
        self._begin: Any = getattr(tokenizer, "bos_token_id", None)
        self._special: set[Any] = {*(getattr(tokenizer, "all_special_ids", None) or ()), self._begin} - {None}

    @property
    def known(self) -> bool:
        """Whether there is a tokenizer."""
        return self._readings is not None

    def joined(self, ids: list[int]) -> str:
        """Return the text of a document."""
        assert self._readings is not None  # `known` was asked
        return self._readings.decode(ids)

    def of(self, token: int) -> str:
        """Return how one token reads within a text."""
        assert self._readings is not None  # `known` was asked
        return self._readings.of(token)

    def agree(self, token: int, told: int | str, *, first: bool = False) -> bool:
        """Tell whether a server's token may be this one: parts of characters and special tokens may read as nothing.

        A text may lose the space before its `first` token.
        """
        if isinstance(told, int):
            return told == token
        ours = self.of(token)
        theirs, mine = told.replace(LOST, ""), ours.replace(LOST, "")
        if not theirs:
            control = ours.startswith("<") and ours.endswith(">")  # not all tokenizers list all of them as special
            return not is_whole(ours) or token in self._special or control
        return theirs == mine or (first and theirs.lstrip(" ") == mine.lstrip(" "))

    def same(self, token: int, told: str) -> bool:
        """Tell whether a server's text is surely this token's."""
        return is_whole(told) and told == self.of(token)

    def begins(self, token: int) -> bool:
        """Tell whether a tokenizer says that a token begins each text."""
        return self._begin == token if self._begin is not None else token in self._special
