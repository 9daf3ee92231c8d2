"""How much work lies ahead: told once it can be estimated, and given up where explaining may take only so long.

A loop over batches says how many forward passes it will make at most, and after each batch how many it has made. After
the first one, what is expected to last is told by the logger `cp_compress.work`.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from contextvars import ContextVar

LOGGER = logging.getLogger("cp_compress.work")
TOLD_SECONDS = 10.0
"""What is expected to last shorter is not told."""

_deadline: ContextVar[float | None] = ContextVar("cp_deadline", default=None)


class TimeBudgetSpent(Exception):
    """The time that may be spent on explaining is used up."""


class Work:
    """A loop of up to `passes` forward passes; `count` or `done` says after each batch how many it made.

    >>> work = Work("occlusion maps", 3200)
    >>> work.text(seconds=200.4)
    'occlusion maps: up to 3,200 forward passes, up to about 3 min'
    """

    def __init__(self, what: str, passes: int | None = None) -> None:
        self.what, self.passes = what, passes
        self.began, self.made, self.told = time.monotonic(), 0, False

    def count(self, passes: int, *, share: float | None = None) -> None:
        """Count the forward passes of a batch, one for each input, and tell after the first one what lies ahead.

        `share` is the part of all work that is done by now, in (0, 1], where the number of passes is not known ahead.
        """
        self.made += passes
        if share is not None:
            self.passes = round(self.made / share)
        if self.told or not self.made or self.passes is None or self.made >= self.passes:
            return
        self.told = True
        seconds = (time.monotonic() - self.began) * self.passes / self.made
        if seconds >= TOLD_SECONDS:
            LOGGER.info(self.text(seconds))

    def done(self, passes: int, *, share: float | None = None) -> None:
        """Do as `count`; raises TimeBudgetSpent if there is more to do, and the time budget around is spent."""
        self.count(passes, share=share)
        if self.passes is None or self.made < self.passes:
            require_time()

    def text(self, seconds: float) -> str:
        """Return what is told, of work that is expected to last so many seconds in all."""
        return f"{self.what}: up to {self.passes:,} forward passes, up to about {duration(seconds)}"


@contextlib.contextmanager
def limited_to(seconds: float | None) -> Iterator[None]:
    """Give the work inside so many seconds together, or with None as long as it takes."""
    outer = _deadline.get()
    ends = [end for end in (outer, None if seconds is None else time.monotonic() + seconds) if end is not None]
    token = _deadline.set(min(ends, default=None))
    try:
        yield
    finally:
        _deadline.reset(token)


def require_time() -> None:
    """Raise TimeBudgetSpent where the time budget of the work around is spent."""
    deadline = _deadline.get()
    if deadline is not None and time.monotonic() >= deadline:
        raise TimeBudgetSpent("the time budget is spent")


def duration(seconds: float) -> str:
    """Return a duration for people.

    >>> duration(41.8), duration(150), duration(9000)
    ('42 s', '2 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
