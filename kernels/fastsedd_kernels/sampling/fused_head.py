"""Draws from the rows of a product that is not kept: jump, or stay, and where to.

    l = x . B + bias            s_j = e^(l_j + log_scale) for each column j but the row's own, c
    A = sum_j s_j               t = floor (1 + A)             w_j = max(s_j - t, 0)
    stay : max(stay - slope A, 0), the weight of c            jump : sum_j w_j, shared out as w_j^sharpness

First the product's macro-kernel leaves, of each row and panel, the highest logit and the sums of `panel_sums`, and
nothing else: A is their sum in float64. Then a row stays or chooses a panel by its sum, whose logits are multiplied
again (the same chain of products, so the same bits), and a column among these. Where there is a floor, s_j is proposed
and kept with probability w_j / s_j, a rejection costing one panel; a row that is rejected TRIES times, and one whose
floor leaves too little for rejection to be right, sweeps over all panels, with sums and a running choice in float64.

    sums : float32 [M, 2 or 3 P]; a panel of B, K x NR, is read from L3 or memory once for each row that jumps to it
The random numbers of a row are blocks 1, 2, ... of its stream, two numbers of 53 bits each: its draw depends on its
logits, seed and stream alone. Weights are float64 of float32 logits.
Rejection sampling: von Neumann 1951. Running choice: Chao 1982, "A general purpose unequal probability sampling plan".
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import float32, types, uint32

from fastsedd_kernels.gemm.microkernel import close_tiles, has_tiles, link_tile, multiply_tile, open_tiles
from fastsedd_kernels.gemm.pack_a import SIDE, take_rows
from fastsedd_kernels.runtime.cpu import CACHE_LINE
from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.runtime.kernel import Kernel, kernel
from fastsedd_kernels.runtime.scalar import aligned, pointer
from fastsedd_kernels.sampling.rng import philox
from fastsedd_kernels.simd.vector import lanes_at

TRIES = 256
MOST_FLOOR = 0.999  # of the mean of s: beyond it float32 sums of panels say too little of what is left

NONE = -2  # where no weight is positive; a row that stays may be at -1
_NOTHING = -np.inf
_ORDINARY, _SHARPENED = 1, 2  # which of the sums weigh the panels


@jit
def uniform_pair(seed: Any, stream: Any, block: Any) -> Any:
    """Two numbers, 0 <= u < 1, of 53 random bits each."""
    a, b, c, d = philox(seed, stream, block)
    first = (np.uint64(a) << np.uint64(32) | np.uint64(b)) >> np.uint64(11)
    second = (np.uint64(c) << np.uint64(32) | np.uint64(d)) >> np.uint64(11)
    return np.float64(first) * 2.0**-53, np.float64(second) * 2.0**-53


@jit
def _next_pair(random: Any) -> Any:
    """random : uint64 [seed, stream, next block]"""
    random[2] += np.uint64(1)
    return uniform_pair(random[0], random[1], random[2])


@jit
def _pick(weights: Any, count: int, target: Any) -> int:
    """The first index at which the running sum exceeds the target; else the last that weighs anything."""
    chosen = NONE
    for j in range(count):
        if weights[j] > 0.0:
            chosen = j
            target -= weights[j]
            if target < 0.0:
                break
    return chosen


# In what follows, `matrix` is (panels, bias, columns), `scratch` is (weights of panels, weights of a panel's columns,
# one panel of bias, random), and `random` is uint64 [seed, stream, last block]. What is the same in all calls for a row
# is its `operand`: (matrix, row of A in the panels' elements, its own column, logits, scratch).


@jit
def _weigh_panels(sums: Any, panels: int, kind: int, sharpness: Any, reference: Any, weights: Any) -> Any:
    """weights[p] = the panel's sum of e^(sharpness (l - reference)); the sum of all."""
    total = 0.0
    for p in range(panels):
        weights[p] = np.float64(sums[kind * panels + p]) * math.exp((np.float64(sums[p]) - reference) * sharpness)
        total += weights[p]
    return total


