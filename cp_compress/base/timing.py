"""Measurements in turns: what is compared is measured alternately, so that a busy machine slows all alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Found = TypeVar("Found")


def in_turns(calls: Sequence[Callable[[], Found]], turns: int, *, warm_up: int = 0) -> list[list[Found]]:
    """Return what each call gave in each turn, one after the other in every turn; the first ones are left out.

    >>> in_turns([lambda: "a", lambda: "b"], 2, warm_up=1)
    [['a', 'a'], ['b', 'b']]
    """
    found: list[list[Found]] = [[] for _ in calls]
    for turn in range(warm_up + turns):
        for call, values in zip(calls, found, strict=True):
            value = call()
            if turn >= warm_up:
                values.append(value)
    return found
