"""Large matrices part by part: all of one in float32 takes several times the memory of what becomes of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import fastsedd_kernels as fk
import numpy as np
from numpy.typing import NDArray

AT_ONCE = 8 << 20  # bytes of float32 in a part, about


def spans(shape: tuple[int, ...], multiple: int = 1) -> Iterator[tuple[int, int]]:
    """First row and end of each part of a matrix, all but the last of a multiple of rows."""
    rows, width = shape
    step = max(1, AT_ONCE // (4 * width * multiple)) * multiple
    for first in range(0, rows, step):
        yield first, min(first + step, rows)


def packed(
    part: Callable[[int, int], fk.PackedWeight], shape: tuple[int, int], dtype: str, *, paired: bool = False
) -> fk.PackedWeight:
    """A weight of parts that are packed one after the other: the same bits as packed in one.

    part(first, last) : packs these rows, of each of the two of a pair
    shape : of the whole, or of each of the two; dtype : as it is packed
    """
    cut = list(spans(shape, _rows_together(dtype) // (2 if paired else 1)))
    first = part(*cut[0])
    if len(cut) == 1:
        return first
    per_panel = _per_panel(first)
    panels = -(-shape[0] * (2 if paired else 1) // first.panels.shape[2])
    whole = [
        fk.aligned_empty((panels * len(each) // len(first.panels), *each.shape[1:]), each.dtype) for each in per_panel
    ]
    filled = 0
    for span in cut:
        made = first if filled == 0 else part(*span)
        for target, source in zip(whole, _per_panel(made), strict=True):
            begin = filled * len(source) // len(made.panels)
            target[begin : begin + len(source)] = source
        filled += len(made.panels)
    for array in whole:
        array.flags.writeable = False
    rest = first.quantisation[len(per_panel) - 1 :]
    return replace(first, panels=whole[0], shape=shape, quantisation=(*whole[1:], *rest))


@functools.lru_cache
def _rows_together(dtype: str) -> int:
    """Rows that are stored side by side in a weight of that dtype."""
    return fk.pack(np.zeros((1, 1), np.float32), dtype).rows_together


def _per_panel(weight: fk.PackedWeight) -> list[NDArray[Any]]:
    """Arrays with a share of each panel; of weights in groups, the last of all arrays is of the whole."""
    in_groups = weight.dtype in ("int4", "int8g")
    return [weight.panels, *(weight.quantisation[:-1] if in_groups else weight.quantisation)]