@jit
def _multiply_again(operand: Any, panel: int) -> Any:
    """The row's logits in a panel, minus infinity at its own column; how many there are."""
    matrix, row, own, logits, scratch = operand
    panels, bias, columns = matrix
    edge = scratch[2]
    depth, nr = panels.shape[1], panels.shape[2]
    b = pointer(panels, panel * depth * nr)
    first = panel * nr
    count = min(nr, columns - first)
    if bias.size > 0:
        for j in range(count):
            edge[j] = bias[first + j]
    multiply_tile(
        1, -(-count // lanes_at(logits)), depth, row, depth, b, nr, logits, nr, bias.size > 0, pointer(edge, 0), 0, b,
        0, logits, logits, 0,
    )  # fmt: skip
    if 0 <= own - first < count:
        logits[own - first] = float32(_NOTHING)
    return count


@jit
def _propose(operand: Any, sums: Any, sharpness: Any, total: Any) -> Any:
    """A column drawn in proportion to e^(sharpness l), and its logit; total : of `_weigh_panels`."""
    matrix, _, _, logits, scratch = operand
    panel_weights, weights, _, random = scratch
    u, v = _next_pair(random)
    panel = _pick(panel_weights, panel_weights.size, u * total)
    count = _multiply_again(operand, panel)
    highest, mass = np.float64(sums[panel]), 0.0
    for j in range(count):
        weights[j] = math.exp((np.float64(logits[j]) - highest) * sharpness)
        mass += weights[j]
    chosen = _pick(weights, count, v * mass)
    return panel * matrix[0].shape[2] + chosen, np.float64(logits[chosen])


@jit
def _sweep(operand: Any, reference: Any, threshold: Any, most: Any, sharpness: Any) -> Any:
    """(total, a column drawn in proportion to) the weights (max(s_j - threshold, 0) / most)^sharpness of all panels."""
    matrix, _, _, logits, scratch = operand
    weights, random = scratch[1], scratch[3]
    total, chosen = 0.0, NONE
    for panel in range(matrix[0].shape[0]):
        count = _multiply_again(operand, panel)
        mass = 0.0
        for j in range(count):
            weight = max(math.exp(np.float64(logits[j]) - reference) - threshold, 0.0) / most
            weights[j] = weight if sharpness == 1.0 else weight**sharpness
            mass += weights[j]
        total += mass
        u, v = _next_pair(random)
        if u * total < mass:
            chosen = panel * matrix[0].shape[2] + _pick(weights, count, v * mass)
    return total, chosen


@jit
def _highest_column(operand: Any, sums: Any) -> Any:
    """The column of the greatest logit, the first of equals."""
    matrix, _, _, logits, scratch = operand
    panel = 0
    for p in range(scratch[0].size):
        if sums[p] > sums[panel]:
            panel = p
    count = _multiply_again(operand, panel)
    chosen = 0
    for j in range(count):
        if logits[j] > logits[chosen]:
            chosen = j
    return panel * matrix[0].shape[2] + chosen


@jit
def _jump(operand: Any, sums: Any, top: Any, reference: Any, threshold: Any, sharpness: Any) -> Any:
    """Where a row jumps to that does not stay."""
    if sharpness == np.inf:
        return _highest_column(operand, sums)
    panel_weights = operand[4][0]
    kind = _ORDINARY if sharpness == 1.0 else _SHARPENED
    total = _weigh_panels(sums, panel_weights.size, kind, sharpness, top, panel_weights)
    for _ in range(TRIES):
        column, logit = _propose(operand, sums, sharpness, total)
        if threshold == 0.0:
            return column
        kept = max(1.0 - threshold / math.exp(logit - reference), 0.0)
        if _next_pair(operand[4][3])[0] < kept**sharpness:
            return column
    most = math.exp(top - reference) - threshold
    return _sweep(operand, reference, threshold, most, sharpness)[1]


@jit
def _choose_above_floor(
    operand: Any, sums: Any, top: Any, reference: Any, unit: Any, total: Any, law: Any
) -> Any:  # fmt: skip
    """`_choose` where there is a floor, and the weight of all jumps is not known."""
    _, floor, stay, slope, sharpness = law[0], law[1], law[2], law[3], law[4]
    own, random = operand[2], operand[4][3]
    threshold, staying = floor * (unit + total), max(stay * unit - slope * total, 0.0)
    tries = TRIES if floor * operand[0][2] < MOST_FLOOR else 0
    for _ in range(tries):
        if _next_pair(random)[0] * (staying + total) < staying:
            return own
        column, logit = _propose(operand, sums, 1.0, total)
        if _next_pair(random)[0] * math.exp(logit - reference) < math.exp(logit - reference) - threshold:
            if sharpness == 1.0:
                return column
            return _jump(operand, sums, top, reference, threshold, sharpness)
    total = _sweep(operand, reference, 0.0, 1.0, 1.0)[0]
    threshold, staying = floor * (unit + total), max(stay * unit - slope * total, 0.0)
    jumping, column = _sweep(operand, reference, threshold, 1.0, 1.0)
    if _next_pair(random)[0] * (staying + jumping) < staying:
        return own
    if jumping > 0.0 and sharpness != 1.0:
        return _jump(operand, sums, top, reference, threshold, sharpness)
    return column


@jit
def _choose(operand: Any, sums: Any, law: Any) -> Any:
    """The row's draw, or NONE where no weight is positive; see the module. law : see `api.Law`"""
    log_scale, floor, stay, slope, sharpness = law[0], law[1], law[2], law[3], law[4]
    panel_weights = operand[4][0]
    top = -np.inf
    for p in range(panel_weights.size):
        top = max(top, np.float64(sums[p]))
    # s_j, and 1, are divided by e^(reference + log_scale), so that none is infinite.
    reference = top if stay == 0.0 else max(top, -log_scale)
    unit = 0.0 if stay == 0.0 else math.exp(-log_scale - reference)
    total = _weigh_panels(sums, panel_weights.size, _ORDINARY, 1.0, reference, panel_weights)
    staying = max(stay * unit - slope * total, 0.0)
    if not staying + total > 0.0 or staying + total == np.inf:
        return NONE
    if 1.0 != sharpness < np.inf and sums.size == 2 * panel_weights.size:  # a law that the sums were not made for
        return NONE
    if floor > 0.0:
        return _choose_above_floor(operand, sums, top, reference, unit, total, law)
    if _next_pair(operand[4][3])[0] * (staying + total) < staying:
        return operand[2]
    return _jump(operand, sums, top, reference, 0.0, sharpness)


def choose_rows(
    task: int, x: Any, panels: Any, bias: Any, columns: int, current: Any, law: Any, seed: Any, streams: Any, sums: Any,
    out: Any, tasks: int,
) -> None:  # fmt: skip
    """out[i] = the draw of row i, of the task's share; see the module.

    x : [M, K]; panels : those of the columns; current : [M]; law : [5]; seed : [1]; streams : [M]
    sums : what `panel_sums` has made of x, panels, bias and current
    """
    depth, nr = panels.shape[1], panels.shape[2]
    some = pointer(panels, 0)
    tiled = has_tiles(some)
    line = CACHE_LINE // 4
    high = SIDE if tiled else 1  # rows that tile registers read and write
    copy, tile = np.empty(high * depth + line, panels.dtype), np.empty(high * nr + line, np.float32)
    random = np.empty(3, np.uint64)
    scratch = (np.empty(panels.shape[0]), np.empty(nr), np.empty(nr, np.float32), random)
    rows = x.shape[0]
    open_tiles(some)
    for i in range(rows * task // tasks, rows * (task + 1) // tasks):
        row, logits = aligned(copy), aligned(tile)  # in the loop, for whose length the arrays then live
        random[0], random[1], random[2] = seed[0], streams[i], np.uint64(0)
        take_rows(x, i, 1, depth, row, logits, tiled)
        out[i] = _choose(((panels, bias, columns), row, np.intp(current[i]), logits, scratch), sums[i], law)
    close_tiles(some)


def _kernel(element: Any) -> Kernel:
    numbers, streams = (
        types.Array(types.float64, 1, "C", readonly=True),
        types.Array(types.uint64, 1, "C", readonly=True),
    )
    return kernel(
        types.Array(float32, 2, "A", readonly=True), types.Array(element, 3, "C", readonly=True),
        types.Array(float32, 1, "C", readonly=True), types.intp, types.Array(types.int32, 1, "C", readonly=True),
        numbers, streams, streams, types.Array(float32, 2, "C", readonly=True), types.int32[::1], types.intp,
        link=lambda: link_tile(element),
    )(choose_rows)  # fmt: skip


# By the dtype of the panels.
CHOOSE = {np.dtype(np.float32): _kernel(float32), np.dtype(np.uint32): _kernel(uint32)}


@kernel(types.uint64, types.Array(types.uint64, 1, "C", readonly=True), types.float64[::1], types.intp)
def fill_uniform(task: int, seed: Any, streams: Any, out: Any, tasks: int) -> None:
    """out[i] = the first number of block 0 of stream streams[i], for the task's share."""
    for i in range(out.size * task // tasks, out.size * (task + 1) // tasks):
        out[i] = uniform_pair(seed, streams[i], np.uint64(0))[0]
