"""The code of register tiles: for each shape a loop over k that multiplies a strip of A with a panel of B.

Instructions beside FMAs are kept few: another program's thread on the same core may have half of its decoder (measured
with AVX-512: a sixth more speed then, for 46 instead of 61 instructions per k). So a tile of full height takes UNROLL
of k at a time; addresses cost next to nothing, since every few rows of A and of B have a pointer of their own, and x86
reaches the rows below it by an index register; and where an FMA takes a factor from a lane of a register (NEON), a
register of A is loaded at once. What is prefetched meanwhile is counted in cache lines.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir

from fastsedd_kernels.gemm.dot_products import SHAPES, UNROLL, WIDEST, Arithmetic, arithmetic_of
from fastsedd_kernels.runtime import scalar
from fastsedd_kernels.runtime.cpu import isa
from fastsedd_kernels.runtime.machines import CACHE_LINE
from fastsedd_kernels.simd import emit

CHUNK = isa().prefetch_depth
_MAX_REACH = 5  # rows of A that are reached from one pointer
_REACH_IN_B = 4  # and of B


class Operands(NamedTuple):
    """The LLVM values of a call after the tile's shape: `microkernel.multiply_tile`'s operands, field by field."""

    k: Any
    a: Any
    lda: Any
    b: Any
    ldb: Any
    c: Any
    ldc: Any
    accumulate: Any
    start: Any
    start_step: Any
    ahead: Any
    ahead_lines: Any
    result: Any
    beside: Any
    result_step: Any


def max_rows(element: Any, vectors: int) -> int:
    """MR of tiles so many registers wide."""
    return SHAPES[element].rows if vectors <= SHAPES[element].vectors else WIDEST[element].rows


def emit_tiles(builder: ir.IRBuilder, element: Any, m: Any, registers: Any, operands: Operands) -> None:
    """The tiles of all shapes, and the switch that chooses among them by rows and by registers of columns."""
    arithmetic, width = arithmetic_of(element), WIDEST[element].vectors
    done = builder.append_basic_block("tile_done")
    switch = builder.switch(builder.add(builder.mul(m, scalar.index(width)), registers), done)
    for vectors in range(1, width + 1):
        most = max_rows(element, vectors)
        for rows in range(1, most + 1):
            block = builder.append_basic_block(f"tile_{rows}x{vectors}")
            switch.add_case(scalar.index(rows * width + vectors), block)
            builder.position_at_end(block)
            _Tile(builder, arithmetic, (rows, vectors), rows == most, operands).emit()
            builder.branch(done)
    builder.position_at_end(done)


class _Step(NamedTuple):
    """Bytes from row to row, and three times as many: x86 multiplies an index register by 1, 2 or 4 as it addresses.

    They pass through each round of a loop as if they changed: LLVM would keep every multiple in a register of its own.
    """

    once: Any
    thrice: Any

    def below(self, builder: ir.IRBuilder, base: Any, row: int, element: int = 0) -> Any:
        """Pointer to an element, that many rows (0 to 4) below the base."""
        if row > 0:
            step = self.thrice if row == 3 else builder.shl(self.once, scalar.index(row.bit_length() - 1))
            start = builder.bitcast(base, ir.IntType(8).as_pointer())
            base = builder.bitcast(builder.gep(start, [step]), base.type)
        return builder.gep(base, [scalar.index(element)])


class _Cursor(NamedTuple):
    """The values that move with k: pointers into B, to what is prefetched, and into A; and the sums so far."""

    b: Any
    ahead: Any
    step_a: _Step
    step_b: _Step
    bases: list[Any]
    sums: list[Any]

    def flat(self) -> list[Any]:
        return [self.b, self.ahead, *self.step_a, *self.step_b, *self.bases, *self.sums]


class _Tile:
    """Emits the product of one shape, (rows, vectors)."""

    def __init__(
        self,
        builder: ir.IRBuilder,
        arithmetic: Arithmetic,
        shape: tuple[int, int],
        full_height: bool,
        operands: Operands,
    ) -> None:
        self.builder, self.arithmetic, self.operands = builder, arithmetic, operands
        (self.rows, self.vectors), self.full_height = shape, full_height
        self.lanes = arithmetic.operand.count
        self.line = CACHE_LINE // emit.element_bytes(arithmetic.operand)
        self.reach = -(-self.rows // -(-self.rows // _MAX_REACH))  # equal parts

    def emit(self) -> None:
        """Load or clear the accumulators, run over k, store them."""
        operands = self.operands
        steps = self._bytes(operands.lda), self._bytes(operands.ldb)
        values = _Cursor(operands.b, operands.ahead, *steps, self._bases(), self._begin()).flat()
        values = self._in_chunks(values) if self.full_height else self._in_groups(operands.k, values)
        targets = self._vectors(operands.c, operands.ldc)
        for target, total in zip(targets, self._cursor(values).sums, strict=True):
            emit.store(self.builder, total, target, self.arithmetic.total)

    def _in_chunks(self, values: list[Any]) -> list[Any]:
        """All of k: first what does not fill a group, then chunks, before each of which a row of the result, or of
        what is read beside it, is prefetched. They are the last of k, so that its lines are still there at the end.
        """
        builder, operands = self.builder, self.operands
        alone = builder.and_(operands.k, scalar.index(UNROLL - 1))
        values = scalar.repeat(builder, alone, values, self._step)
        groups, in_chunk = builder.sdiv(operands.k, scalar.index(UNROLL)), scalar.index(CHUNK // UNROLL)
        chunks = self._at_most(builder.sdiv(groups, in_chunk), 2 * self.rows)
        chunks = builder.select(builder.icmp_signed(">", chunks, scalar.index(0)), chunks, scalar.index(1))
        first = builder.sub(groups, builder.mul(builder.sub(chunks, scalar.index(1)), in_chunk))
        result_prefetched = builder.sub(chunks, scalar.index(self.rows))

        def chunk(chunks_left: Any, values: list[Any]) -> list[Any]:
            row, here, *rest = values
            row = builder.select(builder.icmp_signed("==", chunks_left, result_prefetched), operands.beside, row)
            for last in self._ends_of_lines():
                emit.prefetch(builder, builder.gep(row, [scalar.index(last)]), write=True)
            rest = scalar.repeat(builder, here, rest, self._group)
            return [builder.gep(row, [operands.result_step]), in_chunk, *rest]

        _, _, *values = scalar.repeat(builder, chunks, [operands.result, first, *values], chunk)
        return values

    def _ends_of_lines(self) -> list[int]:
        """The last element of each cache line's worth of a row: where that spans two lines, the tile before wrote the
        other."""
        width = self.vectors * self.lanes
        return [min(first + self.line, width) - 1 for first in range(0, width, self.line)]

    def _in_groups(self, k: Any, values: list[Any]) -> list[Any]:
        """All of k for a tile that is not as high as others: step by step, and some lines of B with every UNROLL."""
        builder = self.builder

        def group(_: Any, values: list[Any]) -> list[Any]:
            left, *values = values
            values = scalar.repeat(builder, self._at_most(left, UNROLL), self._prefetch_lines(values), self._step)
            return [builder.sub(left, scalar.index(UNROLL)), *values]

        groups = builder.sdiv(builder.add(k, scalar.index(UNROLL - 1)), scalar.index(UNROLL))
        _, *values = scalar.repeat(builder, groups, [k, *values], group)
        return values

    def _group(self, _: Any, values: list[Any]) -> list[Any]:
        """The cursor's values after UNROLL of k, written out."""
        return self._step(None, self._prefetch_lines(values), UNROLL)

    def _prefetch_lines(self, values: list[Any]) -> list[Any]:
        """Prefetch some lines of B: the cursor's values after that."""
        cursor = self._cursor(values)
        lines = self.operands.ahead_lines
        ahead = scalar.repeat(self.builder, lines, [cursor.ahead], self._prefetch_line, unrolled=False)
        return cursor._replace(ahead=ahead[0]).flat()

    def _prefetch_line(self, _: Any, values: list[Any]) -> list[Any]:
        """Prefetch the line of B at a pointer; the pointer to the next."""
        emit.prefetch(self.builder, values[0])
        return [self.builder.gep(values[0], [scalar.index(self.line)])]

    def _vectors(self, first: Any, step: Any) -> list[Any]:
        """Pointers to the vectors of a tile, row by row."""
        rows = [self.builder.mul(step, scalar.index(i)) for i in range(self.rows)]
        columns = [scalar.index(j * self.lanes) for j in range(self.vectors)]
        return [self.builder.gep(first, [self.builder.add(row, column)]) for row in rows for column in columns]

    def _begin(self) -> list[Any]:
        """The sums before the first product: those at `start`, or zeros."""
        builder, operands, cleared = self.builder, self.operands, self.builder.block
        with builder.if_then(operands.accumulate):
            starts = self._vectors(operands.start, operands.start_step)
            loaded = [emit.load(builder, start, self.arithmetic.total) for start in starts]
            loading = builder.block
        sums = [builder.phi(self.arithmetic.total) for _ in loaded]
        for total, value in zip(sums, loaded, strict=True):
            total.add_incoming(emit.zeros(self.arithmetic.total), cleared)
            total.add_incoming(value, loading)
        return sums

    def _bases(self) -> list[Any]:
        """Pointers to every few rows of A."""
        builder, a, lda = self.builder, self.operands.a, self.operands.lda
        return [builder.gep(a, [builder.mul(lda, scalar.index(row))]) for row in range(0, self.rows, self.reach)]

    def _cursor(self, values: list[Any]) -> _Cursor:
        sums = self.rows * self.vectors
        b, ahead, *steps = values[:6]
        return _Cursor(b, ahead, _Step(*steps[:2]), _Step(*steps[2:]), values[6:-sums], values[-sums:])

    def _bytes(self, elements: Any) -> _Step:
        step = self.builder.mul(elements, scalar.index(emit.element_bytes(self.arithmetic.operand)))
        return _Step(step, self.builder.mul(step, scalar.index(3)))

    def _at_most(self, k: Any, size: int) -> Any:
        most = scalar.index(size)
        return self.builder.select(self.builder.icmp_signed("<", k, most), k, most)

    def _step(self, _: Any, values: list[Any], times: int = 1) -> list[Any]:
        """The cursor's values after that many k, written out."""
        builder, cursor = self.builder, self._cursor(values)
        at_once = self.lanes if self.arithmetic.by_lanes and times % self.lanes == 0 else 1
        factors: list[list[Callable[[int], Any]]] = []
        for k in range(times):
            if k % at_once == 0:
                if k > 0 and at_once > 1:  # LLVM would load two registers of A at once, for which there is no room
                    cursor = cursor._replace(bases=[scalar.opaque(builder, base) for base in cursor.bases])
                factors = [self._factors(cursor, row, k, at_once) for row in range(self.rows)]
            cursor = self._add_products(cursor, k, [of_row[k % at_once] for of_row in factors])
            if k + 1 == times or (k + 1) % _REACH_IN_B == 0:
                below = cursor.step_b.below(builder, cursor.b, k % _REACH_IN_B + 1)
                cursor = cursor._replace(b=scalar.opaque(builder, below))
        step = scalar.index(times * self.arithmetic.of_a)
        moved = [scalar.opaque(builder, builder.gep(base, [step])) for base in cursor.bases]
        return cursor._replace(step_a=self._kept(cursor.step_a), step_b=self._kept(cursor.step_b), bases=moved).flat()

    def _kept(self, step: _Step) -> _Step:
        return _Step(*(scalar.opaque(self.builder, value) for value in step))

    def _factors(self, cursor: _Cursor, row: int, k: int, count: int) -> list[Callable[[int], Any]]:
        """For each of A's elements of a row, from the k-th after the bases on: what emits a part of it in all lanes."""
        builder, arithmetic = self.builder, self.arithmetic
        base, below = cursor.bases[row // self.reach], row % self.reach
        if count == 1:
            place = k * arithmetic.of_a
            return [lambda part: arithmetic.load_a(builder, cursor.step_a.below(builder, base, below, place), part)]
        loaded = emit.load(builder, cursor.step_a.below(builder, base, below, k), arithmetic.operand)
        register = emit.kept_whole(builder, loaded)
        return [functools.partial(self._lane, register, lane) for lane in range(count)]

    def _lane(self, register: Any, lane: int, part: int) -> Any:
        """A lane of a register of A, whose elements are of one part."""
        return emit.lane(self.builder, register, lane)

    def _add_products(self, cursor: _Cursor, k: int, factors: list[Callable[[int], Any]]) -> _Cursor:
        """The sums after one k, the k-th after the bases: a row of B in registers, times each of A's factors."""
        builder, arithmetic = self.builder, self.arithmetic
        totals = cursor.sums
        for part in range(arithmetic.parts):
            b = []
            for j in range(self.vectors):
                source = cursor.step_b.below(builder, cursor.b, k % _REACH_IN_B, j * self.lanes)
                b.append(arithmetic.load_b(builder, source, part))
            sums = []
            for row, factor in enumerate(factors):
                a = factor(part)
                before = totals[row * self.vectors : (row + 1) * self.vectors]
                sums += [arithmetic.add(builder, a, b[j], before[j]) for j in range(self.vectors)]
            totals = sums
        return cursor._replace(sums=totals)
