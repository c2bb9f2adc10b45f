"""The innermost product: one register tile of C from a strip of A and a panel of B.

    C[0:m, 0:NR] = A[0:m, 0:k] . B[0:k, 0:NR]        (or += with accumulate)

    A : row-major, `lda` elements from row to row, elements of a row adjacent; not packed: each element is broadcast
    B : a packed panel, k rows of NR adjacent elements          k
    C : row-major, `ldc` elements from row to row              [b0 ........ b(NR-1)]
                                                               [b0 ........ b(NR-1)]  ...
Meanwhile what lies `ahead` is asked for, `ahead_step` elements further with each k: the B that comes next may be in L3
or memory, and asking for all of it at once would hold up the loads of this tile.

The accumulators of the whole tile stay in vector registers over all of k. m runs from 1 to MR: each height has its own
loop, chosen by one switch, so that a short tile at the edge costs its own rows only. Every element of C is one chain
of FMAs in the order of k, whatever the tile it falls in: results do not depend on how work is divided.
MR and NR: see `fastsedd_kernels.cpu.Isa`. The structure is that of BLIS (Van Zee and van de Geijn 2015).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastsedd_kernels import _simd
from fastsedd_kernels.cpu import isa

ROWS = isa().tile_rows
COLUMNS = {
    np.dtype(np.float32): isa().lanes * isa().tile_vectors,
    np.dtype(np.float64): isa().lanes * isa().tile_vectors // 2,
}


def _make_multiply_tile(element: Any, lanes: int) -> Callable[..., None]:
    """The micro-kernel for float32 or float64 elements."""
    vector = _simd.vector_type(element, lanes)
    vectors = isa().tile_vectors

    @intrinsic  # type: ignore[untyped-decorator]
    def multiply_tile(
        typing_context: Any, m: Any, k: Any, a: Any, lda: Any, b: Any, c: Any, ldc: Any, accumulate: Any,
        ahead: Any, ahead_step: Any,
    ) -> Any:  # fmt: skip
        """C[0:m] (+)= A[0:m, 0:k] . B; see the module. 1 <= m <= ROWS, k >= 1."""
        element_pointer = types.CPointer(element)
        signature = types.void(
            types.intp,
            types.intp,
            element_pointer,
            types.intp,
            element_pointer,
            element_pointer,
            types.intp,
            types.boolean,
            element_pointer,
            types.intp,
        )

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            m, k, a, lda, b, c, ldc, accumulate, ahead, ahead_step = arguments
            done = builder.append_basic_block("tile_done")
            heights = [builder.append_basic_block(f"tile_rows_{rows}") for rows in range(1, ROWS + 1)]
            switch = builder.switch(m, done)
            for rows, block in enumerate(heights, start=1):
                switch.add_case(_simd.index(rows), block)
                builder.position_at_end(block)
                _emit_tile(builder, vector, vectors, rows, k, a, lda, b, c, ldc, accumulate, ahead, ahead_step)
                builder.branch(done)
            builder.position_at_end(done)
            return context.get_dummy_value()

        return signature, codegen

    made: Callable[..., None] = multiply_tile
    return made


def _emit_tile(
    builder: ir.IRBuilder, vector: ir.VectorType, vectors: int, rows: int,
    k: Any, a: Any, lda: Any, b: Any, c: Any, ldc: Any, accumulate: Any, ahead: Any, ahead_step: Any,
) -> None:  # fmt: skip
    """Load or clear the accumulators, run over k, store them."""
    lanes = vector.count
    a_rows = [builder.gep(a, [builder.mul(lda, _simd.index(i))]) for i in range(rows)]
    targets = [
        builder.gep(c, [builder.add(builder.mul(ldc, _simd.index(i)), _simd.index(j * lanes))])
        for i in range(rows)
        for j in range(vectors)
    ]
    before = builder.block
    start = builder.append_basic_block("accumulators")
    loop = builder.append_basic_block("over_k")
    builder.cbranch(accumulate, start, loop)
    builder.position_at_end(start)
    initial = [_simd.load(builder, target, vector) for target in targets]
    builder.branch(loop)

    builder.position_at_end(loop)
    step = builder.phi(_simd.INDEX)
    accumulators = [builder.phi(vector) for _ in targets]
    row_of_b = builder.gep(b, [builder.mul(step, _simd.index(lanes * vectors))])
    b_vectors = [_simd.load(builder, builder.gep(row_of_b, [_simd.index(j * lanes)]), vector) for j in range(vectors)]
    _simd.prefetch(builder, builder.gep(ahead, [builder.mul(step, ahead_step)]))
    products = []
    for i in range(rows):
        scalar = _simd.broadcast(builder, builder.load(builder.gep(a_rows[i], [step])), vector)
        for j in range(vectors):
            accumulator = accumulators[i * vectors + j]
            products.append(_simd.multiply_add(builder, scalar, b_vectors[j], accumulator, vector))
    following = builder.add(step, _simd.index(1))
    for block, first_step in ((before, 0), (start, 0)):
        step.add_incoming(_simd.index(first_step), block)
    step.add_incoming(following, loop)
    for accumulator, loaded, product in zip(accumulators, initial, products, strict=True):
        accumulator.add_incoming(_simd.zeros(vector), before)
        accumulator.add_incoming(loaded, start)
        accumulator.add_incoming(product, loop)
    finish = builder.append_basic_block("store_tile")
    builder.cbranch(builder.icmp_signed("<", following, k), loop, finish)

    builder.position_at_end(finish)
    for target, product in zip(targets, products, strict=True):
        _simd.store(builder, product, target, vector)


multiply_tile_float32 = _make_multiply_tile(types.float32, isa().lanes)
multiply_tile_float64 = _make_multiply_tile(types.float64, isa().lanes // 2)
