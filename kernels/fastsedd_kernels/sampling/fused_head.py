"""Draws from the rows of a product that is not kept: whether a row jumps or stays, and where to.

    l = x . B + bias            s_j = e^(l_j + log_scale) for each column j but the row's own, c; relative: of l_j - l_c
    A = sum_j s_j               t = floor (1 + A)             w_j = max(s_j - t, 0)
    stay : max(stay - slope A, 0), the weight of c            jump : sum_j w_j, shared out as w_j^sharpness

First the product's macro-kernel leaves, of each row and panel, the highest logit and the sums of `draw_epilogue`, and
nothing else: A is their sum in float64. Then a row stays, or a number u of it picks the column in which the running sum
of weights exceeds u times their total: first the panel by its sum, whose logits are multiplied again (the same chain of
products, so the same bits), then the column, by what the panels before it leave of u. Where there is a floor, s_j is
proposed and kept with probability w_j / s_j, a rejection costing one panel; a row that is rejected TRIES times, and one
whose floor leaves too little for rejection to be right, sweeps over all panels, twice, with sums in float64.

    sums : float32 [M, 2 or 3 P]; a panel of B, K x NR, is read from L3 or memory once for each row that jumps to it
The random numbers of a row are of blocks 1, 2, ... of its stream, of 53 bits each: its draw depends on its
logits, seed and stream alone, not on how columns are put into panels, but for the rounding of sums. Weights are float64
of float32 logits. Inversion and rejection: von Neumann 1951.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import float32, types, uint32

from fastsedd_kernels.gemm.layout import row_stride, rows_written
from fastsedd_kernels.gemm.microkernel import close_tiles, link_tile, multiply_tile, open_tiles
from fastsedd_kernels.gemm.operands import Rows, Start, no_prefetch
from fastsedd_kernels.gemm.pack_a import take_rows
from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.runtime.kernel import Kernel, kernel
from fastsedd_kernels.runtime.machines import CACHE_LINE
from fastsedd_kernels.runtime.scalar import aligned, pointer
from fastsedd_kernels.sampling.rng import philox
from fastsedd_kernels.simd.vector import lanes_at

TRIES = 256
MAX_FLOOR = 0.999  # of the mean of s: beyond it float32 sums of panels say too little of what is left

SHARPEST = 1e30  # a sharpness from here on counts as infinite: float32 has little more

NONE = -2  # where no weight is positive; a row that stays may be at -1
_NOTHING = -np.inf
_ORDINARY, _SHARPENED = 1, 2  # which of the sums weigh the panels


@jit
def uniform_number(seed: Any, stream: Any, block: Any) -> Any:
    """A number, 0 <= u < 1, of 53 random bits."""
    a, b, _, _ = philox(seed, stream, block)
    return np.float64((np.uint64(a) << np.uint64(32) | np.uint64(b)) >> np.uint64(11)) * 2.0**-53


@jit
def _next(random: Any) -> Any:
    """The first number of the next block. random : uint64 [seed, stream, last block]"""
    random[2] += np.uint64(1)
    return uniform_number(random[0], random[1], random[2])


@jit
def _pick(weights: Any, count: int, target: Any) -> Any:
    """The first index at which the running sum exceeds the target, else the last that weighs anything; and the share of
    its weight that is below the target."""
    chosen, share = NONE, 0.0
    for j in range(count):
        if weights[j] > 0.0:
            chosen, share = j, min(max(target / weights[j], 0.0), 1.0)
            target -= weights[j]
            if target < 0.0:
                break
    return chosen, share


class _Matrix(NamedTuple):
    """panels : of B; bias : float32 [N] or empty; columns : of B, among which to draw"""

    panels: Any
    bias: Any
    columns: Any


class _Memory(NamedTuple):
    """panel_weights : float64 [P]; weights : float64 [NR], of a panel's columns; edge : float32 [NR], a panel's bias
    random : uint64 [seed, stream, last block]; own : float64 [1], the logit of the row's own column, once it was met"""

    panel_weights: Any
    weights: Any
    edge: Any
    random: Any
    own: Any


