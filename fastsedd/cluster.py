"""One request on many machines: its samples as tasks of dask.distributed.

A sample depends on the seed and its index alone, so it is the same whoever writes it, and what is lost with a worker is
written again by another. Tasks carry indices; each worker loads the model at its first task, and keeps it.
"""

from __future__ import annotations

import functools
import math
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastsedd_kernels

from fastsedd import __version__
from fastsedd.architectures.base import ModelConfig
from fastsedd.choices import AnyDtype
from fastsedd.engine import Model
from fastsedd.errors import UnavailableError
from fastsedd.loading import load, name_of
from fastsedd.request import Options, Request, Source, shows_options
from fastsedd.results import Sample

if TYPE_CHECKING:
    from typing_extensions import Unpack

Progress = Callable[[int, int], None]

_TASK_SECONDS = 10.0  # of work, lost with a worker at most
_TASKS_PER_WORKER = 2  # one that runs and one that waits: more would leave workers idle at the end

_LOCAL = re.compile(r"local:([1-9]\d{0,3})")
_ADDRESS = re.compile(r"[a-z]+://\S+")


@dataclass(frozen=True)
class _Machine:
    """The version and the CPU of a worker, on which its texts depend besides the request."""

    version: str
    cpu: fastsedd_kernels.CpuInfo


@dataclass(frozen=True)
class _Part:
    """The result of a task."""

    samples: list[Sample]
    machine: _Machine


