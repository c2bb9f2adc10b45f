"""Array arguments of public kernels: conversion and checks, with messages that name the argument."""

from __future__ import annotations

import ctypes
import math
import numbers
import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastsedd_kernels.runtime.capture import run
from fastsedd_kernels.runtime.machines import CACHE_LINE, CROWDED

_FLOAT32 = (np.dtype(np.float32),)

_MAX_WORK = 10_000  # of the search for an element that two arrays share


def as_array(name: str, value: ArrayLike, *dtypes: DTypeLike) -> NDArray[Any]:
    """`value` as a NumPy array of one of `dtypes` (float32 if none is given), without a copy where it is one already.

    NumPy arrays, anything with `__array__` or DLPack on the CPU, and nested lists of numbers come in; lists and
    Python numbers become the first dtype. Elements that do not lie at multiples of their size are copied. Raises
    ValueError for another dtype: silent conversions cost a copy per call; and for what gives no such array: a tensor on
    another device, or one that requires a gradient.
    """
    if type(value) is np.ndarray and value.dtype in (dtypes or _FLOAT32) and value.flags.aligned:
        return value  # the usual case, without a detour
    allowed = [np.dtype(dtype) for dtype in dtypes] or [np.dtype(np.float32)]
    array = _read(name, value, allowed[0])
    if array.dtype not in allowed:
        raise ValueError(f"{name} has dtype {array.dtype}, allowed: {', '.join(str(dtype) for dtype in allowed)}")
    return array if array.flags.aligned else copied(array, array.dtype)


def as_integers(name: str, value: ArrayLike) -> NDArray[Any]:
    """`value` as a NumPy array of integers of any size, as `as_array`. Raises ValueError for anything else."""
    array = _read(name, value, None)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} is {array.dtype} {array.shape}, must be integers")
    return array


def as_integer(name: str, value: Any, least: int, most: int, allowed: str) -> int:
    """A whole number from `least` to `most`, which `allowed` puts into words. Raises ValueError for anything else."""
    if not isinstance(value, (int, np.integer)) or not least <= value <= most:
        raise ValueError(f"{name} is {_in_words(value)}, allowed: {allowed}")
    return int(value)


def as_number(name: str, value: Any, *, or_zero: bool = False) -> float:
    """A finite number above 0, or 0 if that may be. Raises ValueError for anything else."""
    if type(value) is float and 0.0 < value < math.inf:
        return value  # the usual case, without a detour
    number = float(value) if isinstance(value, numbers.Real) else math.nan
    if not (0 < number < math.inf or (or_zero and number == 0)):
        raise ValueError(f"{name} is {_in_words(value)}, allowed: {'0 or ' if or_zero else ''}above 0, finite")
    return number


def as_finite(name: str, value: Any) -> float:
    """A finite number. Raises ValueError for anything else."""
    if type(value) is float and math.isfinite(value):
        return value  # the usual case, without a detour
    number = float(value) if isinstance(value, numbers.Real) else math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} is {_in_words(value)}, allowed: any finite number")
    return number


def _in_words(value: Any) -> str:
    """A number, or what else there is: its type."""
    return str(value) if isinstance(value, numbers.Number) else f"of type {type(value).__name__}"


def _read(name: str, value: Any, dtype: DTypeLike | None) -> NDArray[Any]:
    """Anything as an array; what has no dtype of its own gets that one. Raises ValueError with the name."""
    try:
        if isinstance(value, (list, tuple, int, float)):
            return np.asarray(value, dtype=dtype)
        if not hasattr(value, "__array__") and hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
        return np.asarray(value)
    except (TypeError, ValueError, OverflowError, BufferError, RuntimeError) as error:  # whatever the owner raises
        raise ValueError(
            f"{name} is {type(value).__name__}, which cannot be converted to a NumPy array: "
            f"{' '.join(str(error).split())}"
        ) from error


def contiguous(array: NDArray[Any], dtype: DTypeLike | None = None) -> NDArray[Any]:
    """The array itself if it is C-contiguous and of that dtype, else a copy: made anew with each replay."""
    if array.flags.c_contiguous and array.flags.aligned and (dtype is None or array.dtype == dtype):
        return array
    return copied(array, array.dtype if dtype is None else dtype)


def copied(array: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """A C-contiguous copy of that dtype: made anew with each replay."""
    copy = np.empty(array.shape, dtype)
    run(operator.setitem, copy, ..., array)
    return copy


def as_rows(array: NDArray[Any]) -> NDArray[Any]:
    """[..., N] as [rows, N]: a view where the strides allow one."""
    if array.ndim == 2:
        return array
    return _rows(array if _is_rows(array) else contiguous(array))


def with_adjacent_elements(array: NDArray[Any]) -> NDArray[Any]:
    """The array itself if neighbours along its last dimension are adjacent, else a copy: made anew with each replay."""
    return array if array.strides[-1] == array.itemsize else contiguous(array)


def aligned_empty(shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """numpy.empty, but from a cache line's edge on: kernels read and write such arrays up to a tenth faster.

    The memory begins before that: what kernels read just before an array is there.

    Raises ValueError for a negative size and for Python objects.
    """
    dtype = np.dtype(dtype)
    if dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError(f"shape is {shape} and dtype is {dtype}, allowed: sizes of 0 or more, of numbers")
    memory = np.empty(math.prod(shape) * dtype.itemsize + CACHE_LINE, np.uint8)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory.data))  # four times as fast as to ask NumPy
    return np.ndarray(shape, dtype, memory, CACHE_LINE - address % CACHE_LINE)


