"""The innermost product: one register tile of C from a strip of A and a panel of B.

    C[0:m, 0:n] = A[0:m, 0:k] . B[0:k, 0:n]        (+ start[0:m, 0:n] with accumulate)

    A : row-major, elements of a row adjacent; not packed: each element is broadcast
    B : k rows of n adjacent elements, NR from row to row in a packed panel
    C : row-major
    start : row-major: C itself, or, with a stride of 0, one row for all (a bias)

              NR columns                 k ->                          NR columns
           +-------------+          +---------------+               +-------------+
        MR |  C : in     |  +=   MR |  A : rows, as |   .         k |  B : a panel |
           |  registers  |          |  they lie     |               |  K x NR      |
           +-------------+          +---------------+               +-------------+

Meanwhile it prefetches what the caller needs next (`operands.Prefetch`): with every UNROLL of k some lines of B; at
full height, with every CHUNK of k, one row of the result, then of what its epilogue reads.

The accumulators of the whole tile stay in vector registers over all of k. m runs from 1 to MR, n over whole registers
up to NR: each shape has its own loop, chosen by one switch, so that a tile at the edge costs its own part only. (Where
`dot_products` has a wider tile, it has fewer rows.) Every element of C is one chain of FMAs in the order of k, whatever
the tile: results do not depend on how work is divided.
MR and NR: see `dot_products`, which also says what an element is; bfloat16 and int8 come in words of 32 bits, which are
what k counts. On AMX the tile is another one (`amx`), with the same contract for A in its `layout`.
The structure is that of BLIS (Van Zee and van de Geijn 2015).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba import float32, types
from numba.core import cgutils
from numba.core.errors import LoweringError
from numba.extending import intrinsic

from fastsedd_kernels.gemm import amx
from fastsedd_kernels.gemm.dot_products import SHAPES, SUMS, UNROLL, WIDEST, Arithmetic, arithmetic_of, unit_of
from fastsedd_kernels.gemm.operands import Prefetch, Rows, Start
from fastsedd_kernels.runtime import scalar
from fastsedd_kernels.runtime.cpu import Unit, isa
from fastsedd_kernels.runtime.jit import compile_symbol, is_symbol
from fastsedd_kernels.simd import emit

ROWS = SHAPES[float32].rows  # MR of float32 and float64
CHUNK = isa().prefetch_depth
REACH = 5  # rows that x86 reaches from one pointer
_BYTES = ir.IntType(8).as_pointer()


class _Operands(NamedTuple):
    """The LLVM values of a call after the tile's shape: `multiply_tile`'s operands, field by field."""

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


def _symbol(element: Any) -> str:
    return f"fastsedd_tile_{element}"


def _kinds(element: Any) -> tuple[Any, ...]:
    """Numba types of `multiply_tile`'s operands: k, a, b, c, start, prefetch."""
    total, index = SUMS[element], types.intp
    result = types.CPointer(element if element in (float32, types.float64) else float32)
    a, b, c = types.CPointer(element), types.CPointer(element), types.CPointer(total)
    return (
        index,
        types.NamedTuple((a, index), Rows),
        types.NamedTuple((b, index), Rows),
        types.NamedTuple((c, index), Rows),
        types.NamedTuple((types.boolean, c, index), Start),
        types.NamedTuple((b, index, result, result, index), Prefetch),
    )


