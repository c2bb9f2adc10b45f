"""The one policy for njit: flags, caching, and word to the user when a compilation starts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numba
from numba.core import event

from fastsedd_kernels._cache import KernelCache, cache_folder

# Products may be contracted to FMA, and nothing else: the vectors are explicit, so no sum needs reordering for speed,
# and tricks of rounding (exp's) stay what they say. NaN and infinity keep their meaning.
FAST_MATH = {"contract"}

_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": FAST_MATH, "error_model": "numpy"}

# A function called from inside kernels: it compiles into each of its callers and is cached with them.
jit: Callable[[Callable[..., Any]], Any] = numba.njit(**_OPTIONS)


def compile_entry(function: Callable[..., Any], signature: Any, *, parallel: bool) -> Any:
    """Compile (or load) `function` for exactly one signature; what does not convert to it is a TypeError.

    One signature an entry keeps first use short: a contiguous, a strided and a read-only array share one compilation.
    """
    dispatcher = numba.njit(parallel=parallel, **_OPTIONS)(function)
    if cache_folder() is not None:
        dispatcher._cache = KernelCache(function)
    dispatcher.compile(signature)
    dispatcher.disable_compile()
    return dispatcher


def compile_symbol(name: str, function: Callable[..., Any], signature: Any) -> None:
    """Compile (or load) `function` once in this process, for kernels to call as the C function `name`.

    Must have happened before code that calls it is compiled or loaded: a name that is not known ends the process.
    """
    with _symbols_lock:
        if name not in _symbols:
            compiled = compile_entry(function, signature, parallel=False).overloads[signature]
            wrapper = compiled.fndesc.llvm_cfunc_wrapper_name
            llvm.add_symbol(name, compiled.library.get_pointer_to_function(wrapper))
            _symbols[name] = compiled  # whose machine code must outlive it


def is_symbol(name: str) -> bool:
    """Whether this process has compiled or loaded that name."""
    return name in _symbols


_symbols: dict[str, Any] = {}
_symbols_lock = threading.Lock()


class _FirstCompilation(event.Listener):  # type: ignore[misc]
    """Calls back once, at the first compilation that no cache could spare."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._lock = threading.Lock()
        self._called = False

    def on_start(self, _event: Any) -> None:
        with self._lock:
            first, self._called = not self._called, True
        if first:
            self._callback()

    def on_end(self, _event: Any) -> None:
        pass


def on_compile(callback: Callable[[], None]) -> None:
    """Call `callback()` once, when the process first has to compile a kernel instead of loading it from the cache."""
    event.register("numba:compile", _FirstCompilation(callback))
