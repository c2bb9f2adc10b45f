"""Rows of arrays of any strides, for kernels that take each row alone: views of four dimensions, and pointers to rows.

A kernel sees [A, B, C, N], whatever the strides are: C rows at a time that are equally far apart. The dimensions come
in the order in which they lie in memory, so that a projection's heads, viewed as [batch, heads, length, dim], are
read as they were written.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastsedd_kernels.runtime.arrays import strided_output_like
from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.runtime.scalar import beyond, pointer

NO_ROWS = np.empty((0, 0, 0, 0), np.float32)  # stands for an absent array


def views_by_row(*arrays: NDArray[Any]) -> Iterator[tuple[NDArray[Any], ...]]:
    """Views [A, B, C, N] of arrays [..., N] with the same leading dimensions; NO_ROWS stays as it is.

    The order is that of the first array's memory. More than three leading dimensions give several views of each.
    """
    first = arrays[0]
    # Lists: as generators, these would take half of the time of a small call.
    if all([array.flags.c_contiguous for array in arrays]):  # noqa: C419
        yield tuple([array if array is NO_ROWS else array.reshape(1, 1, -1, array.shape[-1]) for array in arrays])
        return
    leading, order = first.ndim - 1, _by_memory(first.strides)
    if order:
        arrays = tuple([array if array is NO_ROWS else array.transpose(order) for array in arrays])
    if leading <= 3:  # the usual case, without a detour
        missing = (None,) * (3 - leading)
        yield arrays if leading == 3 else tuple([array if array is NO_ROWS else array[missing] for array in arrays])
        return
    for place in np.ndindex(*arrays[0].shape[: leading - 3]):
        yield tuple([array if array is NO_ROWS else array[place] for array in arrays])


@functools.lru_cache(256)
def _by_memory(strides: tuple[int, ...]) -> tuple[int, ...]:
    """The dimensions of an array with these strides, the last of which stays, in memory's order; () if they are so."""
    leading = range(len(strides) - 1)
    order = sorted(leading, key=lambda axis: -abs(strides[axis]))
    return () if order == list(leading) else (*order, len(strides) - 1)


def output_with_adjacent_elements(
    name: str, out: NDArray[np.float32] | None, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """A new array, or `out` if it is one of that shape whose rows, however far apart, hold adjacent elements."""
    out = strided_output_like(name, out, shape)
    if out.size > 0 and out.strides[-1] != out.itemsize:
        raise ValueError(f"{name} must have adjacent elements in a row")
    return out


class Run(NamedTuple):
    """Rows that are equally far apart: a pointer to the first one, and bytes from row to row."""

    pointer: Any
    step: Any


@jit
def place_of(row: int, shape: Any) -> Any:
    """(a, b, c): where that row of [A, B, C, N] is."""
    outer, c = row // shape[2], row % shape[2]
    return outer // shape[1], outer % shape[1], c


@jit
def place_after(place: Any, count: int, shape: Any) -> Any:
    """The place `count` rows on, no further than the next C rows' first. (A division takes as long as a short row.)"""
    a, b, c = place
    if c + count < shape[2]:
        return a, b, c + count
    return (a, b + 1, 0) if b + 1 < shape[1] else (a + 1, 0, 0)


@jit
def rows_from(array: Any, place: Any) -> Any:
    """The Run from the row at a place of an array on; of an empty one, which is not followed, from its start."""
    (a, b, c), strides = place, array.strides
    return Run(beyond(pointer(array, 0), a * strides[0] + b * strides[1] + c * strides[2]), strides[2])


@jit
def row_of(run: Any, i: int) -> Any:
    """Pointer to the i-th row of a Run."""
    return beyond(run.pointer, i * run.step)