def padded_empty(shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """`aligned_empty`, with a cache line behind each row where rows would else lie a multiple of 4,096 bytes apart.

    Such rows share few sets of the first-level cache: `linear` has to copy them before it can read them at full speed.
    Raises ValueError as `aligned_empty`, and for a shape of no dimensions.
    """
    if len(shape) == 0:
        raise ValueError(f"shape is {shape}, allowed: [..., N]")
    *lead, width = shape
    padding = CACHE_LINE // np.dtype(dtype).itemsize if width * np.dtype(dtype).itemsize % CROWDED == 0 else 0
    return aligned_empty((*lead, width + padding), dtype)[..., :width]


def as_output(name: str, out: Any) -> NDArray[Any]:
    """`out` as an array of its own memory: itself, or that of a CPU tensor. ValueError if it gives none to write."""
    if isinstance(out, np.ndarray):
        array: NDArray[Any] = out
    else:
        array = _read(name, out, None)
        if array.flags.owndata:  # a copy, which nobody would see written
            raise ValueError(f"{name} is {type(out).__name__}, must be a NumPy array, or share its memory as one")
    if not array.flags.writeable:
        raise ValueError(f"{name} must be writable")
    return array


def output_like(
    name: str, out: NDArray[Any] | None, shape: tuple[int, ...], dtype: DTypeLike = np.float32
) -> NDArray[Any]:
    """A new array of that shape and dtype, or `out` if it is one: C-contiguous and writable. Else ValueError."""
    out = strided_output_like(name, out, shape, dtype)
    if not out.flags.c_contiguous:
        raise ValueError(f"{name} must be C-contiguous")
    return out


def output_rows_like(name: str, out: NDArray[Any] | None, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """`output_like` for rows that may be padded: equally far apart, their elements adjacent."""
    array = strided_output_like(name, out, shape)
    if not (_is_rows(array) and (array.flags.c_contiguous or array.strides[-1] == array.itemsize)):
        raise ValueError(f"{name} must have adjacent elements in a row, and rows that are equally far apart")
    return array


def _rows(array: NDArray[Any]) -> NDArray[Any]:
    return array.reshape(-1, array.shape[-1])


def _is_rows(array: NDArray[Any]) -> bool:
    """True if the rows of [..., N] are equally far apart, so that [rows, N] is a view of it."""
    return array.flags.c_contiguous or np.may_share_memory(_rows(array), array)


def strided_output_like(
    name: str, out: NDArray[Any] | None, shape: tuple[int, ...], dtype: DTypeLike = np.float32
) -> NDArray[Any]:
    """`output_like` for any strides that lead to different elements."""
    if out is None:
        return aligned_empty(shape, dtype)
    if type(out) is np.ndarray and out.flags.carray and out.shape == shape and out.dtype == dtype:
        return out  # the usual case, without a detour
    array = as_output(name, out)
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{name} is {array.dtype} {array.shape}, must be {np.dtype(dtype)} {shape}")
    own = all(stride != 0 or size <= 1 for stride, size in zip(array.strides, shape, strict=True))
    if not (array.flags.aligned and own):
        raise ValueError(f"{name} must have elements of its own, at multiples of {array.itemsize} bytes")
    return array


def check_apart(out: NDArray[Any], *, in_place: bool = False, called: str = "out", **inputs: NDArray[Any]) -> None:
    """Raise ValueError where `out` shares an element with an input; in_place: an input may be `out` itself.

    called : its name
    """
    for name, array in inputs.items():
        if array.size == 0 or not np.may_share_memory(out, array):
            continue
        if _overlap(out, array) and not (in_place and _is_same(out, array)):
            itself = f" without being {name}" if in_place else ""
            raise ValueError(f"{called} overlaps {name}{itself}, which is still being read when {called} is written")


def _overlap(a: NDArray[Any], b: NDArray[Any]) -> bool:
    try:
        return np.shares_memory(a, b, max_work=_MAX_WORK)  # type: ignore[arg-type] # its stub knows two values
    except np.exceptions.TooHardError:
        return True


def _is_same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """True if equal places of the flattened arrays are one element."""
    return (a.ctypes.data, a.size, a.dtype) == (b.ctypes.data, b.size, b.dtype) and (
        a.strides == b.strides if a.shape == b.shape else a.flags.c_contiguous and b.flags.c_contiguous
    )


def groups_of_rows(name: str, value: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Broadcast to `shape` = [..., N], as [G, N]: one row for each of G equal runs of the shape's rows.

    A value that is constant over a sample's rows ([batch, 1, N]) is not repeated for each of them.
    Raises ValueError if it does not broadcast.
    """
    array = as_array(name, value)
    padded = (1,) * (len(shape) - array.ndim) + array.shape
    if len(padded) != len(shape) or any(size not in (1, full) for size, full in zip(padded, shape, strict=True)):
        raise ValueError(f"{name} has shape {array.shape}, must broadcast to {shape}")
    varying = [axis + 1 for axis in range(len(shape) - 1) if padded[axis] != 1]
    distinct = max(varying, default=0)  # it varies along the dimensions before this one only
    groups = (*shape[:distinct], shape[-1])
    if padded[:distinct] + padded[-1:] != groups:
        array = np.broadcast_to(array.reshape(*padded[:distinct], padded[-1]), groups)
    return contiguous(array).reshape(math.prod(shape[:distinct]), shape[-1])
