"""The number of samples denoised together: as many as memory allows, or fewer where that proves faster."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

# Another size is tried while a request has this many batches to go: with fewer the trial cannot pay for itself.
_WORTH_TRYING = 8


class BatchSize:
    """The size of each next batch of a request, learnt from the batches before it, which are its texts: none is wasted.

    most : as many as memory allows
    measured : whether smaller sizes, a half and a quarter of it, are tried as well; else each batch is of `most`
    """

    def __init__(self, most: int, *, measured: bool) -> None:
        smaller = {most // 2, most // 4} - {0} if measured else set()
        self._most = most
        self._untried = sorted(smaller)
        self._seconds: dict[int, float] = {}  # per step and sample, by size

    def next(self, left: int) -> int:
        """Samples of the next batch, 1 to `left`, the number still to write."""
        if self._most not in self._seconds:
            return min(self._most, left)
        if self._untried and left >= _WORTH_TRYING * self._most:
            return self._untried.pop()
        return min(self._fastest(), left)

    def note(self, size: int, seconds: Sequence[float]) -> None:
        """Learn from a batch: how long each of its steps took.

        The median step counts, without the first: that one may compile kernels, and others may have waited for the CPU.
        """
        if len(seconds) > 1:
            self._seconds[size] = statistics.median(seconds[1:]) / size

    def _fastest(self) -> int:
        return min(self._seconds, key=lambda size: self._seconds[size])
