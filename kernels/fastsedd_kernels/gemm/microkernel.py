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
from typing import Any

from llvmlite import ir
from numba import float32, types
from numba.core import cgutils
from numba.core.errors import LoweringError
from numba.extending import intrinsic

from fastsedd_kernels.gemm import amx
from fastsedd_kernels.gemm.dot_products import SHAPES, SUMS, WIDEST, unit_of
from fastsedd_kernels.gemm.operands import Prefetch, Rows, Start
from fastsedd_kernels.gemm.register_tile import Operands, emit_tiles
from fastsedd_kernels.runtime import scalar
from fastsedd_kernels.runtime.cpu import Unit
from fastsedd_kernels.runtime.jit import compile_symbol, is_symbol
from fastsedd_kernels.simd import emit

ROWS = SHAPES[float32].rows  # MR of float32 and float64
_BYTES = ir.IntType(8).as_pointer()


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
    """The function behind `multiply_tile`, compiled once per element; operands : address of an `Operands`."""
    _choose_tile(m, vectors, operands)


@intrinsic  # type: ignore[untyped-decorator]
def _choose_tile(typing_context: Any, m: Any, vectors: Any, operands: Any) -> Any:
    """All shapes of a tile, and the switch that chooses."""
    element = operands.dtype

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        m, registers, place = arguments
        values = _loaded(context, builder, element, place)
        if _runs_on_amx(element):
            amx.emit_tile(builder, element, m, registers, values)
            return context.get_dummy_value()
        emit_tiles(builder, element, m, registers, values)
        return context.get_dummy_value()

    return types.void(m, vectors, operands), codegen


def _loaded(context: Any, builder: ir.IRBuilder, element: Any, place: Any) -> Operands:
    """The operands that `multiply_tile` has put at an address."""
    kinds = [kind for each in _kinds(element) for kind in getattr(each, "types", (each,))]
    struct = ir.LiteralStructType([context.get_value_type(kind) for kind in kinds])
    operands = builder.bitcast(place, struct.as_pointer())
    return Operands(*(builder.load(cgutils.gep_inbounds(builder, operands, 0, i)) for i in range(len(kinds))))
