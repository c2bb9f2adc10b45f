"""One request on many machines: its samples as tasks of dask.distributed.

A sample depends on the seed and its index alone, so it is the same whoever writes it, and what is lost with a worker is
written again by another. Tasks carry indices; each worker loads the model at its first task, and keeps it.
"""

from __future__ import annotations

import functools
import math
import re
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastsedd_kernels

from fastsedd import __version__
from fastsedd.config import ModelConfig
from fastsedd.engine import Dtype, Model, Sample, load
from fastsedd.errors import UnavailableError

_TASK_SECONDS = 10.0  # what is lost with a worker, at most
_TASKS_A_WORKER = 2  # one that runs and one that waits: more would leave workers idle at the end

_LOCAL = re.compile(r"local:([1-9]\d{0,3})")
_ADDRESS = re.compile(r"[a-z]+://\S+")


@dataclass(frozen=True)
class _Source:
    """Which model a worker loads, with the arguments of `fastsedd.load`, and how many threads it uses."""

    path: str | None
    dtype: Dtype
    revision: str | None
    offline: bool
    tokenizer: str | None
    heads: int | None
    threads: int | None


@dataclass(frozen=True)
class _Machine:
    """What a worker's texts depend on besides the request."""

    version: str
    cpu: fastsedd_kernels.CpuInfo


@dataclass(frozen=True)
class _Part:
    """What a task returns."""

    samples: list[Sample]
    machine: _Machine


class RemoteModel:
    """A model on the workers of a dask cluster: `stream` is that of `fastsedd.Model`, and gives the same samples.

    name : as of `fastsedd.load`; config : of the model, told by a worker
    """

    def __init__(self, client: Any, source: _Source, name: str, note: Callable[[str], None]) -> None:
        self.name = name
        self._client = client
        self._source = source
        self._note = note
        self._told: set[_Machine] = set()
        self.config: ModelConfig = self._ask(_config, source)

    def stream(
        self,
        *,
        num_samples: int = 1,
        indices: Sequence[int] | None = None,
        seed: int | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
        **request: Any,
    ) -> Iterator[Sample]:
        """The samples of a request, in the order of `indices`, each as soon as those before it are done.

        progress(done, total) : called when a task is done, of all samples asked for
        The other arguments are those of `Model.stream`, but for on_step. Raises what it raises, at once, and OSError
        where workers cannot do it, or the scheduler is gone.
        """
        seed = secrets.randbits(32) if seed is None else seed
        request = {**request, "num_samples": num_samples, "seed": seed}
        wanted = range(num_samples) if indices is None else indices
        self._ask(_check, self._source, request, wanted)
        return self._samples(wanted, request, progress)

    def _samples(
        self, wanted: Sequence[int], request: dict[str, Any], progress: Callable[[int, int], None]
    ) -> Iterator[Sample]:
        from distributed import as_completed

        done: dict[int, Sample] = {}  # those before which one is missing yet
        yielded = 0
        received = 0
        queue = _Queue(wanted, request.get("batch_size"))
        running = as_completed(loop=self._client.loop, with_results=True)
        with _retold():
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

    def _submit(self, queue: _Queue, running: Any, request: dict[str, Any]) -> None:
        """Keep every worker busy, those that have joined since included."""
        workers = max(1, len(self._client.nthreads()))
        while queue.left and running.count() < _TASKS_A_WORKER * workers:
            indices = queue.take(_TASKS_A_WORKER * workers)
            running.add(self._client.submit(_write, self._source, request, indices, pure=False))

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function returns that some worker calls."""
        if not self._client.nthreads():
            self._note("no worker yet: waiting for one")
        with _retold():
            return self._client.submit(function, *arguments, pure=False).result()

    def _compare(self, machine: _Machine) -> None:
        """Say once of each kind of worker that it is not like this one or those before."""
        if machine in self._told:
            return
        if machine.version != __version__:
            raise OSError(f"a worker has fastsedd {machine.version}, allowed: {__version__}, as here")
        if self._told:
            self._note(f"workers' CPUs differ ({machine.cpu.name}, {machine.cpu.isa}): so may a text, by who writes it")
        self._told.add(machine)


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
        """The indices of the next task, when so many run at a time."""
        fair = max(self._least, math.ceil(self.left / tasks))
        return [self._indices.popleft() for _ in range(min(self._size, fair, self.left))]


@contextmanager
def connect(
    scheduler: str,
    path: str | Path | None = None,
    dtype: Dtype = "float32",
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
    threads : CPU threads a worker. If None, those that dask gave it (`dask worker --nthreads`), and on this machine an
        equal share of its cores.
    note : told, in one line, what a person should know
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

    source = _Source(_everywhere(path), dtype, revision, offline, _everywhere(tokenizer), heads, threads)
    name = "shipped model" if path is None else str(path)
    with _cluster(local) as cluster:
        try:
            client = distributed.Client(cluster or scheduler, set_as_default=False)
        except (OSError, TimeoutError) as error:
            raise OSError(f"scheduler {scheduler} does not answer: {error}") from None
        with client:
            yield RemoteModel(client, source, name, note)


@contextmanager
def _cluster(local: re.Match[str] | None) -> Iterator[Any]:
    """Worker processes on this machine, where they are asked for."""
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
def _retold() -> Iterator[None]:
    """Dask's own errors, and those of a worker that lacks something, as an OSError of one line."""
    import distributed

    try:
        yield
    except distributed.KilledWorker as error:
        raise OSError(f"workers die whenever they get the same texts: {error}") from None
    except (ValueError, OSError, MemoryError):
        raise
    except Exception as error:
        raise OSError(f"workers or scheduler failed: {type(error).__name__}: {error}") from None


# What follows runs on workers.

_one_at_a_time = threading.Lock()  # a task uses all threads of its worker


@functools.lru_cache(maxsize=1)
def _loaded(source: _Source) -> Model:
    return load(
        source.path, source.dtype, source.revision,
        offline=source.offline, tokenizer=source.tokenizer, heads=source.heads,
    )  # fmt: skip


def _config(source: _Source) -> ModelConfig:
    with _one_at_a_time:
        return _loaded(source).config


def _check(source: _Source, request: dict[str, Any], indices: Sequence[int]) -> None:
    """Raise what `Model.stream` has to say about a request, without running it."""
    with _one_at_a_time:
        _loaded(source).stream(**request, indices=indices)


def _write(source: _Source, request: dict[str, Any], indices: list[int]) -> _Part:
    with _one_at_a_time:
        _use_threads(source.threads)
        samples = list(_loaded(source).stream(**request, indices=indices))
    return _Part(samples, _Machine(__version__, fastsedd_kernels.cpu_info()))


def _use_threads(threads: int | None) -> None:
    if threads is None:
        from distributed import get_worker

        threads = min(get_worker().state.nthreads, fastsedd_kernels.cpu_info().cores)
    fastsedd_kernels.set_num_threads(threads)
