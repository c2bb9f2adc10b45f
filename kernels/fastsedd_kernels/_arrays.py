"""What public kernels accept: conversion and checks of array arguments, with messages that name the argument."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastsedd_kernels._simd import CACHE_LINE
from fastsedd_kernels.recording import run

_FLOAT32 = np.dtype(np.float32)


def as_array(name: str, value: ArrayLike, *dtypes: DTypeLike) -> NDArray[Any]:
    """`value` as a NumPy array of one of `dtypes` (float32 if none is given), without a copy where it is one already.

    NumPy arrays, anything with `__array__` or DLPack on the CPU, and nested lists of numbers come in; lists and
    Python numbers become the first dtype. Raises ValueError for another dtype: silent conversions cost a copy a call;
    and for what gives no such array: a tensor on another device, or one that requires a gradient.
    """
    if type(value) is np.ndarray and value.dtype == _FLOAT32 and not dtypes:
        return value  # the usual case, without a detour
    allowed = [np.dtype(dtype) for dtype in dtypes] or [np.dtype(np.float32)]
    if isinstance(value, (list, tuple, int, float)):
        return np.asarray(value, dtype=allowed[0])
    array = _exported(name, value)
    if array.dtype not in allowed:
        raise ValueError(f"{name} has dtype {array.dtype}, allowed: {', '.join(str(dtype) for dtype in allowed)}")
    return array


def _exported(name: str, value: ArrayLike) -> NDArray[Any]:
    try:
        if not hasattr(value, "__array__") and hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)  # type: ignore[arg-type]
        return np.asarray(value)
    except (BufferError, RuntimeError, TypeError) as error:  # each library's own way to say no
        raise ValueError(f"{name} is {type(value).__name__}, which gives no NumPy array: {error}") from error


def contiguous(array: NDArray[Any], dtype: DTypeLike | None = None) -> NDArray[Any]:
    """The array itself if it is C-contiguous and of that dtype, else a copy: made anew with each replay."""
    if array.flags.c_contiguous and (dtype is None or array.dtype == dtype):
        return array
    copy = np.empty(array.shape, array.dtype if dtype is None else dtype)
    run(operator.setitem, copy, ..., array)
    return copy


def as_rows(array: NDArray[Any]) -> NDArray[Any]:
    """[..., N] as [rows, N]: a view where the strides allow one."""
    rows = array.reshape(-1, array.shape[-1])
    return rows if np.may_share_memory(rows, array) else contiguous(array).reshape(rows.shape)


def aligned_empty(shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """numpy.empty, but from a cache line's edge on: kernels read and write such arrays up to a tenth faster."""
    dtype = np.dtype(dtype)
    count = math.prod(shape)
    memory = np.empty(count * dtype.itemsize + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    return memory[start : start + count * dtype.itemsize].view(dtype).reshape(shape)


def as_output(name: str, out: Any) -> NDArray[Any]:
    """`out` as an array of its own memory: itself, or that of a CPU tensor. ValueError if it gives none to write."""
    if isinstance(out, np.ndarray):
        array: NDArray[Any] = out
    else:
        array = _exported(name, out)
        if array.flags.owndata:  # a copy, which nobody would see written
            raise ValueError(f"{name} is {type(out).__name__}, must be a NumPy array, or share its memory as one")
    if not array.flags.writeable:
        raise ValueError(f"{name} must be writable")
    return array


def output_like(
    name: str, out: NDArray[Any] | None, shape: tuple[int, ...], dtype: DTypeLike = np.float32
) -> NDArray[Any]:
    """A new array of that shape and dtype, or `out` if it is one: C-contiguous and writable. Else ValueError."""
    if out is None:
        return aligned_empty(shape, dtype)
    array = as_output(name, out)
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{name} is {array.dtype} {array.shape}, must be {np.dtype(dtype)} {shape}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} must be C-contiguous")
    return array


def groups_of_rows(name: str, value: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """What broadcasts to `shape` = [..., N], as [G, N]: one row of it for each of G equal runs of the shape's rows.

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
