"""The blocked product of x with weights in groups, and its epilogue: out = epilogue(x . weight.T).

    for a block of rows              MC rows of x, rounded to bytes (`activations`), which stay in L2
        for a panel of the weight    NR columns of out, whose sums, MC x NR, begin from the bias
            for a slab of K          SLAB groups: scales, and for enough rows codes, are widened into L1 (`decoding`)
                for a tile           MR x NR of the sums: the micro-kernel
            epilogue                 on the panel's sums, still in L1 or L2

Fewer rows than the machine's `widened_from` read the nibbles themselves in the micro-kernel: a panel then passes
through the registers once or twice, and memory is what it waits for. So do all rows on CPUs where that costs nothing.
Rows of one tile at most are multiplied with several panels at once (`panels_beside`). A task is a rectangle of out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import float32, int32, int64, types, uint8, uint16

from fastsedd_kernels.gemm.epilogue import EPILOGUE, Epilogue, columns_of, finish_tile, is_paired
from fastsedd_kernels.gemm.group_scaled.activations import quantise_rows
from fastsedd_kernels.gemm.group_scaled.decoding import decode_scales, widen_groups
from fastsedd_kernels.gemm.group_scaled.microkernel import (
    BYTES,
    MR,
    NIBBLES,
    NR,
    SLAB,
    SMALL,
    STEP,
    WORDS,
    TileShape,
    add_group_tile,
    link_group_tile,
    panels_beside,
)
from fastsedd_kernels.gemm.group_scaled.storage import SCALE, Weight
from fastsedd_kernels.gemm.macrokernel import part
from fastsedd_kernels.gemm.operands import Rows, Tile
from fastsedd_kernels.runtime.cpu import cpu_info, isa
from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.runtime.kernel import kernel
from fastsedd_kernels.runtime.machines import CACHE_LINE
from fastsedd_kernels.runtime.scalar import aligned, offset, pointer
from fastsedd_kernels.simd.vector import LANES, load_some, splat, store_vector

_WIDENED_FROM = 1 << 62 if cpu_info().name in isa().never_widened else isa().widened_from
_LINE = CACHE_LINE // 4
_ZERO = float32(0.0)

WEIGHT = (
    types.Array(int32, 3, "C", readonly=True), types.Array(uint16, 4, "C", readonly=True),
    types.Array(uint8, 4, "C", readonly=True), types.Array(int64, 1, "C", readonly=True),
)  # fmt: skip


class GroupPartition(NamedTuple):
    """The partition of out: parts of its rows and panels, a task each; MC."""

    row_parts: Any
    panel_parts: Any
    mc: Any


class _Scratch(NamedTuple):
    """records : of a block of rows; sums : [MC, NR]; scales : of a slab; codes : of a slab, widened"""

    records: Any
    sums: Any
    scales: Any
    codes: Any


@jit
def _begin_sums(epilogue: Any, column: int, columns: int, rows: int, width: int, sums: Any) -> None:
    """Each row of sums, so wide, becomes the bias from a column on, or zeros: without one, and of pairs."""
    bias = epilogue.bias
    for j in range(0, width, LANES):
        value, left = splat(_ZERO), columns - column - j
        # Nothing is loaded, masked or not, where there may be no memory: that is slow.
        if bias.size > 0 and left > 0 and not is_paired(epilogue):
            value = load_some(pointer(bias, column + j), left, _ZERO)
        for r in range(rows):
            store_vector(offset(sums, r * width + j), value)


@jit
def _add_slab(weight: Any, panel: int, panels: int, first: int, groups: int, rows: int, scratch: Any) -> None:
    """Add to the sums of some panels the products of so many groups from the first on."""
    count = weight.small.shape[1]
    per_group = weight.codes.shape[1] // count
    step = count * per_group * NR
    codes = pointer(weight.codes, panel * step + first * per_group * NR)
    kind = BYTES if per_group == WORDS else NIBBLES
    for i in range(panels):
        decode_scales(weight, panel + i, first, groups, offset(scratch.scales, i * 2 * SLAB * NR))
    if kind == NIBBLES and rows >= _WIDENED_FROM:
        widen_groups(codes, groups, scratch.codes)
        kind, codes = SMALL, scratch.codes
    stride = count * STEP
    for top in range(0, rows, MR):
        add_group_tile(
            TileShape(np.intp(kind), min(MR, rows - top), panels),
            groups,
            Rows(offset(scratch.records, top * stride + first * STEP), stride),
            Rows(codes, step),
            scratch.scales,
            weight.form != SCALE,
            offset(scratch.sums, top * panels * NR),
        )


@kernel(
    types.Array(float32, 2, "A", readonly=True),
    types.Tuple(WEIGHT),
    types.Tuple(EPILOGUE),
    types.Array(float32, 2, "A"),
    types.UniTuple(types.intp, len(GroupPartition._fields)),
    link=link_group_tile,
)
def multiply_groups(task: int, x: Any, stored: Any, parts: Any, out: Any, partition: Any) -> None:
    """One rectangle of out = epilogue(x . weight.T).

    x : [M, K], adjacent elements in a row; stored : codes, halves, small and facts, see `storage`
    parts : an Epilogue's fields; out : [M, N], adjacent elements in a row; partition : GroupPartition's fields
    """
    codes, halves, small, facts = stored
    weight = Weight(codes, halves, small, facts[0], facts[1], facts[2])
    epilogue, cut = Epilogue(*parts), GroupPartition(*partition)
    row_task, panel_task, groups = task // cut.panel_parts, task % cut.panel_parts, small.shape[1]
    columns = columns_of(epilogue, NR, out)
    first_row, last_row = part(out.shape[0], cut.row_parts, row_task)
    first_panel, last_panel = part(codes.shape[0], cut.panel_parts, panel_task)
    mc = min(cut.mc, last_row - first_row)
    records = np.empty(mc * groups * STEP + _LINE, np.int32)
    sums = np.empty(max(mc, MR) * NR + _LINE, np.float32)
    slab = min(SLAB, groups)
    scales = np.empty(panels_beside(1) * 2 * SLAB * NR + _LINE, np.float32)
    widened = np.empty(slab * WORDS * NR + _LINE, np.int32)
    for row in range(first_row, last_row, mc):
        rows = min(mc, last_row - row)
        # In the loop, which keeps the arrays alive: they are let go after the last use of their names.
        scratch = _Scratch(aligned(records), aligned(sums), aligned(scales), aligned(widened))
        quantise_rows(x, row, rows, groups, weight.zero, scratch.records)
        panel = first_panel
        while panel < last_panel:
            beside = panels_beside(rows) if rows <= MR else 1
            if panel + beside > last_panel:
                beside = 1
            _begin_sums(epilogue, panel * NR, columns, rows, beside * NR, scratch.sums)
            for first in range(0, groups, slab):
                _add_slab(weight, panel, beside, first, min(slab, groups - first), rows, scratch)
            for i in range(beside):
                finished, column = Rows(offset(scratch.sums, i * NR), beside * NR), (panel + i) * NR
                finish_tile(Tile(finished, rows, min(NR, columns - column), row, column, scratch.sums), epilogue, out)
            panel += beside
