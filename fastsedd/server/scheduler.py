"""The one thread that runs the model: requests of one shape that wait are written together, others in turn.

A text depends on its own seed and index alone, so whatever else is served does not change it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastsedd import heap
from fastsedd.denoising import Denoising
from fastsedd.diffusion.sampler import Batch, StepRecord
from fastsedd.engine import Writing
from fastsedd.server import errors
from fastsedd.server.metrics import Metrics

_LOG = logging.getLogger(__name__)
_REST = 1.0  # seconds without a task, after which the memory of the last ones goes back to the system


@dataclass(frozen=True, eq=False)
class State:
    """A text after a step. index : its number in the request; ids : int32 [L]; confidence : as a `Batch` has it, [L]"""

    index: int
    step: int
    steps: int
    ids: NDArray[np.int32]
    confidence: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class Written:
    """A text that is done. ids : int32 [L]; confidence : as a `Batch` has it, [L]"""

    index: int
    steps: int
    ids: NDArray[np.int32]
    text: str
    confidence: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class Returned:
    """The value of a call."""

    value: Any


@dataclass(frozen=True, eq=False)
class Failure:
    """The end of a request that has failed."""

    error: Exception


Item = State | Written | Returned | Failure


class Receiver(Protocol):
    """Takes a request's items, in the scheduler's thread. abandoned : nobody wants more of them"""

    abandoned: bool

    def put(self, item: Item) -> None: ...


@dataclass(eq=False)
class Job:
    """The texts of one request.

    waiting : indices of those that are not begun; stepwise : states are wanted, too; confident : with their confidence
    """

    writing: Writing[Any]
    seed: int
    waiting: list[int]
    receiver: Receiver
    stepwise: bool
    confident: bool = False


@dataclass(eq=False)
class Call:
    """Anything else that runs the model. function : called with one to be called now and then, which may raise"""

    function: Callable[[Callable[[], None]], Any]
    receiver: Receiver


Row = tuple[Job, int]  # one text of a joint batch: whose it is, and its index


class Scheduler:
    """A bounded queue and its thread; see the module.

    max_queue : requests that wait; max_batch : texts that are written together
    """

    def __init__(self, max_queue: int, max_batch: int, metrics: Metrics) -> None:
        self._max_queue, self._max_batch, self._metrics = max_queue, max_batch, metrics
        self._queue: list[Job | Call] = []
        self._changed = threading.Condition()
        self._closed = False
        self._seconds = 1.0  # that a batch takes, on average
        self._thread = threading.Thread(target=self._run, name="fastsedd-scheduler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Finish what has been taken on, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, task: Job | Call) -> None:
        """Take a request on. Raises Refusal where the queue is full."""
        with self._changed:
            if len(self._queue) >= self._max_queue or self._closed:
                raise errors.too_busy(self._wait())
            self._queue.append(task)
            self._metrics.waiting.set(len(self._queue))
            self._changed.notify()

    def discard(self, task: Job | Call) -> None:
        """Forget a request: its place is free now in the queue, and at the next step in a batch."""
        task.receiver.abandoned = True
        with self._changed:
            if task in self._queue:
                self._queue.remove(task)
                self._metrics.waiting.set(len(self._queue))

    def _wait(self) -> int:
        """Seconds until there may be room again."""
        return max(1, min(60, math.ceil(self._seconds * (len(self._queue) / self._max_batch))))

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            started = time.perf_counter()
            if isinstance(taken, Call):
                self._call(taken)
            else:
                self._write(taken)
            self._seconds += 0.2 * (time.perf_counter() - started - self._seconds)

    def _take(self) -> list[Row] | Call | None:
        """The next call, or texts to write together; None where the scheduler has been closed."""
        with self._changed:
            if not self._is_due(_REST):
                heap.give_back()
                self._is_due()
            if not self._queue:
                return None
            first = self._queue[0]
            rows: list[Row] = []
            if isinstance(first, Job):
                room = min(self._max_batch, first.writing.most)
                for job in [each for each in self._queue if isinstance(each, Job)]:
                    if job.writing.shape == first.writing.shape:
                        count = room - len(rows)
                        rows += [(job, index) for index in job.waiting[:count]]
                        del job.waiting[:count]
            self._queue = [each for each in self._queue if each is not first or rows]
            self._queue = [each for each in self._queue if isinstance(each, Call) or each.waiting]
            self._metrics.waiting.set(len(self._queue))
            return rows if isinstance(first, Job) else first

    def _is_due(self, timeout: float | None = None) -> bool:
        """Wait, with the lock held, until there is a task, or no more will come; False where the time is over."""
        return self._changed.wait_for(lambda: bool(self._queue) or self._closed, timeout)

    def _call(self, call: Call) -> None:
        def check() -> None:
            if call.receiver.abandoned:
                raise errors.ClientGone

        try:
            call.receiver.put(Returned(call.function(check)))
        except errors.ClientGone:
            pass
        except Exception as error:
            _log(error)
            call.receiver.put(Failure(error))

    def _write(self, rows: list[Row]) -> None:
        """Write texts together, and tell each receiver of its own."""
        self._metrics.batch.observe(len(rows))
        try:
            self._denoise([row for row in rows if not row[0].receiver.abandoned])
        except Exception as error:
            _log(error)
            for job in {id(job): job for job, _ in rows}.values():
                job.receiver.put(Failure(error))
                self.discard(job)

    def _denoise(self, rows: list[Row]) -> None:
        if not rows:
            return
        jobs = [job for job, _ in rows]
        batch = Batch.of(
            [i for _, i in rows], [job.seed for job in jobs], [job.writing.given for job in jobs],
            any(job.confident for job in jobs),
        )  # fmt: skip
        denoising = Denoising(jobs[0].writing, batch)
        while (record := denoising.step()) is not None:
            self._metrics.steps.inc()
            ids = jobs[0].writing.to_ids(record.tokens)
            self._report(rows, record, ids, denoising.batch.confidence)
            if record.step == record.steps:
                continue
            left = [at for at, (job, _) in enumerate(rows) if not job.receiver.abandoned]
            if not left:
                return
            if len(left) < len(rows):
                denoising.keep(left)
                rows = [rows[at] for at in left]

    def _report(
        self, rows: list[Row], record: StepRecord, ids: NDArray[np.int32], confidence: NDArray[np.float32] | None
    ) -> None:
        """Tell receivers of the state, or, after the last step, of the texts."""
        for at, ((job, index), row) in enumerate(zip(rows, ids, strict=True)):
            sure = confidence[at].copy() if job.confident and confidence is not None else None
            if record.step == record.steps:
                job.receiver.put(Written(index, record.steps, row, job.writing.decode(row), sure))
                self._metrics.texts.inc()
                self._metrics.tokens.inc(int((job.writing.given < 0).sum()))
            elif job.stepwise:
                job.receiver.put(State(index, record.step, record.steps, row.copy(), sure))


def _log(error: Exception) -> None:
    if not isinstance(error, ValueError):
        _LOG.error("a request has failed", exc_info=error)
