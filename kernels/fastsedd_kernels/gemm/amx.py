"""The micro-kernel on Intel's tile registers: 32 x 32 of C in four of them, from two of A and two of B.

    tile : 16 rows of 64 bytes, 16 words each
    C    : four tiles, float32 or int32          t0 t1
                                                 t2 t3
    A    : t4 (rows 0 to 15), t5 (16 to 31), 16 words of k; one tile lies after the other along k, then those of the
           next 16 rows, for the caches' prefetchers to follow
    B    : t6, t7, 16 words of k by 16 columns each

With each 16 words of k, four loads feed four products, of 16 cycles each. The contract is that of `microkernel`,
with A in blocks (`layout`): k is a multiple of 16 words; A's stride is how many words of k there are in all of A;
blocks are read, and rows of C written, up to row 16 or 32. Tiles must be open (`open_tiles`) on the thread; while they
are, each of its context switches moves 8 KiB more.

Source: Intel 64 and IA-32 Architectures Optimization Reference Manual, chapter 20.
"""

from __future__ import annotations

import itertools
from typing import Any

from llvmlite import ir
from numba import uint32
from numba.core import cgutils

from fastsedd_kernels.gemm.dot_products import UNROLL
from fastsedd_kernels.runtime import scalar
from fastsedd_kernels.simd import emit

SIDE = 16  # rows of a tile register, and words in a row
WORD_BYTES = 4
_ROWS_PER_STEP = 4  # of the result, prefetched with each step of k

_BYTE, _VOID = ir.IntType(8), ir.VoidType()
_BYTES = _BYTE.as_pointer()

# Palette 1, no start row; then, of each of 8 tiles, the bytes of a row; then their rows.
_CONFIGURATION = bytes([1, 0, *[0] * 14, *[SIDE * WORD_BYTES, 0] * 8, *[0] * 16, *[SIDE] * 8, *[0] * 8])


def _call(builder: ir.IRBuilder, name: str, *arguments: Any) -> None:
    signature = ir.FunctionType(_VOID, [argument.type for argument in arguments])
    builder.call(cgutils.get_or_insert_function(builder.module, signature, f"llvm.x86.{name}"), arguments)


def _tile(number: int) -> ir.Constant:
    return ir.Constant(_BYTE, number)


def _move(builder: ir.IRBuilder, name: str, tile: int, pointer: Any, stride: Any) -> None:
    """Load or store a tile, whose rows are `stride` words apart."""
    step = builder.mul(stride, scalar.index(WORD_BYTES))
    _call(builder, name, _tile(tile), builder.bitcast(pointer, _BYTES), step)


def open_tiles(builder: ir.IRBuilder) -> None:
    """Make the thread's tile registers those of this module."""
    text = cgutils.global_constant(builder, "fastsedd_tiles", cgutils.make_bytearray(_CONFIGURATION))
    _call(builder, "ldtilecfg", builder.bitcast(text, _BYTES))


def close_tiles(builder: ir.IRBuilder) -> None:
    """Release the thread's tile registers."""
    _call(builder, "tilerelease")


def emit_tile(builder: ir.IRBuilder, element: Any, m: Any, vectors: Any, operands: Any) -> None:
    """A tile of C, as wide and as high as need be: of one or two tile registers each way."""
    product = "tdpbf16ps" if element == uint32 else "tdpbusd"
    done = builder.append_basic_block("tile_done")
    high = builder.zext(builder.icmp_signed(">", m, scalar.index(SIDE)), scalar.INDEX)
    switch = builder.switch(builder.add(builder.mul(high, scalar.index(2)), vectors), done)
    for rows, columns in itertools.product((1, 2), (1, 2)):
        block = builder.append_basic_block(f"tiles_{rows}x{columns}")
        switch.add_case(scalar.index(2 * (rows - 1) + columns), block)
        builder.position_at_end(block)
        _emit_tiles(builder, product, rows, columns, operands)
        builder.branch(done)
    builder.position_at_end(done)


def _emit_tiles(builder: ir.IRBuilder, product: str, rows: int, columns: int, operands: Any) -> None:
    tiles = list(itertools.product(range(rows), range(columns)))

    def place(pointer: Any, step: Any, i: int, j: int) -> Any:
        """The first element of tile (i, j) of a matrix whose rows are `step` elements apart."""
        return builder.gep(pointer, [builder.add(builder.mul(step, scalar.index(i * SIDE)), scalar.index(j * SIDE))])

    with builder.if_else(operands.accumulate) as (accumulate, clear):
        with accumulate:
            for i, j in tiles:
                start = place(operands.start, operands.start_step, i, j)
                _move(builder, "tileloadd64", 2 * i + j, start, operands.start_step)
        with clear:
            for i, j in tiles:
                _call(builder, "tilezero", _tile(2 * i + j))

    steps = builder.sdiv(operands.k, scalar.index(SIDE))
    lines = builder.mul(operands.ahead_lines, scalar.index(SIDE // UNROLL))
    result_prefetched = builder.sub(steps, scalar.index(rows * SIDE // _ROWS_PER_STEP))

    def step(steps_left: Any, values: list[Any]) -> list[Any]:
        a, b, ahead, row = values
        for i in range(rows):
            _move(builder, "tileloadd64", 4 + i, place(a, operands.lda, i, 0), scalar.index(SIDE))
        for j in range(columns):
            _move(builder, "tileloadd64", 6 + j, place(b, operands.ldb, 0, j), operands.ldb)
        for i, j in tiles:
            _call(builder, product, _tile(2 * i + j), _tile(4 + i), _tile(6 + j))
        ahead = scalar.repeat(builder, lines, [ahead], prefetch_line)[0]
        row = builder.select(builder.icmp_signed("==", steps_left, result_prefetched), operands.beside, row)
        for _, j in itertools.product(range(_ROWS_PER_STEP), range(columns)):
            emit.prefetch(builder, builder.gep(row, [scalar.index(j * SIDE)]), write=True)
            row = builder.gep(row, [operands.result_step]) if j == columns - 1 else row
        below = builder.gep(b, [builder.mul(operands.ldb, scalar.index(SIDE))])
        return [builder.gep(a, [scalar.index(SIDE * SIDE)]), below, ahead, row]

    def prefetch_line(_: Any, values: list[Any]) -> list[Any]:
        emit.prefetch(builder, values[0])
        return [builder.gep(values[0], [scalar.index(SIDE)])]

    scalar.repeat(builder, steps, [operands.a, operands.b, operands.ahead, operands.result], step)
    for i, j in tiles:
        _move(builder, "tilestored64", 2 * i + j, place(operands.c, operands.ldc, i, j), operands.ldc)
