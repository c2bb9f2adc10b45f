"""The one policy for njit: flags, caching, and word to the user when a compilation starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import llvmlite.binding as llvm
import numba
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import CPUDispatcher

from fastsedd_kernels.runtime.cache import KernelCache, cache_folder

# Products may be contracted to FMA, and nothing else: the vectors are explicit, so no sum needs reordering for speed,
# and tricks of rounding (exp's) stay what they say. NaN and infinity keep their meaning.
FAST_MATH = {"contract"}

_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": FAST_MATH, "error_model": "numpy"}

# In a parallel function only prange is: Numba would make a region of its own of each array that is filled.
_PARALLEL = {
    "prange": True, "numpy": False, "setitem": False, "reduction": False, "comprehension": False, "stencil": False,
    "inplace_binop": False, "fusion": False,
}  # fmt: skip

# How a compiled function may be called beside Numba's own way; each way that it does not need saves compile time.
_CALLED_FROM: dict[str, dict[str, Any]] = {
    "kernels": {"no_cpython_wrapper": True, "no_cfunc_wrapper": True},
    "C": {"no_cpython_wrapper": True},
    "Python": {"no_cfunc_wrapper": True},
}


class _InternalDispatcher(CPUDispatcher):  # type: ignore[misc]
    """The dispatcher of a function without a wrapper for Python: a call would end the process, and raises instead."""

    def __call__(self, *arguments: Any) -> None:
        raise TypeError(f"{self.__name__} is for kernels only: call it from an njit function")


def jit(function: Callable[..., Any]) -> Any:
    """Make a function one that is called from inside kernels: it compiles into each of them and is cached with them."""
    return _internal(function, forceinline=False)


def inlined(function: Callable[..., Any]) -> Any:
    """`jit`, and its code becomes part of each caller's: handing over a tuple of arrays takes as long as a loop."""
    return _internal(function, inline="always")


def _internal(function: Callable[..., Any], **options: Any) -> Any:
    dispatcher = numba.njit(**_OPTIONS, **_CALLED_FROM["kernels"], **options)(function)
    dispatcher.__class__ = _InternalDispatcher
    return dispatcher


# For `overload`: what replaces a function inside kernels is compiled as they are.
OVERLOAD: dict[str, Any] = {"strict": False, "jit_options": {**_OPTIONS, **_CALLED_FROM["kernels"]}}
INLINED_OVERLOAD: dict[str, Any] = {**OVERLOAD, "jit_options": {**OVERLOAD["jit_options"], "forceinline": True}}


def compile_entry(
    function: Callable[..., Any], signature: Any, *, parallel: bool = False, called_from: str = "Python"
) -> Any:
    """Compile (or load) `function` for exactly one signature; what does not convert to it is a TypeError.

    called_from : "Python", "C", or "kernels", which know its address
    One signature an entry keeps first use short: a contiguous, a strided and a read-only array share one compilation.
    """
    options = _OPTIONS | _CALLED_FROM[called_from]
    dispatcher = numba.njit(parallel=_PARALLEL if parallel else False, **options)(function)
    with KernelCache(function, cache_folder(), _tell) as cache:
        dispatcher._cache = cache
        dispatcher.compile(signature)
    dispatcher.disable_compile()
    _entries.append(dispatcher)
    return dispatcher


def assembly() -> Iterator[str]:
    """The machine code of each entry that this process has compiled, as text, for tests to look at."""
    for entry in _entries:
        yield from entry.inspect_asm().values()


def address_of(entry: Any, *, for_c: bool = False) -> int:
    """Address of the machine code of a `compile_entry`: a function of Numba's calling convention, or of C's.

    Valid for as long as the entry is kept.
    """
    (compiled,) = entry.overloads.values()
    name = compiled.fndesc.llvm_cfunc_wrapper_name if for_c else compiled.fndesc.llvm_func_name
    return int(compiled.library.get_pointer_to_function(name))


def compile_symbol(name: str, function: Callable[..., Any], signature: Any, *, parallel: bool = False) -> int:
    """Compile (or load) `function` once in this process, for kernels to call as the C function `name`; its address.

    Must have happened before code that calls it is compiled or loaded: a name that is not known ends the process.
    """
    with global_compiler_lock:
        if name not in _symbols:
            compiled = compile_entry(function, signature, parallel=parallel, called_from="C")
            address = address_of(compiled, for_c=True)
            llvm.add_symbol(name, address)
            _symbols[name] = compiled, address  # whose machine code must outlive it
        return _symbols[name][1]


def is_symbol(name: str) -> bool:
    """True if this process has compiled or loaded that name."""
    return name in _symbols


_entries: list[Any] = []
_symbols: dict[str, tuple[Any, int]] = {}


def on_compile(callback: Callable[[], None]) -> None:
    """Call `callback()` once, when the process first has to compile a kernel instead of loading it from the cache.

    Another process that compiles it, and for which this one waits, counts as well.
    """
    _to_be_told.append(callback)


_to_be_told: list[Callable[[], None]] = []


def _tell() -> None:
    while _to_be_told:
        _to_be_told.pop()()
