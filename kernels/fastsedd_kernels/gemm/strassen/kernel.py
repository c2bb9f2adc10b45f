"""The kernels of Strassen's product: sums of B's blocks as panels, and products that go to their blocks of C.

    for a block of rows              MC rows of each block of C
        for an outer product         two levels only: a sum of A's halves, [2 MC, 2 K'], in L2 or L3
            for a product            a sum of blocks of A, [MC, K'], in L2
                for a panel of B     K' x NR, from L3 or memory: asked for ahead of its use
                    for a tile       MR x NR of the product in registers, then added to its blocks of C from L1

No sum and no product is ever stored whole: sums of B are formed while its panels are packed, in one pass over B, sums
of A while a block of rows is copied, and a finished tile is added to each block of C that it is part of. The cache
lines of these blocks are asked for while the tile is multiplied.

A size that the blocks do not divide is padded with zeros which no memory holds: copies and panels end in zeros, and
what a tile has beyond C is not written. A task is a block of rows, of some panels, in all products; so each element
of C is summed by one thread in one order. `strassen` has the products, and where they come from.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, float64, types

from fastsedd_kernels.gemm.dot_products import UNROLL
from fastsedd_kernels.gemm.microkernel import link_tile, multiply_tile, tile_rows
from fastsedd_kernels.gemm.pack_b import pack_columns, pack_elements
from fastsedd_kernels.runtime.cpu import CACHE_LINE
from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.runtime.kernel import Kernel, kernel
from fastsedd_kernels.runtime.scalar import aligned, offset, pointer
from fastsedd_kernels.simd.vector import (
    fma,
    lanes_at,
    load_some,
    load_vector,
    prefetch_l2,
    splat,
    store_some,
    store_vector,
    stream_vector,
)

PRODUCTS = 7
STORE = 2  # in place of a sign: what a sum begins with

PANELS_A_TASK = 4  # of `pack_sums`: neighbouring panels share pages of B
_CHUNK = 16  # k of `pack_sums`: whole squares of registers; all blocks' chunks, and their sums, are in L2 together
_HALVES = 4 * PRODUCTS  # chunks that the outer level leaves to the inner one


@jit
def _gather(weight: Any, row: int, k: int, chunk: Any) -> None:
    """chunk[p, i, j] = weight[row + p * NR + j, k + i], zero where the weight ends."""
    panels, depth, nr = chunk.shape
    zero = chunk.dtype.type(0)
    inside = max(0, min(depth, weight.shape[1] - k))
    for p in range(panels):
        for i in range(inside, depth):
            for j in range(nr):
                chunk[p, i, j] = zero
    step = weight.itemsize
    if weight.strides[0] == step:
        for i in range(inside):
            for p in range(panels):
                target = pointer(chunk, (p * depth + i) * nr)
                _gather_row(weight[:, k + i], row + p * nr, nr, target, _CHUNK * weight.strides[1] // step, zero)
        return
    adjacent = weight.strides[1] == step and weight.strides[0] % step == 0
    for p in range(panels):
        if adjacent:
            pack_columns(weight[:, k:], row + p * nr, chunk[p, :inside])
        else:
            pack_elements(weight[:, k:], row + p * nr, chunk[p, :inside], np.intp(0), np.intp(0))


@jit
def _gather_row(source: Any, first: int, count: int, target: Any, next_row: int, zero: float) -> None:
    """`count` adjacent elements from one on, zeros where there are no more; those of the next chunk are asked for.

    No prefetcher of the CPU's sees runs this short coming.
    """
    for j in range(first, first + count, lanes_at(target)):
        prefetch_l2(pointer(source, j + next_row))
        left = source.shape[0] - j
        value = load_some(pointer(source, j), left, zero) if left > 0 else splat(zero)
        store_vector(offset(target, j - first), value)


@jit
def _put(target: Any, value: Any, streamed: bool) -> None:
    if streamed:
        stream_vector(target, value)
    else:
        store_vector(target, value)


@jit
def _seven_sums(b: Any, step: int, count: int, target: Any, target_step: int, streamed: bool) -> None:
    """What the seven products take of B: sums of its four blocks, which are `step` elements apart."""
    for i in range(0, count, lanes_at(b)):
        b11, b12 = load_vector(offset(b, i)), load_vector(offset(b, i + step))
        b21, b22 = load_vector(offset(b, i + 2 * step)), load_vector(offset(b, i + 3 * step))
        _put(offset(target, i), b11 + b22, streamed)
        _put(offset(target, i + target_step), b11, streamed)
        _put(offset(target, i + 2 * target_step), b12 - b22, streamed)
        _put(offset(target, i + 3 * target_step), b21 - b11, streamed)
        _put(offset(target, i + 4 * target_step), b22, streamed)
        _put(offset(target, i + 5 * target_step), b11 + b12, streamed)
        _put(offset(target, i + 6 * target_step), b21 + b22, streamed)


def _make_pack(element: Any) -> Kernel:
    def pack_sums(task: int, weight: Any, columns: int, panels: Any) -> None:
        """PANELS_A_TASK panels of every product, from the blocks of B = weight.T, [K', columns] each.

        weight : [N, K], any strides; panels : [products, ceil(columns / NR), K', NR]
        """
        products, count, depth, nr = panels.shape
        twice = products > PRODUCTS
        blocks = 16 if twice else 4
        first = task * PANELS_A_TASK
        taken = min(PANELS_A_TASK, count - first)
        memory = np.empty((blocks + _HALVES) * taken * _CHUNK * nr, weight.dtype)
        step = count * depth * nr  # from product to product
        for k in range(0, depth, _CHUNK):
            rows = min(_CHUNK, depth - k)
            size = taken * rows * nr
            for block in range(blocks):  # of two levels: those of the outer level's first block, then of its second...
                outer, inner = block // 4, block % 4
                row, column = inner // 2, inner % 2
                if twice:
                    row, column = row + 2 * (outer // 2), column + 2 * (outer % 2)
                chunk = memory[block * size : (block + 1) * size].reshape(taken, rows, nr)
                _gather(weight, column * columns + first * nr, row * depth + k, chunk)
            chunks = pointer(memory, 0)
            halves = offset(chunks, blocks * size)
            if twice:
                _seven_sums(chunks, 4 * size, 4 * size, halves, 4 * size, False)
            for p in range(taken):
                place = p * rows * nr
                target = pointer(panels, ((first + p) * depth + k) * nr)
                if twice:
                    for outer in range(PRODUCTS):
                        source = offset(halves, 4 * outer * size + place)
                        _seven_sums(source, size, rows * nr, offset(target, outer * PRODUCTS * step), step, True)
                else:
                    _seven_sums(offset(chunks, place), size, rows * nr, target, step, True)

    pack_sums.__name__ = f"pack_sums_{element}"
    return kernel(types.Array(element, 2, "A", readonly=True), types.intp, element[:, :, :, ::1])(pack_sums)


@jit
def _add_row(source: Any, step: int, inside: int, sign: int, depth: int, target: Any, one: float) -> None:
    """target[0:depth] (+)= sign * source, `step` elements from one to the next, zeros after `inside` of them."""
    zero = one - one
    if step != 1:
        for k in range(depth):
            value = source[k * step] if k < inside else zero
            target[k] = value if sign == STORE else target[k] + (-value if sign < 0 else value)
        return
    factor = splat(-one if sign < 0 else one)
    for k in range(0, depth, lanes_at(target)):
        value = load_some(offset(source, k), inside - k, zero) if k < inside else splat(zero)
        place = offset(target, k)
        store_vector(place, value if sign == STORE else fma(value, factor, load_vector(place)))


@jit
def _sum_blocks(
    x: Any, lda: int, step: int, height: int, width: int, block_rows: int, block_columns: int, sums: Any, product: int,
    rows: int, target: Any, stride: int, one: float,
) -> None:  # fmt: skip
    """target[0:rows] = the product's sum of the first rows of blocks of x.

    x : [height, width], `lda` and `step` elements from one row and column to the next; zeros beyond
    sums : [7, 3], see `strassen`; target : rows of block_columns and up to a register more, `stride` elements apart
    """
    first, second, sign = sums[product, 0], sums[product, 1], sums[product, 2]
    for r in range(rows):
        for term in range(1 if sign == 0 else 2):
            block = second if term else first
            row, column = (block // 2) * block_rows + r, (block % 2) * block_columns
            inside = width - column if row < height else 0
            source = offset(x, row * lda + column * step)
            _add_row(source, step, inside, sign if term else STORE, block_columns, offset(target, r * stride), one)


@jit
def _add_tile(tile: Any, nr: int, rows: int, columns: int, sign: int, target: Any, ldc: int, one: float) -> None:
    """A part of a block of C (+)= sign * tile."""
    factor = splat(-one if sign < 0 else one)
    for r in range(rows):
        for j in range(0, columns, lanes_at(tile)):
            value, place = load_vector(offset(tile, r * nr + j)), offset(target, r * ldc + j)
            if sign != STORE:
                value = fma(value, factor, load_some(place, columns - j, one))
            store_some(place, value, columns - j)


@jit
def _place_in(out: Any, parts: Any, product: int, part: int, block_rows: int, block_columns: int) -> Any:
    """(row, column, pointer) in out where the product's part-th block begins; beyond out for padding."""
    row, column = parts[product, part, 0] * block_rows, parts[product, part, 1] * block_columns
    return row, column, pointer(out, row * (out.strides[0] // out.itemsize) + column)


@jit
def _multiply_tile(
    a: Any, lda: int, rows: int, b: Any, nr: int, columns: int, depth: int, ahead: Any, lines: int, tile: Any,
    product: int, row: int, column: int, parts: Any, out: Any, block_rows: int, block_columns: int, one: float,
) -> None:  # fmt: skip
    """A [rows, depth] . B, added from [row, column] on to the blocks of C that the product is part of.

    The micro-kernel asks for two places while it multiplies; a tile that goes to more is multiplied in as many parts.
    """
    ldc, lanes = out.strides[0] // out.itemsize, lanes_at(tile)
    inside = row * ldc + column  # a block
    places = 1
    while places < parts.shape[1] and parts[product, places, 2] != 0:
        places += 1
    pairs = (places + 1) // 2
    for pair in range(pairs):
        k, k_end = depth * pair // pairs, depth * (pair + 1) // pairs
        _, _, first = _place_in(out, parts, product, 2 * pair, block_rows, block_columns)
        _, _, second = _place_in(out, parts, product, min(2 * pair + 1, places - 1), block_rows, block_columns)
        multiply_tile(
            rows, -(-columns // lanes), k_end - k, offset(a, k), lda, offset(b, k * nr), nr, tile, nr, pair > 0, tile,
            nr, offset(ahead, k // UNROLL * lines * lanes), lines, offset(first, inside), offset(second, inside), ldc,
        )  # fmt: skip
    for part in range(places):
        top, left, place = _place_in(out, parts, product, part, block_rows, block_columns)
        high, wide = min(rows, out.shape[0] - top - row), min(columns, out.shape[1] - left - column)
        if high > 0 and wide > 0:
            _add_tile(tile, nr, high, wide, parts[product, part, 2], offset(place, inside), ldc, one)


def _make_multiply(element: Any) -> Kernel:
    def multiply_blocks(
        task: int, a: Any, panels: Any, sums: Any, parts: Any, out: Any, block_rows: int, block_columns: int,
        row_parts: int, panel_parts: int,
    ) -> None:  # fmt: skip
        """C [+]= A . B: one of `row_parts` parts of each block's rows, and one of `panel_parts` of the panels.

        a : [M, K], any strides; panels : of `pack_sums`; sums, parts : see `strassen`; out : [M, N], adjacent elements
        in a row, blocks of block_rows x block_columns
        """
        products, count, depth, nr = panels.shape
        row_part, panel_part = task // panel_parts, task % panel_parts
        row = block_rows * row_part // row_parts
        rows = block_rows * (row_part + 1) // row_parts - row
        first_panel, last_panel = count * panel_part // panel_parts, count * (panel_part + 1) // panel_parts
        one = out.dtype.type(1)
        line = CACHE_LINE // a.itemsize
        lda, step = a.strides[0] // a.itemsize, a.strides[1] // a.itemsize
        stride, wide = depth + line, 2 * depth + line  # so that rows do not share sets of L1
        height = tile_rows(pointer(panels, 0))
        tiles = -(-rows // height)
        lines = -(-UNROLL * nr // lanes_at(pointer(panels, 0)) // max(1, tiles))  # the tiles ask for all of a panel
        twice = products > PRODUCTS
        tile = np.empty(height * nr + line, out.dtype)
        copy = np.empty(rows * stride + 2 * line, out.dtype)
        halves = np.empty(2 * rows * wide + 2 * line if twice else 0, out.dtype)
        for product in range(products):
            inner = product % PRODUCTS
            if twice and inner == 0:
                for half in range(2):
                    top = half * block_rows + row
                    _sum_blocks(
                        pointer(a, top * lda), lda, step, a.shape[0] - top, a.shape[1], 2 * block_rows, 2 * depth, sums,
                        product // PRODUCTS, rows, offset(aligned(halves), half * rows * wide), wide, one,
                    )  # fmt: skip
            rows_of_a, apart = aligned(copy), stride
            if twice and sums[inner, 2] == 0:  # a block alone
                block = sums[inner, 0]
                rows_of_a, apart = offset(aligned(halves), (block // 2) * rows * wide + (block % 2) * depth), wide
            elif twice:
                _sum_blocks(
                    aligned(halves), wide, np.intp(1), 2 * rows, 2 * depth, rows, depth, sums, inner, rows,
                    aligned(copy), stride, one,
                )  # fmt: skip
            else:
                _sum_blocks(
                    pointer(a, row * lda), lda, step, a.shape[0] - row, a.shape[1], block_rows, depth, sums, inner,
                    rows, aligned(copy), stride, one,
                )  # fmt: skip
            for panel in range(first_panel, last_panel):
                b = pointer(panels, (product * count + panel) * depth * nr)
                for t in range(tiles):
                    top = t * height
                    ahead = offset(b, (nr + t * lines * lanes_at(b) // UNROLL) * depth)
                    _multiply_tile(
                        offset(rows_of_a, top * apart), apart, min(height, rows - top), b, nr,
                        min(nr, block_columns - panel * nr), depth, ahead, lines, aligned(tile), product, row + top,
                        panel * nr, parts, out, block_rows, block_columns, one,
                    )  # fmt: skip

    multiply_blocks.__name__ = f"multiply_blocks_{element}"
    table = types.Array(types.intp, 2, "C", readonly=True), types.Array(types.intp, 3, "C", readonly=True)
    signature = (
        types.Array(element, 2, "A", readonly=True), types.Array(element, 4, "C", readonly=True), *table,
        types.Array(element, 2, "A"), *[types.intp] * 4,
    )  # fmt: skip
    return kernel(*signature, link=lambda: link_tile(element))(multiply_blocks)


_ELEMENTS = {np.dtype(np.float32): float32, np.dtype(np.float64): float64}

# By dtype.
PACK_SUMS = {dtype: _make_pack(element) for dtype, element in _ELEMENTS.items()}
MULTIPLY_BLOCKS = {dtype: _make_multiply(element) for dtype, element in _ELEMENTS.items()}