class RemoteModel:
    """A model on the workers of a dask cluster: it runs requests as `fastsedd.Model` does, and gives the same samples.

    name : as of `fastsedd.load`; config : of the model, as a worker has loaded it
    """

    def __init__(
        self, client: Any, name: str, source: Source, threads: int | None, note: Callable[[str], None]
    ) -> None:
        self.name = name
        self._client = client
        self._source = source
        self._threads = threads
        self._note = note
        self._seen: set[_Machine] = set()
        self.config: ModelConfig = self._ask(_config, source)

    @shows_options
    def stream(
        self, prefix: str = "", suffix: str = "", *, progress: Progress | None = None, **options: Unpack[Options]
    ) -> Iterator[Sample]:
        """The samples of a request, in the order of `indices`, each as soon as those before it are done.

        progress(done, total) : called when a task is done, of all requested samples
        The other arguments are those of `Model.stream`, except on_step. Raises what it raises, at once, and OSError
        where workers cannot do it, or the scheduler is gone.
        """
        return self.run(Request.of(prefix=prefix, suffix=suffix, **options), progress)

    def run(self, request: Request, progress: Progress | None = None) -> Iterator[Sample]:
        """The samples of a request, as `stream` yields them."""
        self._ask(_check, self._source, request)
        return self._samples(request, progress or (lambda done, total: None))

    def _samples(self, request: Request, progress: Progress) -> Iterator[Sample]:
        from distributed import as_completed

        wanted = request.wanted
        done: dict[int, Sample] = {}  # those before which one is still missing
        yielded = 0
        received = 0
        queue = _Queue(wanted, request.batch_size)
        running = as_completed(loop=self._client.loop, with_results=True)
        with _one_line_errors():
            self._submit(queue, running, request)
            for _, part in running:
                self._compare(part.machine)
                done.update((sample.index, sample) for sample in part.samples)
                received += len(part.samples)
                queue.note(part.samples)
                self._submit(queue, running, request)
                progress(received, len(wanted))
                while yielded < len(wanted) and wanted[yielded] in done:
                    yield done.pop(wanted[yielded])
                    yielded += 1

    def _submit(self, queue: _Queue, running: Any, request: Request) -> None:
        """Keep every worker busy, including those that have joined since."""
        workers = max(1, len(self._client.nthreads()))
        while queue.left and running.count() < _TASKS_PER_WORKER * workers:
            part = replace(request, indices=tuple(queue.take(_TASKS_PER_WORKER * workers)))
            running.add(self._client.submit(_write, self._source, self._threads, part, pure=False))

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of a function, called by some worker."""
        if not self._client.nthreads():
            self._note("no workers yet: waiting for one")
        with _one_line_errors():
            return self._client.submit(function, *arguments, pure=False).result()

    def _compare(self, machine: _Machine) -> None:
        """Note each kind of worker that differs from those before, once. Raises OSError for another version."""
        if machine in self._seen:
            return
        if machine.version != __version__:
            raise OSError(f"a worker has fastsedd {machine.version}, allowed: {__version__}, the version here")
        if self._seen:
            self._note(
                f"workers have different CPUs ({machine.cpu.name}, {machine.cpu.isa}): "
                "the same seed may give different text on each"
            )
        self._seen.add(machine)


class _Queue:
    """Indices still to hand out, in tasks of about _TASK_SECONDS, and smaller ones at the end: all end at once."""

    def __init__(self, indices: Sequence[int], batch_size: int | None) -> None:
        self._indices = deque(indices)
        self._least = batch_size or 1
        self._size = self._least

    @property
    def left(self) -> int:
        return len(self._indices)

    def note(self, samples: list[Sample]) -> None:
        """Learn from a task that is done."""
        seconds = sum(sample.seconds for sample in samples) / len(samples)
        self._size = max(self._least, int(_TASK_SECONDS / max(seconds, 1e-9)))

    def take(self, tasks: int) -> list[int]:
        """The indices of the next task. tasks : how many run at a time"""
        fair = max(self._least, math.ceil(self.left / tasks))
        return [self._indices.popleft() for _ in range(min(self._size, fair, self.left))]


@contextmanager
def connect(
    scheduler: str,
    path: str | Path | None = None,
    dtype: AnyDtype | None = None,
    *,
    threads: int | None = None,
    revision: str | None = None,
    offline: bool = False,
    tokenizer: str | Path | None = None,
    heads: int | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> Iterator[RemoteModel]:
    """A model on workers, for as long as the context lasts.

    scheduler : the address of a dask scheduler, "tcp://host:8786", or "local:N", N worker processes on this machine
    path, dtype, revision, offline, tokenizer, heads : as `fastsedd.load` takes them. Workers load the model themselves:
        a path must be there on their machines too.
    threads : CPU threads per worker. If None, those that dask gave it (`dask worker --nthreads`), and on this machine
        an equal share of its cores.
    note : called with one line for each thing that a person should know
    Raises ValueError for a bad argument, UnavailableError, which is one, without the library, OSError where there is no
    scheduler or its workers cannot do it, and what `load` raises.
    """
    local = _LOCAL.fullmatch(scheduler)
    if local is None and _ADDRESS.fullmatch(scheduler) is None:
        raise ValueError(f"scheduler is {scheduler!r}, allowed: local:N, or an address such as tcp://host:8786")
    try:
        import distributed
    except ImportError:
        raise UnavailableError("a scheduler needs dask: pip install 'fastsedd[dask]'") from None

    source = Source(_everywhere(path), dtype, revision, offline, _everywhere(tokenizer), heads)
    with _cluster(local) as cluster:
        try:
            client = distributed.Client(cluster or scheduler, set_as_default=False)
        except (OSError, TimeoutError) as error:
            raise OSError(f"scheduler {scheduler} does not answer: {error}") from None
        with client:
            yield RemoteModel(client, name_of(path), source, threads, note)


@contextmanager
def _cluster(local: re.Match[str] | None) -> Iterator[Any]:
    """Worker processes on this machine, if that is what the scheduler is."""
    if local is None:
        yield None
        return
    import logging

    from distributed import LocalCluster

    workers = int(local[1])
    threads = max(1, fastsedd_kernels.cpu_info().cores // workers)
    with LocalCluster(
        n_workers=workers, threads_per_worker=threads, dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL
    ) as cluster:
        yield cluster


def _everywhere(path: str | Path | None) -> str | None:
    """A path as workers in other folders understand it; a name on the hub as it is."""
    if path is None:
        return None
    return str(Path(path).absolute()) if isinstance(path, Path) or Path(path).exists() else path


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Turn dask's own errors, and those of a worker that lacks something, into an OSError of one line."""
    import distributed

    try:
        yield
    except distributed.KilledWorker as error:
        raise OSError(f"workers crashed repeatedly on the same samples: {error}") from None
    except (ValueError, OSError, MemoryError):
        raise
    except Exception as error:
        raise OSError(f"workers or scheduler failed: {type(error).__name__}: {error}") from None


# The functions below run on workers.

_one_at_a_time = threading.Lock()  # a task uses all threads of its worker


@functools.lru_cache(maxsize=1)
def _loaded(source: Source) -> Model:
    return load(
        source.path, source.dtype, source.revision,
        offline=source.offline, tokenizer=source.tokenizer, heads=source.heads,
    )  # fmt: skip


def _config(source: Source) -> ModelConfig:
    with _one_at_a_time:
        return _loaded(source).config


def _check(source: Source, request: Request) -> None:
    """Raise whatever `Model.run` refuses of a request, without writing a text."""
    with _one_at_a_time:
        _loaded(source).run(request)


def _write(source: Source, threads: int | None, request: Request) -> _Part:
    with _one_at_a_time:
        _use_threads(threads)
        samples = list(_loaded(source).run(request))
    return _Part(samples, _Machine(__version__, fastsedd_kernels.cpu_info()))


def _use_threads(threads: int | None) -> None:
    if threads is None:
        from distributed import get_worker

        threads = min(get_worker().state.nthreads, fastsedd_kernels.cpu_info().cores)
    fastsedd_kernels.set_num_threads(threads)
