"""Arguments that say which keys a query sees, checked and put as the kernel has them (`visible`)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsedd_kernels.attention.visible import UNLIMITED
from fastsedd_kernels.runtime.arrays import as_array, as_integer, as_integers, contiguous

Span = tuple[int, int, int, int, int]

_ALL: Span = (0, 0, 0, UNLIMITED, UNLIMITED)
_ALL_BEFORE: Span = (0, 0, 1, UNLIMITED, UNLIMITED)
_NO_LENGTHS = np.empty(0, np.intp)
_NOTHING_ADDED = np.empty((0, 0, 0, 0), np.float32)
_NOTHING_HIDDEN = np.empty((0, 0, 0, 0), np.uint8)


class Rule(NamedTuple):
    """A call's rule. span : as `visible.RULE` has it; lengths : intp [...]; mask : float32 or uint8 [..., H, L, S]"""

    span: Span
    lengths: NDArray[np.intp] | None
    mask: NDArray[Any] | None

    def arguments(self, scale: np.float32, mask: NDArray[Any] | None) -> tuple[Any, ...]:
        """`visible.RULE` with the mask as [B, H, L, S]."""
        lengths = _NO_LENGTHS if self.lengths is None else self.lengths.reshape(-1)
        added = mask if mask is not None and mask.dtype == np.float32 else _NOTHING_ADDED
        shown = mask if mask is not None and mask.dtype == np.uint8 else _NOTHING_HIDDEN
        return scale, self.span, lengths, added, shown


def span(causal: bool, block: int | None, window: int | None, start: int | None) -> Span:
    """Limits by position, as `attention` has them. Raises ValueError for a wrong number, and for two that collide."""
    if block is None and window is None and type(start) is int and start == 0:
        return _ALL_BEFORE if causal else _ALL
    if causal and block is not None:
        raise ValueError("causal and block are both given, allowed: one of them: causal is block=1")
    side = 1 if causal else 0
    if block is not None:
        side = as_integer("block", block, 1, UNLIMITED, "None, or 1 or more keys")
    before = beyond = UNLIMITED
    if window is not None:
        before = as_integer("window", window, 1, UNLIMITED - 1, "None, or 1 or more keys")
        beyond = UNLIMITED if side else before
    if start is None:
        return 0, 1, side, before, beyond
    first = as_integer("start", start, -UNLIMITED // 2, UNLIMITED // 2, "None, or the position of the first query")
    return first, 0, side, before, beyond


def lengths_of(lengths: ArrayLike | None, batches: tuple[int, ...], keys: int) -> NDArray[np.intp] | None:
    """Numbers of keys, one for each text. Raises ValueError for another shape than the batch's, below 0 and above S."""
    if lengths is None:
        return None
    array = as_integers("lengths", lengths)
    if array.shape != batches:
        raise ValueError(f"lengths has shape {array.shape}, must be {batches}: one for each text of the batch")
    if array.size > 0 and not (array.min() >= 0 and array.max() <= keys):
        raise ValueError(f"lengths are from {array.min()} to {array.max()}, allowed: 0 to {keys}, the number of keys")
    return contiguous(array, np.intp)


def mask_of(mask: ArrayLike | None, shape: tuple[int, ...]) -> NDArray[Any] | None:
    """A mask broadcast to [..., H, L, S] with adjacent elements in its rows: float32, or uint8 of booleans.

    Raises ValueError for another dtype, and for a shape that does not broadcast.
    """
    if mask is None:
        return None
    array = as_array("mask", np.asarray(mask) if isinstance(mask, (list, tuple)) else mask, np.float32, np.bool_)
    try:
        np.broadcast_shapes(array.shape, shape)
        whole = np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(f"mask has shape {array.shape}, must broadcast to {shape}: heads, queries, keys") from None
    if array.dtype == np.bool_:
        array = array.view(np.uint8)
    if array.ndim == 0 or array.shape[-1] != shape[-1]:
        lead = array.shape[:-1]
        array = contiguous(np.broadcast_to(array, (*lead, shape[-1])))
    elif array.strides[-1] != array.itemsize:
        array = contiguous(array)
    return np.broadcast_to(array, whole.shape)
