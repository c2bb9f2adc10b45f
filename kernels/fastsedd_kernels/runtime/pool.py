"""A pool of threads that outlives a Ctrl-C.

`concurrent.futures` waits by conditions that are written in Python: an interrupt between two of their bytecodes leaves
a lock taken, and the thread that needs it next waits for ever. These queues lock in C, where nothing interrupts.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

_NAP = 0.001  # seconds


class _Batch:
    """Calls of a function that returns a number, each of which one thread claims; what they returned or raised."""

    def __init__(self, function: Callable[..., int], calls: Sequence[tuple[Any, ...]]) -> None:
        self.outcomes: list[tuple[int, BaseException | None]] = []
        self.done: SimpleQueue[None] = SimpleQueue()
        self._function, self._calls = function, calls
        self._claims = itertools.count()

    @property
    def is_done(self) -> bool:
        return len(self.outcomes) == len(self._calls)

    def run(self) -> None:
        """Make the calls that nobody has claimed."""
        while (number := next(self._claims)) < len(self._calls):
            try:
                outcome: tuple[int, BaseException | None] = self._function(*self._calls[number]), None
            except BaseException as error:
                outcome = 0, error
            self.outcomes.append(outcome)
            if self.is_done:
                self.done.put(None)


class Pool:
    """A fixed number of threads, which end with the process."""

    def __init__(self, threads: int, name: str) -> None:
        self._batches: SimpleQueue[_Batch] = SimpleQueue()
        for number in range(threads):
            threading.Thread(target=_serve, args=(self._batches,), name=f"{name}_{number}", daemon=True).start()

    def sum(self, function: Callable[..., int], calls: Sequence[tuple[Any, ...]]) -> int:
        """The sum of what the function returns for each call's arguments, shared among the threads.

        Raises what a call raised, and an interrupt, once all are done: what they write may be used anew then.
        """
        batch = _Batch(function, calls)
        try:
            for _ in calls:
                self._batches.put(batch)
            batch.done.get()
        except BaseException:
            self._finish(batch)
            raise
        for _, error in batch.outcomes:
            if error is not None:
                raise error
        return sum(number for number, _ in batch.outcomes)

    def _finish(self, batch: _Batch) -> None:
        """Wait until all calls are done, whatever comes, wherever their putting was interrupted."""
        while not batch.is_done:
            try:
                if self._batches.empty():
                    self._batches.put(batch)
                time.sleep(_NAP)
            except BaseException:
                continue


def _serve(batches: SimpleQueue[_Batch]) -> None:
    """Run batches, for ever."""
    while True:
        batch = batches.get()
        batch.run()
        del batch  # not kept until the next one
