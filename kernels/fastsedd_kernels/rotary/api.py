"""`rotary`: arguments checked and brought into rows, then one call down."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsedd_kernels.norm.kernel import ELEMENTS_PER_TASK
from fastsedd_kernels.rotary.kernel import rotate_rows
from fastsedd_kernels.rotary.table import RotaryTable, rotary_table
from fastsedd_kernels.runtime.arrays import (
    as_array,
    as_finite,
    as_integers,
    as_number,
    check_apart,
    contiguous,
    with_adjacent_elements,
)
from fastsedd_kernels.runtime.capture import run
from fastsedd_kernels.runtime.strided_rows import output_with_adjacent_elements, views_by_row
from fastsedd_kernels.runtime.threads import get_num_threads

_NO_VECTOR = np.empty(0, np.float32)

_table = functools.lru_cache(maxsize=16)(rotary_table)


def rotary(
    x: ArrayLike,
    base: float = 10000.0,
    out: NDArray[np.float32] | None = None,
    *,
    table: RotaryTable | None = None,
    positions: ArrayLike | None = None,
    interleaved: bool = False,
    norm: ArrayLike | None = None,
    eps: float = 1e-6,
    offset: float = 0.0,
) -> NDArray[np.float32]:
    """Rotate queries or keys by their positions; with `norm`, RMS-normed per head before, in the same pass.

    x : float32 [..., heads, length, dim], dim even; rows of dim may lie anywhere, their elements adjacent, else copied
    base : theta, of the angles position * base^(-2 i / dim), where no table is given
    out : float32 of x's shape, rows anywhere, their elements adjacent; may be x
    table : from `rotary_table`: other lengths, scalings, and widths; elements beyond its width are not rotated
    positions : integers [length], or [batch..., length] that broadcasts to x without heads and dim, below the table's
        length; 0 to length - 1 if None. They need a table.
    interleaved : pairs are neighbours, (2 i, 2 i + 1), as in GPT-J; else (i, width / 2 + i), as in Llama and GPT-NeoX
    norm : float32 [dim], the weight of `rms_norm`, whose eps and offset are the last two
    Raises ValueError for a wrong dtype or shape, or a position out of range, naming the argument.
    Source: Su et al. 2021; norms of queries and keys: Henry et al. 2020, in this form Qwen3's.
    """
    x = as_array("x", x)
    if x.ndim < 3 or x.shape[-1] % 2:
        raise ValueError(f"x has shape {x.shape}, must be [..., heads, length, dim] with an even dim")
    if not isinstance(interleaved, (bool, np.bool_)):
        raise ValueError(f"interleaved is of type {type(interleaved).__name__}, allowed: True, False")
    out = output_with_adjacent_elements("out", out, x.shape)
    weight = _NO_VECTOR if norm is None else contiguous(as_array("norm", norm))
    if norm is not None and weight.shape != x.shape[-1:]:
        raise ValueError(f"norm has shape {weight.shape}, must be {x.shape[-1:]}")
    normed = (weight, np.float32(as_finite("offset", offset)), np.float32(as_number("eps", eps, or_zero=True)))
    angles = _angles(table, x, as_number("base", base))
    places = _places(positions, table, angles, x.shape)
    if x.size == 0:
        return out
    x = with_adjacent_elements(x)
    check_apart(out, in_place=True, x=x)
    check_apart(out, norm=weight, positions=places, table=angles.cosines)
    check_apart(out, table=angles.sines)
    for source, target, rows in views_by_row(x, out, places):
        tasks = max(1, min(get_num_threads(), source.size // ELEMENTS_PER_TASK))
        rotate_rows(tasks, source, rows, tuple(angles), normed, bool(interleaved), target, tasks)
    return out


def _angles(table: RotaryTable | None, x: NDArray[np.float32], base: float) -> RotaryTable:
    """The table given, checked, or the one of that base for all of x's positions and elements."""
    if table is None:
        return _table(max(1, x.shape[-2]), max(2, x.shape[-1]), base)
    if not (isinstance(table, tuple) and len(table) == 2):
        raise ValueError(f"table is of type {type(table).__name__}, must be what rotary_table returns")
    cosines, sines = (contiguous(as_array("table", part)) for part in table)
    if cosines.ndim != 2 or cosines.shape != sines.shape or 2 * cosines.shape[1] > x.shape[-1] or cosines.size == 0:
        raise ValueError(f"table has {cosines.shape} and {sines.shape}, must be [positions, width / 2], width <= dim")
    return RotaryTable(cosines, sines)


def _places(
    positions: ArrayLike | None, table: RotaryTable | None, angles: RotaryTable, shape: tuple[int, ...]
) -> NDArray[np.intp]:
    """The position of each row of x, intp [..., heads, length, 1]: a view of far fewer."""
    length, allowed = shape[-2], len(angles.cosines)
    if positions is None:
        if length > allowed:
            raise ValueError(f"table has {allowed} positions, x {length}")
        return _in_order(shape)
    if table is None:
        raise ValueError("positions need a table, from rotary_table")
    indices, wanted = as_integers("positions", positions), (*shape[:-3], length)
    lacking = len(wanted) - indices.ndim
    if lacking < 0 or any(size not in (1, full) for size, full in zip(indices.shape, wanted[lacking:], strict=True)):
        raise ValueError(f"positions has shape {indices.shape}, must broadcast to {wanted}")
    if indices.size:
        run(_check_range, indices, allowed)
    return _repeated(contiguous(indices, np.intp), shape)


@functools.lru_cache(maxsize=64)
def _in_order(shape: tuple[int, ...]) -> NDArray[np.intp]:
    """0, 1, 2, ... along the length of rows of that shape."""
    return _repeated(np.arange(shape[-2]), shape)


def _repeated(places: NDArray[np.intp], shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Places [..., length], contiguous, as [..., heads, length, 1]. (numpy.broadcast_to takes ten times as long.)"""
    strides = [0 if size == 1 else stride for size, stride in zip(places.shape, places.strides, strict=True)] or [0]
    batches = len(shape) - 3
    leading = (0,) * (batches + 1 - len(strides)) + tuple(strides[:-1])
    return np.ndarray((*shape[:-1], 1), np.intp, places, 0, (*leading, 0, strides[-1], 0))


def _check_range(positions: NDArray[Any], allowed: int) -> None:
    least, most = int(positions.min()), int(positions.max())
    if least < 0 or most >= allowed:
        raise ValueError(f"positions has {least if least < 0 else most}, allowed: 0 to {allowed - 1}")
