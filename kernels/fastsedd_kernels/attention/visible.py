"""The keys that each query sees: a range [first, end) by its position, narrowed by a mask of elements.

Query i stands at position p = start + i among its head's keys, and sees those before `length` that are
    after p - before, before p + beyond, in its own block of keys or earlier ones (causal: in blocks of one)
and that a mask leaves it. Ranges tell which tiles of scores are made at all; what a tile holds beside them is hidden:
its score is minus infinity, and its weight is 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import float32, types

from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.runtime.scalar import offset, pointer
from fastsedd_kernels.simd.vector import LANES, load_some, maximum, splat, store_some, where_less

UNLIMITED = 1 << 40  # keys

_LOG2_E = float32(1.4426950408889634)
_LOWEST = float32(np.finfo(np.float32).min)
_HIDDEN = float32(-np.inf)
_ZERO = float32(0.0)

# (scale float32, span, lengths intp [B] or empty, and masks [B, H, L, S] or empty: float32, and uint8)
# span : (start, 1 if it counts from where the queries are the last keys, block or 0, before, beyond)
RULE = types.Tuple(
    (
        float32,
        types.UniTuple(types.intp, 5),
        types.Array(types.intp, 1, "C", readonly=True),
        types.Array(float32, 4, "A", readonly=True),
        types.Array(types.uint8, 4, "A", readonly=True),
    )
)


class Visible(NamedTuple):
    """A rule for the queries of one text. length : of its keys; start : position of query 0; added, shown : masks"""

    length: Any
    start: Any
    block: Any
    before: Any
    beyond: Any
    added: Any
    shown: Any


class Place(NamedTuple):
    """A query's place: text, head, number."""

    batch: Any
    head: Any
    query: Any


@jit
def visible_of(rule: Any, batch: int, queries: int, keys: int) -> Any:
    """The rule for a text of so many queries and, unless `lengths` says less, keys."""
    _, (start, from_end, block, before, beyond), lengths, added, shown = rule
    length = min(keys, max(0, lengths[batch])) if lengths.size > 0 else keys
    for columns in (added.shape[3], shown.shape[3]):  # of a mask that was made when a cache held fewer keys
        length = min(length, columns) if columns > 0 else length
    first = start + length - queries if from_end else start
    return Visible(length, first, block, before, beyond, added, shown)


@jit
def has_mask(visible: Any) -> Any:
    return visible.added.size > 0 or visible.shown.size > 0


@jit
def hides(visible: Any) -> Any:
    """True if a tile of scores may hold keys that a query does not see, other than at its end."""
    return visible.before < UNLIMITED or has_mask(visible)


@jit
def range_of(visible: Any, query: int) -> Any:
    """First key that the query may see, and the one after the last; equal ones if there is none."""
    position = visible.start + query
    end = min(visible.length, position + visible.beyond)
    if visible.block > 0:
        end = min(end, (position // visible.block + 1) * visible.block)
    first = max(0, position - visible.before + 1)
    return first, max(first, end)


@jit
def narrowed(visible: Any, place: Any, first: int, end: int) -> Any:
    """The range without the keys at its ends that a mask hides."""
    if visible.added.size > 0 and first < end:
        row = visible.added[place.batch, place.head, place.query]
        while first < end and row[first] == _HIDDEN:
            first += 1
        while first < end and row[end - 1] == _HIDDEN:
            end -= 1
    if visible.shown.size > 0 and first < end:
        marks = visible.shown[place.batch, place.head, place.query]
        while first < end and marks[first] == 0:
            first += 1
        while first < end and marks[end - 1] == 0:
            end -= 1
    return first, end


@jit
def hide(visible: Any, place: Any, scores: Any, base: int, first: int, end: int) -> None:
    """Add a mask to scores, in units of ln 2, of keys first to end, and hide those from `base`, the first score's, on.

    A finite value of the mask stays finite: if all keys have the lowest one, their weights are equal, as torch's are.
    """
    for j in range(first - base):
        scores[j] = _HIDDEN
    if visible.added.size > 0:
        added = pointer(visible.added[place.batch, place.head, place.query], 0)
        for j in range(first, end, LANES):
            raw = load_some(offset(added, j), end - j, _ZERO)
            bits = where_less(raw, splat(_LOWEST), splat(_HIDDEN), maximum(splat(_LOWEST), raw * _LOG2_E))
            score = offset(scores, j - base)
            store_some(score, load_some(score, end - j, _ZERO) + bits, end - j)
    if visible.shown.size > 0:
        shown = pointer(visible.shown[place.batch, place.head, place.query], 0)
        for j in range(first, end):
            scores[j - base] = scores[j - base] if shown[j] != 0 else _HIDDEN
