"""The kernels of Strassen's product: sums of B's blocks as panels, and products that go to their blocks of C.

    for a block of rows              MC rows of each block of C
        for an outer product         two levels only: a sum of A's halves, [2 MC, 2 K'], in L2 or L3
            for a product            a sum of blocks of A, [MC, K'], in L2
                for a panel of B     K' x NR, from L3 or memory: prefetched ahead of its use
                    for a tile       MR x NR of the product in registers, then added to its blocks of C from L1

No sum and no product is ever stored whole: sums of B are formed while its panels are packed, in one pass over B, sums
of A while a block of rows is copied, and a finished tile is added to each block of C that it is part of. The cache
lines of these blocks are prefetched while the tile is multiplied.

A size that the blocks do not divide is padded with zeros which no memory holds: copies and panels end in zeros, and
what a tile has beyond C is not written. A task is a block of rows, of some panels, in all products; so each element
of C is summed by one thread in one order. `product` has the products, and their source.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import float32, float64, types

from fastsedd_kernels.gemm.dot_products import UNROLL
from fastsedd_kernels.gemm.microkernel import link_tile, multiply_tile, tile_rows
from fastsedd_kernels.gemm.operands import Prefetch, Rows, Start, ahead_of, share_of
from fastsedd_kernels.gemm.pack_b import pack_columns, pack_elements
from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.runtime.kernel import Kernel, kernel
from fastsedd_kernels.runtime.machines import CACHE_LINE
from fastsedd_kernels.runtime.scalar import aligned, element_at, elements_per_line, offset, pointer
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

PANELS_PER_TASK = 4  # of `pack_sums`: neighbouring panels share pages of B
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
    """`count` adjacent elements from one on, zeros where there are no more; those of the next chunk are prefetched.

    Runs are too short for the CPU's own prefetchers.
    """
    for j in range(first, first + count, lanes_at(target)):
        prefetch_l2(pointer(source, j + next_row))
        left = source.shape[0] - j
        value = load_some(pointer(source, j), left, zero) if left > 0 else splat(zero)
        store_vector(offset(target, j - first), value)


@jit
def _put(target: Any, value: Any, streamed: bool) -> None:
    """Store a vector, past the caches where it is streamed."""
    if streamed:
        stream_vector(target, value)
    else:
        store_vector(target, value)


@jit
def _seven_sums(b: Any, step: int, count: int, target: Any, target_step: int, streamed: bool) -> None:
    """The seven products' sums of B's four blocks, which are `step` elements apart."""
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


def pack_sums(task: int, weight: Any, columns: int, panels: Any) -> None:
    """PANELS_PER_TASK panels of every product, from the blocks of B = weight.T, [K', columns] each.

    weight : [N, K], any strides; panels : [products, ceil(columns / NR), K', NR]
    """
    products, count, depth, nr = panels.shape
    twice = products > PRODUCTS
    blocks = 16 if twice else 4
    first = task * PANELS_PER_TASK
    taken = min(PANELS_PER_TASK, count - first)
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


@jit
def _add_row(source: Any, step: int, inside: int, sign: int, depth: int, target: Any) -> None:
    """target[0:depth] (+)= sign * source, `step` elements from one to the next, zeros after `inside` of them."""
    zero = element_at(target, 0)
    if step != 1:
        for k in range(depth):
            value = source[k * step] if k < inside else zero
            target[k] = value if sign == STORE else target[k] + (-value if sign < 0 else value)
        return
    factor = splat(element_at(target, -1 if sign < 0 else 1))
    for k in range(0, depth, lanes_at(target)):
        value = load_some(offset(source, k), inside - k, zero) if k < inside else splat(zero)
        place = offset(target, k)
        store_vector(place, value if sign == STORE else fma(value, factor, load_vector(place)))


class _View(NamedTuple):
    """A matrix in memory: a pointer, elements from row to row and from column to column, and its size; zeros beyond."""

    pointer: Any
    row_step: Any
    column_step: Any
    height: Any
    width: Any


class _Part(NamedTuple):
    """A task's rows of each block of A: from `first` on; block_rows, depth : sizes of a block; twice : of two levels"""

    first: Any
    rows: Any
    block_rows: Any
    depth: Any
    twice: Any


class _Blocks(NamedTuple):
    """C, cut into blocks of rows x columns; parts : which of them each product is part of, see `product`"""

    out: Any
    rows: Any
    columns: Any
    parts: Any


class _Place(NamedTuple):
    """A tile's place in a block, and its size."""

    row: Any
    column: Any
    rows: Any
    columns: Any


@jit
def _sum_blocks(x: Any, block_rows: int, block_columns: int, terms: Any, rows: int, target: Any) -> None:
    """target[0:rows] = a product's sum of the first rows of blocks of x.

    x : _View; terms : two blocks, and the second's sign, 0 where there is none
    target : Rows of block_columns and up to a register more
    """
    first, second, sign = terms[0], terms[1], terms[2]
    for r in range(rows):
        for term in range(1 if sign == 0 else 2):
            block = second if term else first
            row, column = (block // 2) * block_rows + r, (block % 2) * block_columns
            inside = x.width - column if row < x.height else 0
            source = offset(x.pointer, row * x.row_step + column * x.column_step)
            place = offset(target.pointer, r * target.stride)
            _add_row(source, x.column_step, inside, sign if term else STORE, block_columns, place)


@jit
def _rows_from(a: Any, row: int) -> Any:
    """The rows of A from one on."""
    lda, step = a.strides[0] // a.itemsize, a.strides[1] // a.itemsize
    return _View(pointer(a, row * lda), lda, step, a.shape[0] - row, a.shape[1])


@jit
def _rows_of_product(product: int, a: Any, sums: Any, part: Any, halves: Any, copy: Any) -> Any:
    """The task's rows of the product's sum of blocks of A, as Rows: of `copy`, or of `halves` where it is one block.

    halves, copy : Rows of scratch memory; halves : of two levels, the outer sum, made with the first of its products
    """
    inner, outer = product % PRODUCTS, product // PRODUCTS
    if not part.twice:
        _sum_blocks(_rows_from(a, part.first), part.block_rows, part.depth, sums[inner], part.rows, copy)
        return copy
    if inner == 0:
        for half in range(2):
            top = half * part.block_rows + part.first
            target = Rows(offset(halves.pointer, half * part.rows * halves.stride), halves.stride)
            _sum_blocks(_rows_from(a, top), 2 * part.block_rows, 2 * part.depth, sums[outer], part.rows, target)
    block = sums[inner, 0]
    if sums[inner, 2] == 0:
        place = (block // 2) * part.rows * halves.stride + (block % 2) * part.depth
        return Rows(offset(halves.pointer, place), halves.stride)
    # numpy.intp, not a literal, which would compile `_sum_blocks` once more.
    view = _View(halves.pointer, halves.stride, np.intp(1), 2 * part.rows, 2 * part.depth)
    _sum_blocks(view, part.rows, part.depth, sums[inner], part.rows, copy)
    return copy


@jit
def _add_tile(tile: Any, rows: int, columns: int, sign: int, target: Any) -> None:
    """A part of a block of C (+)= sign * tile. tile, target : Rows"""
    factor = splat(element_at(tile.pointer, -1 if sign < 0 else 1))
    for r in range(rows):
        for j in range(0, columns, lanes_at(tile.pointer)):
            value = load_vector(offset(tile.pointer, r * tile.stride + j))
            place = offset(target.pointer, r * target.stride + j)
            if sign != STORE:
                value = fma(value, factor, load_some(place, columns - j, element_at(tile.pointer, 1)))
            store_some(place, value, columns - j)


@jit
def _place_in(blocks: Any, product: int, part: int) -> Any:
    """(row, column, pointer) in C where the product's part-th block begins; beyond C for padding."""
    row, column = blocks.parts[product, part, 0] * blocks.rows, blocks.parts[product, part, 1] * blocks.columns
    return row, column, pointer(blocks.out, row * (blocks.out.strides[0] // blocks.out.itemsize) + column)


@jit
def _multiply_tile(a: Any, b: Any, depth: int, ahead: Any, tile: Any, place: Any, product: int, blocks: Any) -> None:
    """A [rows, depth] . B, added at a place to the blocks of C that the product is part of.

    a, b, tile : Rows; ahead : the tile's `share_of` the block of B to prefetch
    The micro-kernel prefetches two places of C while it multiplies; a tile that goes to more is multiplied in as many
    parts.
    """
    out, (beyond, lines) = blocks.out, ahead
    ldc, lanes = out.strides[0] // out.itemsize, lanes_at(tile.pointer)
    inside = place.row * ldc + place.column  # a block
    places = 1
    while places < blocks.parts.shape[1] and blocks.parts[product, places, 2] != 0:
        places += 1
    pairs = (places + 1) // 2
    for pair in range(pairs):
        k, k_end = depth * pair // pairs, depth * (pair + 1) // pairs
        _, _, first = _place_in(blocks, product, 2 * pair)
        _, _, second = _place_in(blocks, product, min(2 * pair + 1, places - 1))
        block = offset(beyond, k // UNROLL * lines * elements_per_line(beyond))
        multiply_tile(
            place.rows,
            -(-place.columns // lanes),
            k_end - k,
            Rows(offset(a.pointer, k), a.stride),
            Rows(offset(b.pointer, k * b.stride), b.stride),
            tile,
            Start(pair > 0, tile.pointer, tile.stride),
            Prefetch(block, lines, offset(first, inside), offset(second, inside), ldc),
        )
    for part in range(places):
        top, left, target = _place_in(blocks, product, part)
        high = min(place.rows, out.shape[0] - top - place.row)
        wide = min(place.columns, out.shape[1] - left - place.column)
        if high > 0 and wide > 0:
            _add_tile(tile, high, wide, blocks.parts[product, part, 2], Rows(offset(target, inside), ldc))


def multiply_blocks(task: int, a: Any, panels: Any, sums: Any, parts: Any, out: Any, block: Any, division: Any) -> None:
    """C [+]= A . B: a part of each block's rows, times a part of the panels, of all products.

    a : [M, K], any strides; panels : of `pack_sums`; sums, parts : see `product`
    out : [M, N], adjacent elements in a row, apart from a; block : (rows, columns) of a block of C
    division : (parts of a block's rows, parts of the panels), a task each
    """
    products, count, depth, nr = panels.shape
    row_parts, panel_parts = division
    row_part, panel_part = task // panel_parts, task % panel_parts
    row = block[0] * row_part // row_parts
    rows = block[0] * (row_part + 1) // row_parts - row
    first_panel, last_panel = count * panel_part // panel_parts, count * (panel_part + 1) // panel_parts
    line = CACHE_LINE // a.itemsize
    part = _Part(row, rows, block[0], depth, products > PRODUCTS)
    stride, wide = depth + line, 2 * depth + line  # so that rows do not share sets of L1
    height = tile_rows(pointer(panels, 0))
    tiles = -(-rows // height)
    tile = np.empty(height * nr + line, out.dtype)
    copy = np.empty(rows * stride + 2 * line, out.dtype)
    halves = np.empty(2 * rows * wide + 2 * line if part.twice else 0, out.dtype)
    blocks = _Blocks(out, block[0], block[1], parts)
    for product in range(products):
        of_a = _rows_of_product(product, a, sums, part, Rows(aligned(halves), wide), Rows(aligned(copy), stride))
        for panel in range(first_panel, last_panel):
            b = Rows(pointer(panels, (product * count + panel) * depth * nr), nr)
            ahead = ahead_of(offset(b.pointer, nr * depth), nr * depth, depth, tiles)
            for t in range(tiles):
                top = t * height
                column = panel * nr
                place = _Place(row + top, column, min(height, rows - top), min(nr, block[1] - column))
                from_top = Rows(offset(of_a.pointer, top * of_a.stride), of_a.stride)
                _multiply_tile(from_top, b, depth, share_of(ahead, t), Rows(aligned(tile), nr), place, product, blocks)


def _pack_kernel(element: Any) -> Kernel:
    return kernel(types.Array(element, 2, "A", readonly=True), types.intp, element[:, :, :, ::1])(pack_sums)


def _multiply_kernel(element: Any) -> Kernel:
    pair = types.UniTuple(types.intp, 2)
    signature = (
        types.Array(element, 2, "A", readonly=True),
        types.Array(element, 4, "C", readonly=True),
        types.Array(types.intp, 2, "C", readonly=True),
        types.Array(types.intp, 3, "C", readonly=True),
        types.Array(element, 2, "A"),
        pair,
        pair,
    )
    return kernel(*signature, link=lambda: link_tile(element))(multiply_blocks)


_ELEMENTS = {np.dtype(np.float32): float32, np.dtype(np.float64): float64}

# By dtype.
PACK_SUMS = {dtype: _pack_kernel(element) for dtype, element in _ELEMENTS.items()}
MULTIPLY_BLOCKS = {dtype: _multiply_kernel(element) for dtype, element in _ELEMENTS.items()}
