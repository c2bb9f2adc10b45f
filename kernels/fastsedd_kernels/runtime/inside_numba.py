"""The public functions inside the user's own njit functions: the same kernels, on the thread that calls them.

    @numba.njit(parallel=True)
    def network(x, w, out):
        for b in numba.prange(len(x)):
            fk.linear(x[b], w, activation="gelu", out=out[b])

No kernel starts threads here: they are the caller's to share out, with prange or without the GIL. So nothing waits for
a lock, and a loop over threads stays one. The body that this library compiles once and caches is called by its address:
it adds little to the caller's compile time. The address is this process's, so Numba does not cache functions that hold
one (`cache=True` then says so and compiles anew). Dtypes and numbers of dimensions are checked when the caller is
compiled, shapes when it runs: ValueError, as outside.
Here is what the overloads of all ops share; each op has its own in its `overloads.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import float32, types
from numba.core.errors import TypingError
from numba.extending import intrinsic, overload, register_jitable

from fastsedd_kernels.runtime.kernel import Kernel
from fastsedd_kernels.runtime.scalar import INDEX
from fastsedd_kernels.runtime.trampoline import run_tasks


def caller(kernel: Kernel) -> Any:
    """An njit function of (tasks, arguments), which runs all tasks of the kernel, one after the other."""

    @intrinsic
    def address(typing_context: Any) -> Any:
        place = kernel.body_address()

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.ptrtoint(context.add_dynamic_addr(builder, place, kernel.name), INDEX)

        return types.uintp(), codegen

    @register_jitable
    def call(tasks: int, arguments: Any) -> None:
        if run_tasks(address(), 0, tasks, arguments) > 0:
            raise MemoryError("no memory for the scratch space of a kernel")

    return call


def is_absent(kind: Any) -> bool:
    return kind is None or (isinstance(kind, (types.NoneType, types.Omitted)) and getattr(kind, "value", None) is None)


def constant(name: str, kind: Any, allowed: tuple[Any, ...]) -> Any:
    """The value of an argument that must be known when the caller is compiled."""
    value = None if is_absent(kind) else getattr(kind, "literal_value", getattr(kind, "value", kind))
    if value not in allowed:
        raise TypingError(f"{name} is {value!r}, allowed, as constants: {', '.join(map(repr, allowed))}")
    return value


def require(name: str, kind: Any, dimensions: tuple[int, ...], *dtypes: Any, optional: bool = False) -> None:
    if optional and is_absent(kind):
        return
    wanted = dtypes or (float32,)
    if not isinstance(kind, types.Array) or kind.dtype not in wanted or kind.ndim not in dimensions:
        counts = " or ".join(str(count) for count in dimensions)
        raise TypingError(f"{name} is {kind}, must be {' or '.join(map(str, wanted))} of {counts} dimensions")


def implements(function: Callable[..., Any]) -> Any:
    return overload(function, prefer_literal=True)


@register_jitable
def as_given(value: Any) -> Any:
    return value


@register_jitable
def in_whole_elements(matrix: Any) -> Any:
    """The matrix itself. ValueError where its elements are not multiples of their size apart, as fields may be."""
    if matrix.strides[0] % matrix.itemsize != 0 or matrix.strides[1] % matrix.itemsize != 0:
        raise ValueError("rows and elements of a matrix must be multiples of an element's size apart")
    return matrix


def or_empty(kind: Any, dimensions: int) -> Any:
    """The argument, C-contiguous, or an empty array of that many dimensions where it is absent, as kernels have it."""
    shape = (0,) * dimensions
    if is_absent(kind):
        return register_jitable(lambda value: np.empty(shape, np.float32))
    return register_jitable(lambda value: np.ascontiguousarray(value))


def or_new(kind: Any, dtype: Any) -> Any:
    """An njit function of (out, shape): out, checked, or a new array."""
    if is_absent(kind):
        return register_jitable(lambda out, shape: np.empty(shape, dtype))

    @register_jitable
    def checked(out: Any, shape: Any) -> Any:
        if out.shape != shape:
            raise ValueError("out has another shape than the result")
        return out

    return checked


def require_out(kind: Any, dimensions: tuple[int, ...], dtype: Any = float32, *, called: str = "out") -> None:
    require(called, kind, dimensions, dtype, optional=True)
    if not is_absent(kind) and (not kind.mutable or kind.layout != "C"):
        raise TypingError(f"{called} is {kind}, must be C-contiguous and writable")
