"""Work in batches whose size halves itself when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from cp_compress.base.arguments import check_integer
from cp_compress.base.errors import ObservationError


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception is an allocator's, on a GPU or on the CPU."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


# of the inputs of one call; the activations of more of them no longer stay in a CPU's caches
CPU_VALUES, _FEWEST_ROWS = 2**20, 8


def rows_in_cache(values: int) -> int:
    """Return how many inputs of so many values a CPU is best given in one call.

    >>> rows_in_cache(3 * 32 * 32), rows_in_cache(3 * 224 * 224)
    (341, 8)
    """
    return max(_FEWEST_ROWS, CPU_VALUES // max(1, values))


class BatchSize:
    """A batch size that halves on out-of-memory and stays halved for the work that follows.

    `limit` is the largest number of rows in one call; one that is `fixed` is never halved.
    """

    def __init__(self, limit: int, *, fixed: bool = False) -> None:
        self.fixed = fixed
        self.limit = check_integer("BatchSize", "batch_size", limit, "must be a whole number of 1 or more", at_least=1)

    def halve(self) -> bool:
        """Halve the limit and free cached GPU memory; return False when it was one already, or fixed."""
        if self.limit == 1 or self.fixed:
            return False
        self.limit = max(1, self.limit // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return True

    def run(self, count: int, function: Callable[[slice], None]) -> None:
        """Call `function` with consecutive slices that cover `range(count)`, smaller ones after out-of-memory.

        A slice whose call ran out of memory is called again in halves, so `function` must be safe to repeat.
        Raises what `function` raises, and out-of-memory only at a batch of one.
        """
        start = 0
        while start < count:
            part = slice(start, min(start + self.limit, count))
            try:
                function(part)
            except (RuntimeError, MemoryError) as error:
                if is_out_of_memory(error) and self.fixed and self.limit > 1:
                    told = f"the deployed batch of {self.limit} examples needs more memory than there is"
                    raise ObservationError(f"{told}; in smaller ones the model may answer otherwise") from error
                if not is_out_of_memory(error) or not self.halve():
                    raise
                continue
            start = part.stop


class Pace:
    """How many rows each forward call takes on a CPU, found by how long the first calls took.

    Two calls of `first` rows are followed by two of half as many, and so on while rows take a tenth less time; where
    half as many are no quicker, by two of twice as many, up to `largest`. Calls do the work that is to be done anyway.
    What was found holds for whoever asks later: two models that are compared are run in the same calls.
    """

    _GAIN = 0.9

    def __init__(self, first: int, largest: int) -> None:
        self.first, self.largest = first, largest
        self._plan = [first] * 2
        self._seconds: dict[int, float] = {}
        self._timed = 0
        self._open = True
        self._found = [(0, first)]

    def size(self, call: int) -> int:
        """Return how many rows a call has, of which `call` were made before it."""
        return self._plan[min(call, len(self._plan) - 1)]

    def found(self, calls: int) -> int:
        """Return the best number of rows that so many calls found."""
        return next(size for after, size in reversed(self._found) if after <= calls)

    def decided(self, calls: int) -> bool:
        """Tell whether nothing is left to find after so many calls."""
        return not self._open and calls >= self._timed

    def took(self, call: int, seconds: float) -> None:
        """Tell how long a call lasted; what is known already is not timed again."""
        if not self._open or call != self._timed:
            return
        size, best = self._plan[call], self._found[-1][1]
        self._timed += 1
        self._seconds[size] = min(seconds / size, self._seconds.get(size, seconds / size))
        if self._timed < len(self._plan):
            return
        quicker = size == self.first or self._seconds[size] < self._GAIN * self._seconds[best]
        best = size if quicker else best
        self._found.append((self._timed, best))
        beyond = self._beyond(size, quicker)
        self._open = 1 <= beyond <= self.largest
        self._plan += [beyond] * 2 if self._open else [best]

    def _beyond(self, size: int, quicker: bool) -> int:
        """Return the next number of rows to try, 0 for none."""
        if quicker:
            return 2 * size if size > self.first else size // 2
        return 2 * self.first if size == self.first // 2 else 0


def slices(count: int, size: int) -> Iterator[slice]:
    """Yield consecutive slices of at most `size` that cover `range(count)`.

    >>> [(part.start, part.stop) for part in slices(5, 2)]
    [(0, 2), (2, 4), (4, 5)]
    """
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