class _Row(NamedTuple):
    """All that calls for a row have in common.

    a : pointer to the row of A in the panels' elements; own : its own column; logits : pointer to a panel of them
    """

    matrix: Any
    a: Any
    own: Any
    logits: Any
    memory: Any


class _Law(NamedTuple):
    """`api.Law` in a kernel, by its names: the fields of a float64 [6]."""

    log_scale: Any
    floor: Any
    stay: Any
    slope: Any
    sharpness: Any
    relative: Any


@jit
def _weigh_panels(sums: Any, panels: int, kind: int, sharpness: Any, reference: Any, weights: Any) -> Any:
    """weights[p] = the panel's sum of e^(sharpness (l - reference)); the sum of all."""
    total = 0.0
    for p in range(panels):
        weights[p] = np.float64(sums[kind * panels + p]) * math.exp((np.float64(sums[p]) - reference) * sharpness)
        total += weights[p]
    return total


@jit
def _multiply_again(row: Any, panel: int) -> Any:
    """The row's logits in a panel, minus infinity at its own column; how many there are."""
    panels, bias, columns = row.matrix.panels, row.matrix.bias, row.matrix.columns
    depth, nr = panels.shape[1], panels.shape[2]
    first = panel * nr
    count = min(nr, columns - first)
    if bias.size > 0:
        for j in range(count):
            row.memory.edge[j] = bias[first + j]
    vectors = -(-count // lanes_at(row.logits))
    b, c = Rows(pointer(panels, panel * depth * nr), nr), Rows(row.logits, nr)
    start = Start(bias.size > 0, pointer(row.memory.edge, 0), 0)
    multiply_tile(1, vectors, depth, Rows(row.a, row_stride(depth, 0, b.pointer)), b, c, start, no_prefetch(b, c))
    if 0 <= row.own - first < count:
        row.memory.own[0] = np.float64(row.logits[row.own - first])
        row.logits[row.own - first] = float32(_NOTHING)
    return count


@jit
def _log_scale(row: Any, law: Any) -> Any:
    """The number that is added to the row's logits."""
    if law.relative == 0.0 or not 0 <= row.own < row.matrix.columns:
        return law.log_scale
    _multiply_again(row, row.own // row.matrix.panels.shape[2])
    return law.log_scale - row.memory.own[0]


@jit
def _propose(row: Any, sums: Any, sharpness: Any, total: Any) -> Any:
    """A column drawn in proportion to e^(sharpness l), or NONE, and its logit; total : of `_weigh_panels`."""
    logits, weights = row.logits, row.memory.weights
    target = _next(row.memory.random) * total
    panel, share = _pick(row.memory.panel_weights, row.memory.panel_weights.size, target)
    if panel < 0:
        return NONE, 0.0
    count = _multiply_again(row, panel)
    highest, mass = np.float64(sums[panel]), 0.0
    for j in range(count):
        weights[j] = math.exp((np.float64(logits[j]) - highest) * sharpness)
        mass += weights[j]
    chosen, _ = _pick(weights, count, share * mass)
    if chosen < 0:
        return NONE, 0.0
    return panel * row.matrix.panels.shape[2] + chosen, np.float64(logits[chosen])


@jit
def _sweep(row: Any, reference: Any, threshold: Any, largest: Any, sharpness: Any, target: Any) -> Any:
    """(sum up to, number of) the first column at which the running sum of weights exceeds the target.

    Weights are (max(s_j - threshold, 0) / largest)^sharpness, over all panels in order. Where no sum exceeds the
    target, infinity say, the sum of all, and the last column that weighs anything.
    """
    total, chosen = 0.0, NONE
    for panel in range(row.matrix.panels.shape[0]):
        count = _multiply_again(row, panel)
        for j in range(count):
            weight = max(math.exp(np.float64(row.logits[j]) - reference) - threshold, 0.0) / largest
            if weight > 0.0:
                total += weight if sharpness == 1.0 else weight**sharpness
                chosen = panel * row.matrix.panels.shape[2] + j
                if total > target:
                    return total, chosen
    return total, chosen


@jit
def _highest_column(row: Any, sums: Any) -> Any:
    """The column of the greatest logit, the first of equals."""
    panel = 0
    for p in range(row.memory.panel_weights.size):
        if sums[p] > sums[panel]:
            panel = p
    count = _multiply_again(row, panel)
    chosen = 0
    for j in range(count):
        if row.logits[j] > row.logits[chosen]:
            chosen = j
    return panel * row.matrix.panels.shape[2] + chosen


@jit
def _jump(row: Any, sums: Any, top: Any, reference: Any, threshold: Any, sharpness: Any) -> Any:
    """The column that a row jumps to, given that it does not stay, or NONE."""
    if sharpness >= SHARPEST:
        return _highest_column(row, sums)
    panel_weights, random = row.memory.panel_weights, row.memory.random
    kind = _ORDINARY if sharpness == 1.0 else _SHARPENED
    total = _weigh_panels(sums, panel_weights.size, kind, sharpness, top, panel_weights)
    for _ in range(TRIES):
        column, logit = _propose(row, sums, sharpness, total)
        if threshold == 0.0 or column < 0:
            return column
        kept = max(1.0 - threshold / math.exp(logit - reference), 0.0)
        if _next(random) < kept**sharpness:
            return column
    largest = math.exp(top - reference) - threshold
    total = _sweep(row, reference, threshold, largest, sharpness, np.inf)[0]
    return _sweep(row, reference, threshold, largest, sharpness, _next(random) * total)[1]


@jit
def _choose_above_floor(row: Any, sums: Any, top: Any, reference: Any, unit: Any, total: Any, law: Any) -> Any:
    """`_choose` where there is a floor, and the weight of all jumps is not known."""
    random, sharpness = row.memory.random, law.sharpness
    threshold, staying = law.floor * (unit + total), max(law.stay * unit - law.slope * total, 0.0)
    tries = TRIES if law.floor * row.matrix.columns < MAX_FLOOR else 0
    for _ in range(tries):
        if _next(random) * (staying + total) < staying:
            return row.own
        column, logit = _propose(row, sums, 1.0, total)
        if column < 0:
            return NONE
        if _next(random) * math.exp(logit - reference) < math.exp(logit - reference) - threshold:
            if sharpness == 1.0:
                return column
            return _jump(row, sums, top, reference, threshold, sharpness)
    total = _sweep(row, reference, 0.0, 1.0, 1.0, np.inf)[0]
    threshold, staying = law.floor * (unit + total), max(law.stay * unit - law.slope * total, 0.0)
    jumping = _sweep(row, reference, threshold, 1.0, 1.0, np.inf)[0]
    if _next(random) * (staying + jumping) < staying:
        return row.own
    if jumping > 0.0 and sharpness != 1.0:
        return _jump(row, sums, top, reference, threshold, sharpness)
    return _sweep(row, reference, threshold, 1.0, 1.0, _next(random) * jumping)[1]


@jit
def _choose(row: Any, sums: Any, law: Any) -> Any:
    """The row's draw, or NONE where no weight is positive; see the module. law : _Law"""
    panel_weights = row.memory.panel_weights
    top = -np.inf
    for p in range(panel_weights.size):
        top = max(top, np.float64(sums[p]))
    # s_j, and 1, are divided by e^(reference + log_scale), so that none is infinite.
    log_scale = law.log_scale if law.stay == 0.0 else _log_scale(row, law)
    reference = top if law.stay == 0.0 else max(top, -log_scale)
    unit = 0.0 if law.stay == 0.0 else math.exp(-log_scale - reference)
    total = _weigh_panels(sums, panel_weights.size, _ORDINARY, 1.0, reference, panel_weights)
    staying = max(law.stay * unit - law.slope * total, 0.0)
    if not staying + total > 0.0 or staying + total == np.inf or not law.sharpness > 0.0:
        return NONE
    if 1.0 != law.sharpness < SHARPEST and sums.size == 2 * panel_weights.size:  # a law that the sums were not made for
        return NONE
    if law.floor > 0.0:
        return _choose_above_floor(row, sums, top, reference, unit, total, law)
    if _next(row.memory.random) * (staying + total) < staying:
        return row.own
    return _jump(row, sums, top, reference, 0.0, law.sharpness)


def choose_rows(task: int, x: Any, matrix: Any, draws: Any, sums: Any, out: Any, tasks: int) -> None:
    """out[i] = the draw of row i, of the task's share; see the module.

    x : float32 [M, K]; matrix : (panels, bias, columns), see `_Matrix`
    draws : (current int32 [M], law float64 [6], seeds uint64 [1] or [M], streams uint64 [M]), read when the kernel runs
    sums : float32, what `draw_epilogue` has made of x, panels, bias and current; out : int32 [M]
    """
    weight, (current, law, seeds, streams) = _Matrix(*matrix), draws
    panels = weight.panels
    depth, nr = panels.shape[1], panels.shape[2]
    some = pointer(panels, 0)
    line = CACHE_LINE // 4
    written = rows_written(1, some)
    lda = row_stride(depth, 0, some)
    copy, tile = np.empty(written * lda + line, panels.dtype), np.empty(written * nr + line, np.float32)
    random = np.empty(3, np.uint64)
    memory = _Memory(np.empty(panels.shape[0]), np.empty(nr), np.empty(nr, np.float32), random, np.empty(1))
    rows = x.shape[0]
    open_tiles(some)
    for i in range(rows * task // tasks, rows * (task + 1) // tasks):
        a, logits = aligned(copy), aligned(tile)  # in the loop, for whose length the arrays then live
        random[0], random[1], random[2] = seeds[min(i, seeds.size - 1)], streams[i], np.uint64(0)
        take_rows(x, i, 1, Rows(a, lda), logits, True)
        row = _Row(weight, a, np.intp(current[i]), logits, memory)
        out[i] = _choose(row, sums[i], _Law(law[0], law[1], law[2], law[3], law[4], law[5]))
    close_tiles(some)


def _kernel(element: Any) -> Kernel:
    numbers = types.Array(types.float64, 1, "C", readonly=True)
    streams = types.Array(types.uint64, 1, "C", readonly=True)
    panels, bias = types.Array(element, 3, "C", readonly=True), types.Array(float32, 1, "C", readonly=True)
    current = types.Array(types.int32, 1, "C", readonly=True)
    return kernel(
        types.Array(float32, 2, "A", readonly=True),
        types.Tuple((panels, bias, types.intp)),
        types.Tuple((current, numbers, streams, streams)),
        types.Array(float32, 2, "C", readonly=True),
        types.int32[::1],
        types.intp,
        link=lambda: link_tile(element),
    )(choose_rows)


# By the dtype of the panels.
CHOOSE = {np.dtype(np.float32): _kernel(float32), np.dtype(np.uint32): _kernel(uint32)}


_NUMBERS = types.Array(types.uint64, 1, "C", readonly=True)


@kernel(_NUMBERS, _NUMBERS, types.float64[::1], types.intp)
def fill_uniform(task: int, seeds: Any, streams: Any, out: Any, tasks: int) -> None:
    """out[i] = the number of block 0 of stream streams[i], for the task's share. seeds : uint64 [1] or [M]"""
    for i in range(out.size * task // tasks, out.size * (task + 1) // tasks):
        out[i] = uniform_number(seeds[min(i, seeds.size - 1)], streams[i], np.uint64(0))
