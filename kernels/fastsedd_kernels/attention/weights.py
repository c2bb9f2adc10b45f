"""Weights of the running softmax: a tile's scores to powers of two, and what was summed before brought in line."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, types, uint32
from numba.extending import overload

from fastsedd_kernels.activation.vectors import exp2_of_negative, exp2_scalar
from fastsedd_kernels.gemm.layout import place_of_word
from fastsedd_kernels.gemm.operands import Rows
from fastsedd_kernels.runtime.jit import OVERLOAD, jit
from fastsedd_kernels.runtime.scalar import offset, pointer
from fastsedd_kernels.simd.narrow import store_bfloat16
from fastsedd_kernels.simd.vector import (
    LANES,
    load_some,
    load_vector,
    splat,
    store_some,
    store_vector,
    sum_lanes,
    where_less,
)

_ZERO = float32(0.0)
_LOWEST = float32(np.finfo(np.float32).min)


def _exp2(x: Any, least: Any) -> Any:
    """2^x of a vector, as `exp2_of_negative`; with `least`, a number, 0 where x is less: hidden keys have no weight."""
    raise NotImplementedError("for kernels only")


@overload(_exp2, **OVERLOAD)  # type: ignore[untyped-decorator]
def _typed_exp2(x: Any, least: Any) -> Any:
    if least == types.none:
        return lambda x, least: exp2_of_negative(x)
    return lambda x, least: where_less(x, splat(least), splat(_ZERO), exp2_of_negative(x))


def _store_weights(scores: Any, j: int, count: int, value: Any, row: int, weights: Any) -> None:
    """Put weights j to j + `count`, at most a register of them, where the product with the values reads them.

    scores : pointer to the row's, which floats are stored over; weights : Rows of words otherwise
    """
    raise NotImplementedError("for kernels only")


@overload(_store_weights, **OVERLOAD)  # type: ignore[untyped-decorator]
def _typed_store_weights(scores: Any, j: Any, count: Any, value: Any, row: Any, weights: Any) -> Any:
    if weights.types[0].dtype == uint32:
        return lambda scores, j, count, value, row, weights: store_bfloat16(
            value,
            offset(weights.pointer, place_of_word(row, j // 2, weights.stride, True, weights.pointer)),
        )
    return lambda scores, j, count, value, row, weights: store_some(offset(scores, j), value, count)


@jit
def weigh(scores: Any, keys: int, top: Any, depth: int, row: int, weights: Any, least: Any) -> Any:
    """Turn a row of scores into weights 2^(score - top), zero from `keys` to `depth`; their sum.

    least : the least score - top that has a weight above 0, or None: hidden keys have none
    """
    total, other = splat(_ZERO), splat(_ZERO)
    shift = splat(top)
    paired = keys // (2 * LANES) * (2 * LANES)
    for j in range(0, paired, 2 * LANES):
        value = _exp2(load_vector(offset(scores, j)) - shift, least)
        beside = _exp2(load_vector(offset(scores, j + LANES)) - shift, least)
        total = total + value
        other = other + beside
        _store_weights(scores, j, LANES, value, row, weights)
        _store_weights(scores, j + LANES, LANES, beside, row, weights)
    for j in range(paired, depth, LANES):
        value = splat(_ZERO)
        if j < keys:
            value = _exp2(load_some(offset(scores, j), keys - j, _LOWEST) - shift, least)
            store_some(offset(scores, j), value, LANES)
            value = load_some(offset(scores, j), keys - j, _ZERO)
        total = total + value
        _store_weights(scores, j, depth - j, value, row, weights)
    return sum_lanes(total + other)


def weights_at(scores: Any, weights: Any) -> Any:
    """Rows that the product with the values reads the weights from: the scores, or the words."""
    raise NotImplementedError("for kernels only")


@overload(weights_at, **OVERLOAD)  # type: ignore[untyped-decorator]
def _typed_weights_at(scores: Any, weights: Any) -> Any:
    if weights.types[0].dtype == uint32:
        return lambda scores, weights: weights
    return lambda scores, weights: Rows(pointer(scores, 0), scores.shape[1])


@jit
def rescale(top: Any, state: Any, sums: Any, width: int, least: Any) -> None:
    """Make what was summed so far relative to a new maximum; state : [maximum, sum of weights] of the row.

    least : the least difference whose power of two is not taken for 0
    """
    if state[1] > _ZERO and state[0] < top:
        factor = _ZERO if state[0] - top < least else exp2_scalar(state[0] - top)
        for d in range(0, width, LANES):
            store_vector(offset(sums, d), load_vector(offset(sums, d)) * factor)
        state[1] *= factor
    state[0] = top
