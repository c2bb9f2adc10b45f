"""Kernels: bodies that compute one task, compiled on first use, their tasks shared out among threads.

A kernel's body computes one task. Its entry holds no GIL and runs a range of tasks, or keeps all of them as one step of
a parallel region's program (`program`, `threads`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from numba import types
from numba.core.compiler_lock import global_compiler_lock

from fastsedd_kernels.runtime.capture import is_recording, run
from fastsedd_kernels.runtime.jit import address_of, compile_entry
from fastsedd_kernels.runtime.program import run_in_region
from fastsedd_kernels.runtime.threads import check, compile_region, get_num_threads, run_on_pool
from fastsedd_kernels.runtime.trampoline import keep_call, run_tasks

# Its own names start with an underscore, so that a body's parameters may have any name.
_ENTRY = """
def {name}_entry(_body, _place, _first, _last, {parameters}):
    if _place != 0:
        return keep_call(_body, _place, ({parameters},))
    return run_tasks(_body, _first, _last, ({parameters},))
"""
_LEADING = (types.uintp, types.uintp, types.intp, types.intp)


class Kernel:
    """A task body, compiled on first use, called as `kernel(tasks, *arguments)`.

    body : njit-able f(task, *arguments), which must write only what belongs to its task
    signature : Numba types of the arguments after `task`
    link : makes known what the body calls by name, if anything (`jit.compile_symbol`)
    name : in a profile; several kernels that are one to their caller share it
    """

    def __init__(
        self,
        body: Callable[..., None],
        signature: tuple[Any, ...],
        link: Callable[[], None] | None = None,
        name: str | None = None,
    ) -> None:
        self.__doc__ = body.__doc__
        self.name = name or body.__name__
        self._body = body
        self._signature = signature
        self._link = link
        self._code: Any = None  # of the body; the entry knows its address only
        self._entry: Callable[..., int] | None = None

    def __call__(self, tasks: int, *arguments: Any) -> None:
        if tasks == 1 and not is_recording():  # of a small product, whose calls are to cost little
            check((self._entry or self.compile())(0, 0, 1, *arguments))
        else:
            run(self.share_out, tasks, *arguments)

    def share_out(self, tasks: int, *arguments: Any) -> None:
        """Run the tasks, on several threads where that may be, without taking the call down."""
        entry = self.compile()
        threads = min(get_num_threads(), tasks)
        if threads > 1 and (
            run_in_region(threads, (self, tasks, arguments)) or run_on_pool(entry, tasks, threads, arguments)
        ):
            return
        check(entry(0, 0, tasks, *arguments))

    def keep(self, place: int, tasks: int, *arguments: Any) -> tuple[int, int, int]:
        """One step of a region's program: this call, kept in KEPT_BYTES at `place`. The arrays must outlive it."""
        return self.compile()(place, 0, 0, *arguments), place, tasks

    def compile(self) -> Callable[..., int]:
        """Compile body and entry, or load them from the cache, without running them; the entry."""
        if self._entry is not None:
            return self._entry
        with global_compiler_lock:
            if self._entry is None:
                if self._link is not None:
                    self._link()
                self._code = compile_entry(self._body, (types.intp, *self._signature), called_from="kernels")
                entry = compile_entry(self._written_out(), (*_LEADING, *self._signature))
                self._entry = functools.partial(entry, address_of(self._code))
        return self._entry

    def body_address(self) -> int:
        """Address of the compiled body, for code of Numba's calling convention (`trampoline.run_tasks`)."""
        self.compile()
        return address_of(self._code)

    def _written_out(self) -> Any:
        """The entry as source, with the body's parameters: Numba takes no *arguments."""
        body = self._body
        parameters = ", ".join(list(inspect.signature(body).parameters)[1:])
        namespace = {"run_tasks": run_tasks, "keep_call": keep_call, "__name__": body.__module__}
        source = _ENTRY.format(name=body.__name__, parameters=parameters)
        exec(compile(source, body.__code__.co_filename, "exec"), namespace)
        return namespace[f"{body.__name__}_entry"]


_kernels: list[Kernel] = []


def kernel(
    *signature: Any, link: Callable[[], None] | None = None, name: str | None = None
) -> Callable[[Callable[..., None]], Kernel]:
    """Make a task body a Kernel: `@kernel(types of the arguments after task)`."""

    def decorate(body: Callable[..., None]) -> Kernel:
        made = Kernel(body, signature, link, name)
        _kernels.append(made)
        return made

    return decorate


def compile_all(progress: Callable[[int, int], None] | None = None) -> None:
    """Compile every kernel for this CPU, or load it from the cache; `progress(done, total)` is called after each."""
    compile_region()
    for done, each in enumerate(_kernels, start=1):
        each.compile()
        if progress is not None:
            progress(done, len(_kernels))