def _of_element(result: Any, emit: Callable[[ir.IRBuilder, Any], Any]) -> Any:
    """A function of kernels, of a pointer into B, that its element alone decides: `emit(builder, element)`."""

    def typed(typing_context: Any, b: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            made = emit(builder, b.dtype)
            return context.get_dummy_value() if made is None else made

        return result(b), codegen

    return intrinsic(typed)


def _runs_on_amx(element: Any) -> bool:
    return unit_of(element) is Unit.AMX


# MR and NR, and the columns of the widest tile: constants.
tile_rows = _of_element(types.intp, lambda _, element: scalar.index(SHAPES[element].rows))
tile_columns = _of_element(
    types.intp, lambda _, element: scalar.index(SHAPES[element].vectors * emit.lanes_of(element))
)
widest_columns = _of_element(
    types.intp, lambda _, element: scalar.index(WIDEST[element].vectors * emit.lanes_of(element))
)

# To be called before the first `multiply_tile` of a task, and after its last: they set up the element's unit.
open_tiles = _of_element(
    types.void, lambda builder, element: amx.open_tiles(builder) if _runs_on_amx(element) else None
)
close_tiles = _of_element(
    types.void, lambda builder, element: amx.close_tiles(builder) if _runs_on_amx(element) else None
)


@intrinsic  # type: ignore[untyped-decorator]
def tile_rows_of(typing_context: Any, b: Any, vectors: Any) -> Any:
    """MR of tiles so many registers wide, of what `b` points to."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        element = b.dtype
        narrow = builder.icmp_signed("<=", arguments[1], scalar.index(SHAPES[element].vectors))
        return builder.select(narrow, scalar.index(SHAPES[element].rows), scalar.index(WIDEST[element].rows))

    return types.intp(b, types.intp), codegen


@intrinsic  # type: ignore[untyped-decorator]
def multiply_tile(
    typing_context: Any, m: Any, vectors: Any, k: Any, a: Any, b: Any, c: Any, start: Any, prefetch: Any
) -> Any:
    """C[0:m] = [start +] A[0:m, 0:k] . B, `vectors` registers wide; see the module.

    m : 1 to MR; vectors : 1 to NR in registers; k : 1 or more
    a, b, c : Rows; start : Start; prefetch : Prefetch
    A kernel that calls it must name `link_tile` of the element.
    """
    element = a.types[0].dtype
    kinds = _kinds(element)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        if not is_symbol(_symbol(element)):
            raise LoweringError(f"a kernel that calls multiply_tile must say link=lambda: link_tile({element})")
        height, width, depth, *named = arguments
        flat = [depth]
        for given, taken, value in zip((a, b, c, start, prefetch), kinds[1:], named, strict=True):
            parts = cgutils.unpack_tuple(builder, value)
            flat += [
                context.cast(builder, part, one, other)
                for part, one, other in zip(parts, given.types, taken.types, strict=True)
            ]
        operands = cgutils.pack_struct(builder, flat)
        place = builder.bitcast(cgutils.alloca_once_value(builder, operands), _BYTES)
        called = ir.FunctionType(ir.VoidType(), [height.type, width.type, place.type])
        function = cgutils.get_or_insert_function(builder.module, called, _symbol(element))
        builder.call(function, [height, width, place])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, a, b, c, start, prefetch), codegen


def link_tile(element: Any) -> None:
    """Compile the tiles of an element type, or load them, once per process: `multiply_tile` calls them by name.

    Otherwise every kernel would compile them anew, each time that one of its functions is inlined into the next.
    """
    compile_symbol(_symbol(element), _all_tiles, (types.intp, types.intp, types.CPointer(element)))


def _all_tiles(m: int, vectors: int, operands: Any) -> None:
    """The function behind `multiply_tile`, compiled once per element; operands : address of an `_Operands`."""
    _choose_tile(m, vectors, operands)


@intrinsic  # type: ignore[untyped-decorator]
def _choose_tile(typing_context: Any, m: Any, vectors: Any, operands: Any) -> Any:
    """All shapes of a tile, and the switch that chooses."""
    element = operands.dtype
    width = WIDEST[element].vectors

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        m, registers, place = arguments
        values = _loaded(context, builder, element, place)
        if _runs_on_amx(element):
            amx.emit_tile(builder, element, m, registers, values)
            return context.get_dummy_value()
        arithmetic = arithmetic_of(element)
        done = builder.append_basic_block("tile_done")
        switch = builder.switch(builder.add(builder.mul(m, scalar.index(width)), registers), done)
        for vectors in range(1, width + 1):
            most = _max_rows(element, vectors)
            for rows in range(1, most + 1):
                block = builder.append_basic_block(f"tile_{rows}x{vectors}")
                switch.add_case(scalar.index(rows * width + vectors), block)
                builder.position_at_end(block)
                _Tile(builder, arithmetic, rows, vectors, rows == most, values).emit()
                builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(m, vectors, operands), codegen


def _loaded(context: Any, builder: ir.IRBuilder, element: Any, place: Any) -> _Operands:
    """The operands that `multiply_tile` has put at an address."""
    kinds = [kind for each in _kinds(element) for kind in getattr(each, "types", (each,))]
    struct = ir.LiteralStructType([context.get_value_type(kind) for kind in kinds])
    operands = builder.bitcast(place, struct.as_pointer())
    return _Operands(*(builder.load(cgutils.gep_inbounds(builder, operands, 0, i)) for i in range(len(kinds))))


def _max_rows(element: Any, vectors: int) -> int:
    """MR of tiles so many registers wide."""
    return SHAPES[element].rows if vectors <= SHAPES[element].vectors else WIDEST[element].rows


class _Cursor(NamedTuple):
    """The values that move with k: pointers into B, to what is prefetched, and into A; and the sums so far."""

    b: Any
    ahead: Any
    bases: list[Any]
    sums: list[Any]

    def flat(self) -> list[Any]:
        return [self.b, self.ahead, *self.bases, *self.sums]


class _Tile:
    """Emits the product of one shape.

    Instructions other than FMAs are kept few: another program's thread on the same core may have half of its decoder
    (measured: a sixth more speed then, for 46 instead of 61 instructions per k). So the full height takes UNROLL k at a
    time, and the addresses of A cost no instruction: every REACH rows have a pointer of their own, and x86 reaches the
    rows below it by an index register of lda or 3 lda, times 1, 2 or 4.
    """

    def __init__(
        self,
        builder: ir.IRBuilder,
        arithmetic: Arithmetic,
        rows: int,
        vectors: int,
        full_height: bool,
        operands: _Operands,
    ) -> None:
        self.builder, self.arithmetic, self.operands = builder, arithmetic, operands
        self.rows, self.vectors, self.full_height = rows, vectors, full_height
        self.lanes = arithmetic.operand.count
        lda = scalar.opaque(builder, operands.lda)
        triple = scalar.opaque(builder, builder.mul(lda, scalar.index(3)))
        twice, fourfold = (builder.mul(lda, scalar.index(times)) for times in (2, 4))
        self.below = (scalar.index(0), lda, twice, triple, fourfold)

    def emit(self) -> None:
        """Load or clear the accumulators, run over k, store them."""
        operands = self.operands
        values = _Cursor(operands.b, operands.ahead, self._bases(), self._begin()).flat()
        values = self._in_chunks(values) if self.full_height else self._in_groups(operands.k, values)
        targets = self._vectors(operands.c, operands.ldc)
        for target, total in zip(targets, self._cursor(values).sums, strict=True):
            emit.store(self.builder, total, target, self.arithmetic.total)

    def _in_chunks(self, values: list[Any]) -> list[Any]:
        """All of k: first what does not fill a group, then chunks, each of which prefetches a row of the result."""
        builder, operands = self.builder, self.operands
        alone = builder.and_(operands.k, scalar.index(UNROLL - 1))
        values = scalar.repeat(builder, alone, values, self._step)
        depth = builder.sub(operands.k, alone)
        chunks = self._parts(depth, CHUNK)
        result_prefetched = builder.sub(chunks, scalar.index(self.rows))

        def chunk(chunks_left: Any, values: list[Any]) -> list[Any]:
            row, left, *rest = values
            row = builder.select(builder.icmp_signed("==", chunks_left, result_prefetched), operands.beside, row)
            # By a vector's end: where it spans two cache lines, the tile before wrote the other.
            for j in range(self.vectors):
                emit.prefetch(builder, builder.gep(row, [scalar.index((j + 1) * self.lanes - 1)]), write=True)
            here = self._at_most(left, CHUNK)
            rest = self._in_groups(here, rest)
            return [builder.gep(row, [operands.result_step]), builder.sub(left, here), *rest]

        _, _, *values = scalar.repeat(builder, chunks, [operands.result, depth, *values], chunk)
        return values

    def _in_groups(self, k: Any, values: list[Any]) -> list[Any]:
        _, *values = scalar.repeat(self.builder, self._parts(k, UNROLL), [k, *values], self._group)
        return values

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
        """Pointers to every REACH-th row of A."""
        a, lda = self.operands.a, self.operands.lda
        return [self.builder.gep(a, [self.builder.mul(lda, scalar.index(row))]) for row in range(0, self.rows, REACH)]

    def _cursor(self, values: list[Any]) -> _Cursor:
        sums = self.rows * self.vectors
        return _Cursor(values[0], values[1], values[2:-sums], values[-sums:])

    def _parts(self, k: Any, size: int) -> Any:
        return self.builder.sdiv(self.builder.add(k, scalar.index(size - 1)), scalar.index(size))

    def _at_most(self, k: Any, size: int) -> Any:
        most = scalar.index(size)
        return self.builder.select(self.builder.icmp_signed("<", k, most), k, most)

    def _group(self, _: Any, values: list[Any]) -> list[Any]:
        """The rest of k, and the cursor's values, after UNROLL of it, which are written out at full height."""
        left, *values = values
        cursor = self._cursor(values)
        lines = scalar.repeat(self.builder, self.operands.ahead_lines, [cursor.ahead], self._prefetch_line)
        values = cursor._replace(ahead=lines[0]).flat()
        if self.full_height:
            values = self._step(None, values, UNROLL)
        else:
            values = scalar.repeat(self.builder, self._at_most(left, UNROLL), values, self._step)
        return [self.builder.sub(left, scalar.index(UNROLL)), *values]

    def _prefetch_line(self, _: Any, values: list[Any]) -> list[Any]:
        """Prefetch the line of B at a pointer; the pointer to the next."""
        emit.prefetch(self.builder, values[0])
        return [self.builder.gep(values[0], [scalar.index(self.lanes)])]

    def _step(self, _: Any, values: list[Any], times: int = 1) -> list[Any]:
        """The cursor's values after that many k, written out."""
        cursor = self._cursor(values)
        for k in range(times):
            cursor = self._add_products(cursor, k)
        after = (self.builder.gep(base, [scalar.index(times)]) for base in cursor.bases)
        return cursor._replace(bases=[scalar.opaque(self.builder, base) for base in after]).flat()

    def _add_products(self, cursor: _Cursor, k: int) -> _Cursor:
        """The sums after one k, the k-th after the bases: a row of B in registers, each of A's elements broadcast."""
        builder, arithmetic, operands = self.builder, self.arithmetic, self.operands
        b = []
        for j in range(self.vectors):
            source = builder.gep(cursor.b, [scalar.index(j * self.lanes)])
            b.append(arithmetic.prepare(builder, emit.load(builder, source, arithmetic.operand)))
        sums = []
        for row in range(self.rows):
            address = builder.gep(cursor.bases[row // REACH], [self.below[row % REACH]])
            element = builder.load(builder.gep(address, [scalar.index(k)]))
            a = arithmetic.prepare(builder, emit.broadcast(builder, element, arithmetic.operand))
            before = cursor.sums[row * self.vectors : (row + 1) * self.vectors]
            sums += [arithmetic.add(builder, a, b[j], before[j]) for j in range(self.vectors)]
        return cursor._replace(b=builder.gep(cursor.b, [operands.ldb]), sums=sums)
