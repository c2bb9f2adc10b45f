"""The blocked product of x with weights in groups, and its epilogue: out = epilogue(x . weight.T).

    for a block of rows              MC rows of x, rounded to bytes (`activations`), which stay in L2
        for a bundle of panels       BUNDLE x NR columns of out, whose sums begin from the bias
            for a slab of K          SLAB groups
                for a panel          scales, and for enough rows codes, are widened into L1 (`decoding`)
                    for a tile       MR x NR of the sums: the micro-kernel
            epilogue                 on the panels' sums, still in L1 or L2

Fewer rows than the machine's `widened_from` read the nibbles themselves in the micro-kernel: a panel then passes
through the registers once or twice, and memory is what it waits for. So do all rows on CPUs where that costs nothing.
One or two rows (BUNDLE_ROWS) are multiplied with a whole bundle at once, whose scales are widened in registers as well
where they are float16 alone. A task is a rectangle of out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import float32, int32, int64, types, uint8, uint16

from fastsedd_kernels.gemm.epilogue import EPILOGUE, Epilogue, columns_of, finish_tile, is_paired
from fastsedd_kernels.gemm.group_scaled.activations import quantise_rows
from fastsedd_kernels.gemm.group_scaled.decoding import decode_scales, halves_of, widen_groups
from fastsedd_kernels.gemm.group_scaled.microkernel import (
    BUNDLE,
    BUNDLE_ROWS,
    BYTES,
    MR,
    NIBBLES,
    NR,
    SLAB,
    SMALL,
    STEP,
    WORDS,
    Codes,
    TileShape,
    add_group_tile,
    link_group_tile,
    tile_number,
)
from fastsedd_kernels.gemm.group_scaled.storage import SCALE, Place, Weight
from fastsedd_kernels.gemm.macrokernel import part
from fastsedd_kernels.gemm.operands import Rows, Tile
from fastsedd_kernels.runtime.cpu import cpu_info, isa
from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.runtime.kernel import kernel
from fastsedd_kernels.runtime.machines import CACHE_LINE
from fastsedd_kernels.runtime.scalar import aligned, offset, pointer
from fastsedd_kernels.simd.narrow import as_float32
from fastsedd_kernels.simd.vector import LANES, load_some, splat, store_vector

_WIDENED_FROM = 1 << 62 if cpu_info().name in isa().never_widened else isa().widened_from
assert _WIDENED_FROM > BUNDLE_ROWS  # codes that are widened are those of one panel
_LINE = CACHE_LINE // 4
_ZERO = float32(0.0)

WEIGHT = (
    types.Array(int32, 3, "C", readonly=True), types.Array(uint16, 4, "C", readonly=True),
    types.Array(uint8, 4, "C", readonly=True), types.Array(int64, 1, "C", readonly=True),
)  # fmt: skip


class GroupPartition(NamedTuple):
    """The partition of out: parts of its rows and bundles, a task each; MC."""

    row_parts: Any
    bundle_parts: Any
    mc: Any


class _Scratch(NamedTuple):
    """records : of a block of rows; sums : of a bundle, [rows, panels * NR] for each run of panels that a tile takes
    scales : of a slab; codes : of a slab, widened"""

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
def _is_direct(weight: Any) -> Any:
    """True if scales lie as the tile of a whole bundle reads them."""
    return weight.form == SCALE and weight.span == 1


@jit
def _add_slab(weight: Any, place: Any, panels: int, first: int, groups: int, rows: int, scratch: Any) -> None:
    """Add to the sums of some panels of a bundle the products of so many groups from the first on."""
    count = weight.small.shape[1]
    words = weight.codes.shape[1] // count
    begin = (place.before * count + first * place.panels) * words + place.panel
    step = place.panels * NR
    codes = Codes(pointer(weight.codes, begin * NR), step, words * step)
    kind = BYTES if words == WORDS else NIBBLES
    direct = panels == BUNDLE and _is_direct(weight)
    scales = scratch.scales
    if direct:
        scales = as_float32(halves_of(weight, place, first))
    else:
        decode_scales(weight, place, panels, first, groups, scales)
    if kind == NIBBLES and rows >= _WIDENED_FROM:
        widen_groups(codes, groups, scratch.codes)
        kind, codes = SMALL, Codes(scratch.codes, np.intp(NR), np.intp(WORDS * NR))
    stride = count * STEP
    for top in range(0, rows, MR):
        add_group_tile(
            tile_number(TileShape(np.intp(kind), min(MR, rows - top), panels, np.intp(direct))),
            groups,
            Rows(offset(scratch.records, top * stride + first * STEP), stride),
            codes,
            scales,
            weight.form != SCALE,
            offset(scratch.sums, (place.panel * rows + top * panels) * NR),
        )


@jit
def _multiply_bundle(weight: Any, before: int, rows: int, row: int, epilogue: Any, out: Any, scratch: Any) -> None:
    """The block's rows times a bundle of panels, of which so many panels are before it."""
    count, groups = min(BUNDLE, weight.codes.shape[0] - before), weight.small.shape[1]
    columns = columns_of(epilogue, NR, out)
    panels = BUNDLE if rows <= BUNDLE_ROWS and count == BUNDLE else 1  # that a tile takes
    for panel in range(0, count, panels):
        sums = offset(scratch.sums, panel * rows * NR)
        _begin_sums(epilogue, (before + panel) * NR, columns, rows, panels * NR, sums)
    slab = groups if panels == BUNDLE and _is_direct(weight) else SLAB  # of what has no use for scratch memory
    for first in range(0, groups, slab):
        for panel in range(0, count, panels):
            place = Place(before, count, panel)
            _add_slab(weight, place, panels, first, min(slab, groups - first), rows, scratch)
    together = 1 if is_paired(epilogue) else panels  # whose columns are one tile to the epilogue
    for panel in range(0, count, together):
        sums = offset(scratch.sums, panel * NR if panels == BUNDLE else panel * rows * NR)
        column = (before + panel) * NR
        tile = Tile(Rows(sums, panels * NR), rows, min(together * NR, columns - column), row, column, scratch.sums)
        finish_tile(tile, epilogue, out)


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
    groups, bundles = small.shape[1], -(-codes.shape[0] // BUNDLE)
    first_row, last_row = part(out.shape[0], cut.row_parts, task // cut.bundle_parts)
    first_bundle, last_bundle = part(bundles, cut.bundle_parts, task % cut.bundle_parts)
    mc, slab = min(cut.mc, last_row - first_row), min(SLAB, groups)
    records = np.empty(mc * groups * STEP + _LINE, np.int32)
    sums = np.empty(BUNDLE * mc * NR + _LINE, np.float32)
    scales = np.empty(2 * SLAB * BUNDLE * NR + _LINE, np.float32)
    widened = np.empty(slab * WORDS * NR + _LINE, np.int32)
    for row in range(first_row, last_row, mc):
        rows = min(mc, last_row - row)
        # In the loop, which keeps the arrays alive: they are let go after the last use of their names.
        scratch = _Scratch(aligned(records), aligned(sums), aligned(scales), aligned(widened))
        quantise_rows(x, row, rows, groups, weight.zero, scratch.records)
        for bundle in range(first_bundle, last_bundle):
            _multiply_bundle(weight, bundle * BUNDLE, rows, row, epilogue, out, scratch)
