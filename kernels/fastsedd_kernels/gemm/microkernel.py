"""The innermost product: one register tile of C from a strip of A and a panel of B.

    C[0:m, 0:NR] = A[0:m, 0:k] . B[0:k, 0:NR]        (or += with accumulate)

    A : row-major, `lda` elements from row to row, elements of a row adjacent; not packed: each element is broadcast
    B : k rows of NR adjacent elements, `ldb` elements from row to row: NR in a packed panel
    C : row-major, `ldc` elements from row to row

Meanwhile it asks for what the caller needs next, spread over k, since asking for all at once would hold up the loads of
this tile: with each k for what lies `ahead`, `ahead_step` elements further each time (the B that comes next, in L3 or
memory); with every CHUNK of k for one row of `result`, `result_step` elements apart (where the tile ends up: stores
that wait for their cache lines hold up loads too).

The accumulators of the whole tile stay in vector registers over all of k. m runs from 1 to MR: each height has its own
loop, chosen by one switch, so that a short tile at the edge costs its own rows only. Every element of C is one chain
of FMAs in the order of k, whatever the tile it falls in: results do not depend on how work is divided.
MR and NR: see `fastsedd_kernels.cpu.Isa`. The structure is that of BLIS (Van Zee and van de Geijn 2015).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastsedd_kernels import _simd
from fastsedd_kernels.cpu import isa

ROWS = isa().tile_rows
VECTORS = isa().tile_vectors
CHUNK = 16  # short enough that a shallow product's tile has been asked for when it is stored
COLUMNS = {
    np.dtype(np.float32): isa().lanes * VECTORS,
    np.dtype(np.float64): isa().lanes * VECTORS // 2,
}


class _Operands(NamedTuple):
    """The LLVM values of a call, in the order of `multiply_tile`'s parameters after m."""

    k: Any
    a: Any
    lda: Any
    b: Any
    ldb: Any
    c: Any
    ldc: Any
    accumulate: Any
    ahead: Any
    ahead_step: Any
    result: Any
    result_step: Any


@intrinsic  # type: ignore[untyped-decorator]
def multiply_tile(
    typing_context: Any, m: Any, k: Any, a: Any, lda: Any, b: Any, ldb: Any, c: Any, ldc: Any, accumulate: Any,
    ahead: Any, ahead_step: Any, result: Any, result_step: Any,
) -> Any:  # fmt: skip
    """C[0:m] (+)= A[0:m, 0:k] . B, of float32 or float64; see the module. 1 <= m <= ROWS, k >= 1."""
    element = a.dtype
    lanes = isa().lanes * types.float32.bitwidth // element.bitwidth
    vector = _simd.vector_type(element, lanes)
    count, elements = types.intp, types.CPointer(element)
    signature = types.void(
        count, count, elements, count, elements, count, elements, count, types.boolean, elements, count, elements, count
    )

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        m, *rest = arguments
        done = builder.append_basic_block("tile_done")
        heights = [builder.append_basic_block(f"tile_rows_{rows}") for rows in range(1, ROWS + 1)]
        switch = builder.switch(m, done)
        for rows, block in enumerate(heights, start=1):
            switch.add_case(_simd.index(rows), block)
            builder.position_at_end(block)
            _emit_tile(builder, vector, rows, _Operands(*rest))
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return signature, codegen


def _emit_tile(builder: ir.IRBuilder, vector: ir.VectorType, rows: int, operands: _Operands) -> None:
    """Load or clear the accumulators, run over k in chunks, store them."""
    before = builder.block
    loading, chunk, over_k, chunk_done, done = (
        builder.append_basic_block(name) for name in ("load_tile", "chunk", "over_k", "chunk_done", "store_tile")
    )
    targets = _tile_of(builder, vector, rows, operands)
    builder.cbranch(operands.accumulate, loading, chunk)
    builder.position_at_end(loading)
    loaded = [_simd.load(builder, target, vector) for target in targets]
    builder.branch(chunk)

    builder.position_at_end(chunk)
    first_k = builder.phi(_simd.INDEX)
    result = builder.phi(operands.result.type)
    begun = [builder.phi(vector) for _ in targets]
    for j in range(VECTORS):
        _simd.prefetch(builder, builder.gep(result, [_simd.index(j * vector.count)]), write=True)
    whole = builder.add(first_k, _simd.index(CHUNK))
    last_k = builder.select(builder.icmp_signed("<", whole, operands.k), whole, operands.k)
    builder.branch(over_k)

    builder.position_at_end(over_k)
    step = builder.phi(_simd.INDEX)
    sums = [builder.phi(vector) for _ in targets]
    added = _add_products(builder, vector, rows, operands, step, sums)
    next_k = builder.add(step, _simd.index(1))
    builder.cbranch(builder.icmp_signed("<", next_k, last_k), over_k, chunk_done)

    builder.position_at_end(chunk_done)
    next_result = builder.gep(result, [operands.result_step])
    builder.cbranch(builder.icmp_signed("<", last_k, operands.k), chunk, done)

    builder.position_at_end(done)
    for target, total in zip(targets, added, strict=True):
        _simd.store(builder, total, target, vector)

    clear = [_simd.zeros(vector)] * len(targets)
    for block, k, row, values in (
        (before, _simd.index(0), operands.result, clear),
        (loading, _simd.index(0), operands.result, loaded),
        (chunk_done, last_k, next_result, added),
    ):
        _come_from(block, [first_k, result, *begun], [k, row, *values])
    _come_from(chunk, [step, *sums], [first_k, *begun])
    _come_from(over_k, [step, *sums], [next_k, *added])


def _tile_of(builder: ir.IRBuilder, vector: ir.VectorType, rows: int, operands: _Operands) -> list[Any]:
    """Pointers to the vectors of C's tile, row by row."""
    return [
        builder.gep(operands.c, [builder.add(builder.mul(operands.ldc, _simd.index(i)), _simd.index(j * vector.count))])
        for i in range(rows)
        for j in range(VECTORS)
    ]


def _add_products(
    builder: ir.IRBuilder, vector: ir.VectorType, rows: int, operands: _Operands, k: Any, sums: list[Any]
) -> list[Any]:
    """The sums of the tile after one k: a row of B in registers, each element of A's column broadcast."""
    row_of_b = builder.gep(operands.b, [builder.mul(k, operands.ldb)])
    b = [_simd.load(builder, builder.gep(row_of_b, [_simd.index(j * vector.count)]), vector) for j in range(VECTORS)]
    _simd.prefetch(builder, builder.gep(operands.ahead, [builder.mul(k, operands.ahead_step)]))
    added = []
    for i in range(rows):
        row_of_a = builder.gep(operands.a, [builder.mul(operands.lda, _simd.index(i))])
        element = _simd.broadcast(builder, builder.load(builder.gep(row_of_a, [k])), vector)
        added += [_simd.multiply_add(builder, element, b[j], sums[i * VECTORS + j], vector) for j in range(VECTORS)]
    return added


def _come_from(block: Any, phis: list[Any], values: list[Any]) -> None:
    for phi, value in zip(phis, values, strict=True):
        phi.add_incoming(value, block)
