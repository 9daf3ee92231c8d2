"""What reading a pickle would cost, found without reading it: nested tuples can take exponential time to hash."""

from __future__ import annotations

import os
import pickletools
from collections.abc import Iterator
from typing import BinaryIO

from cp_compress.base.errors import ArtifactError

_HEAVIEST = 50_000_000
_TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
_PUTS, _GETS = ("PUT", "BINPUT", "LONG_BINPUT"), ("GET", "BINGET", "LONG_BINGET")


def check_pickle(file: BinaryIO, path: str | os.PathLike[str]) -> None:
    """Walk through the pickle that an open file is at; raises ArtifactError for tuples that grow beyond measure.

    A tuple of two that are one tuple of two, and so on, takes a byte or two a level in the file, and twice the time of
    the level below it when it is the key of a dict. What is no pickle at all is left to who reads it.
    """
    try:
        total = sum(_weights(file))
    except Exception:  # whatever is wrong with it, the reader of pickles says so
        return
    if total > _HEAVIEST:
        raise ArtifactError(path, "has nested tuples that would take exponential time to read")


def _weights(file: BinaryIO) -> Iterator[int]:
    """Yield for each value that is not plain how many values are in it, those of tuples within tuples included."""
    stack: list[int | None] = []  # a weight, or None for a mark
    kept: dict[int, int] = {}
    for code, argument, _ in pickletools.genops(file):
        name, place = code.name, argument if isinstance(argument, int) else 0
        if name in _PUTS or name == "MEMOIZE":
            kept[len(kept) if name == "MEMOIZE" else place] = stack[-1] or 1
            continue
        taken = _take(stack, code.stack_before)
        weight = kept[place] if name in _GETS else min(1 + sum(taken), _HEAVIEST + 1) if name in _TUPLES else 1
        if name in _GETS or name in _TUPLES:
            yield weight
        stack += [None if made is pickletools.markobject else weight for made in code.stack_after]


def _take(stack: list[int | None], wanted: list[pickletools.StackObject]) -> list[int]:
    """Take what an opcode wants from the stack, down to the last mark where it wants one; return the weights."""
    taken: list[int] = []
    beyond = len(wanted)
    if pickletools.markobject in wanted:
        beyond = wanted.index(pickletools.markobject)
        while (value := stack.pop()) is not None:
            taken.append(value)
    return taken + [stack.pop() or 1 for _ in range(beyond)]
