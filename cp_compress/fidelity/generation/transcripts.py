"""How many words of what was generated are not those of the true texts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from cp_compress.base.errors import MissingExtraError

_NO_WORD = re.compile(r"[^\w\s']")


class WordErrors(NamedTuple):
    """The word error rate over all texts, and the errors and true words of each."""

    rate: float
    errors: list[int]
    words: list[int]


def word_errors(found: Sequence[str], truth: Sequence[str]) -> WordErrors:
    """Return the word errors of texts, as `jiwer` counts them, without regard to case and punctuation.

    Raises MissingExtraError if `jiwer` is not installed.
    """
    try:
        import jiwer
    except ImportError as error:
        raise MissingExtraError("word error rates", "speech") from error
    errors, words = [], []
    for one, true in zip(map(normalized, found), map(normalized, truth), strict=True):
        words.append(len(true.split()))
        if not true:  # jiwer takes no empty text for truth
            errors.append(len(one.split()))
            continue
        counted = jiwer.process_words(true, one)
        errors.append(counted.substitutions + counted.deletions + counted.insertions)
    return WordErrors(sum(errors) / sum(words), errors, words)


def normalized(text: str) -> str:
    """Return a text in small letters without punctuation, its words parted by one space.

    >>> normalized("It's  done, isn't it?")
    "it's done isn't it"
    """
    plain = _NO_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(plain.split())
