"""The vocabulary of LLVM vector IR that the kernels are written in: pointers, load, store, broadcast, FMA, bit casts.

Scalar loops left to the vectoriser keep no tile of accumulators in registers; explicit vectors do. Everything here is
generic LLVM, legal on every target: a width that the CPU lacks is split by the code generator, never refused.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

from fastsedd_kernels.cpu import isa

INDEX = ir.IntType(64)
CACHE_LINE = 64  # bytes; a vector that lies across two lines costs two accesses
_ELEMENTS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}


def vector_type(element: Any, lanes: int) -> ir.VectorType:
    """The LLVM vector of `lanes` Numba `element`s."""
    return ir.VectorType(_ELEMENTS[element], lanes)


def index(value: int) -> ir.Constant:
    return ir.Constant(INDEX, value)


def zeros(vector: ir.VectorType) -> ir.Constant:
    return ir.Constant(vector, [0.0] * vector.count)


def load(builder: ir.IRBuilder, pointer: Any, vector: ir.VectorType) -> Any:
    """Load a vector from an element pointer that is aligned to an element only: NumPy promises no more."""
    value = builder.load(builder.bitcast(pointer, vector.as_pointer()))
    value.align = _element_bytes(vector)
    return value


def store(builder: ir.IRBuilder, value: Any, pointer: Any, vector: ir.VectorType) -> None:
    builder.store(value, builder.bitcast(pointer, vector.as_pointer())).align = _element_bytes(vector)


def broadcast(builder: ir.IRBuilder, scalar: Any, vector: ir.VectorType) -> Any:
    """All lanes equal to `scalar`; folds into the FMA's memory operand where the CPU has one."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None))


def multiply_add(builder: ir.IRBuilder, x: Any, y: Any, z: Any, vector: ir.VectorType) -> Any:
    """x * y + z, fused where the CPU can (`llvm.fma` would call a slow library function where it cannot)."""
    name = f"llvm.fmuladd.v{vector.count}{'f32' if _element_bytes(vector) == 4 else 'f64'}"
    signature = ir.FunctionType(vector, [vector, vector, vector])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), [x, y, z])


def prefetch(builder: ir.IRBuilder, pointer: Any, *, write: bool = False) -> None:
    """Ask for the cache line at `pointer` to be in L2 when it is read, or owned by L1 when it is written.

    Harmless beyond an array's end.
    """
    bits = ir.IntType(32)
    signature = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), bits, bits, bits])
    hint = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
    access, level, data = (ir.Constant(bits, value) for value in ((1, 3, 1) if write else (0, 2, 1)))
    builder.call(hint, [builder.bitcast(pointer, ir.IntType(8).as_pointer()), access, level, data])


def _element_bytes(vector: ir.VectorType) -> int:
    return 4 if isinstance(vector.element, ir.FloatType) else 8


@intrinsic  # type: ignore[untyped-decorator]
def pointer(typing_context: Any, array: Any, offset: Any) -> Any:
    """Pointer to the element `offset` elements after an array's first one; no bound is checked."""
    if not isinstance(array, types.Array):
        return None
    signature = types.CPointer(array.dtype)(array, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.gep(data, [arguments[1]])

    return signature, codegen


@intrinsic  # type: ignore[untyped-decorator]
def offset(typing_context: Any, base: Any, elements: Any) -> Any:
    """The pointer `elements` elements after `base`."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.gep(arguments[0], [arguments[1]])

    return base(base, types.intp), codegen


@intrinsic  # type: ignore[untyped-decorator]
def aligned(typing_context: Any, array: Any) -> Any:
    """Pointer to an array's first element on a cache line's edge: allocate one line more than is used of it."""
    if not isinstance(array, types.Array):
        return None

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.add(builder.ptrtoint(data, INDEX), index(CACHE_LINE - 1))
        return builder.inttoptr(builder.and_(address, index(-CACHE_LINE)), data.type)

    return types.CPointer(array.dtype)(array), codegen


class Float32Vector(types.Type):  # type: ignore[misc]
    """A register of LANES float32 values inside a kernel, with +, -, *, / among vectors and with float32 scalars."""

    def __init__(self) -> None:
        super().__init__(name="Float32Vector")


LANES = isa().lanes
FLOAT32_VECTOR = Float32Vector()
_REGISTER = vector_type(types.float32, LANES)
_INTEGERS = ir.VectorType(ir.IntType(32), LANES)
_MASK = ir.VectorType(ir.IntType(1), LANES)
_BYTES_ALIGNMENT = ir.Constant(ir.IntType(32), 4)


@register_model(Float32Vector)
class _Float32VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, frontend_type: Any) -> None:
        super().__init__(manager, frontend_type, _REGISTER)


def _vector_function(result: Any, arguments: tuple[Any, ...]) -> Callable[[Callable[..., Any]], Any]:
    """Make `emit(builder, *values)` a function of kernels, of those Numba types."""

    def decorate(emit: Callable[..., Any]) -> Any:
        parameters = ", ".join("abcd"[: len(arguments)])

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            made = emit(builder, *values)
            return context.get_dummy_value() if made is None else made

        def typed(typing_context: Any, *given: Any) -> Any:
            return result(*arguments), codegen

        namespace: dict[str, Any] = {"typed": typed}
        exec(
            f"def {emit.__name__}(typing_context, {parameters}): return typed(typing_context, {parameters})", namespace
        )
        named = namespace[emit.__name__]
        named.__doc__ = emit.__doc__
        return intrinsic(named)

    return decorate


_POINTER = types.CPointer(types.float32)
_V = FLOAT32_VECTOR


@_vector_function(_V, (_POINTER,))
def load_vector(builder: Any, source: Any) -> Any:
    """The LANES float32 values from a pointer on."""
    return load(builder, source, _REGISTER)


@_vector_function(types.void, (_POINTER, _V))
def store_vector(builder: Any, target: Any, value: Any) -> None:
    """Write LANES float32 values from a pointer on."""
    store(builder, value, target, _REGISTER)


def _first_lanes(builder: Any, count: Any) -> Any:
    numbers = ir.Constant(_INTEGERS, list(range(LANES)))
    limit = broadcast(builder, builder.trunc(count, ir.IntType(32)), _INTEGERS)
    return builder.icmp_signed("<", numbers, limit)


@_vector_function(_V, (_POINTER, types.intp, types.float32))
def load_first(builder: Any, source: Any, count: Any, otherwise: Any) -> Any:
    """The first `count` values from a pointer on; the lanes after them hold `otherwise`, and nothing is read there."""
    where = _REGISTER.as_pointer()
    signature = ir.FunctionType(_REGISTER, [where, ir.IntType(32), _MASK, _REGISTER])
    name = f"llvm.masked.load.v{LANES}f32.p0"
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    mask, rest = _first_lanes(builder, count), broadcast(builder, otherwise, _REGISTER)
    return builder.call(function, [builder.bitcast(source, where), _BYTES_ALIGNMENT, mask, rest])


@_vector_function(types.void, (_POINTER, _V, types.intp))
def store_first(builder: Any, target: Any, value: Any, count: Any) -> None:
    """Write the first `count` lanes from a pointer on, and nothing after them."""
    where = _REGISTER.as_pointer()
    signature = ir.FunctionType(ir.VoidType(), [_REGISTER, where, ir.IntType(32), _MASK])
    name = f"llvm.masked.store.v{LANES}f32.p0"
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    builder.call(function, [value, builder.bitcast(target, where), _BYTES_ALIGNMENT, _first_lanes(builder, count)])


@_vector_function(_V, (types.float32,))
def splat(builder: Any, scalar: Any) -> Any:
    """All lanes equal to a float32 scalar."""
    return broadcast(builder, scalar, _REGISTER)


@_vector_function(_V, (_V, _V, _V))
def fma(builder: Any, x: Any, y: Any, z: Any) -> Any:
    """x * y + z in one rounding where the CPU can."""
    return multiply_add(builder, x, y, z, _REGISTER)


@_vector_function(_V, (_V, _V))
def maximum(builder: Any, x: Any, y: Any) -> Any:
    """The greater of each lane; y where x is NaN."""
    return builder.select(builder.fcmp_ordered(">", x, y), x, y)


@_vector_function(_V, (_V, _V))
def minimum(builder: Any, x: Any, y: Any) -> Any:
    """The lesser of each lane; y where x is NaN."""
    return builder.select(builder.fcmp_ordered("<", x, y), x, y)


@_vector_function(_V, (_V, _V, _V, _V))
def where_less(builder: Any, x: Any, y: Any, then: Any, otherwise: Any) -> Any:
    """`then` in the lanes where x < y, else `otherwise`, also where either is NaN."""
    return builder.select(builder.fcmp_ordered("<", x, y), then, otherwise)


@_vector_function(_V, (_V,))
def absolute(builder: Any, x: Any) -> Any:
    """|x|: the sign bit cleared."""
    cleared = builder.and_(builder.bitcast(x, _INTEGERS), ir.Constant(_INTEGERS, [0x7FFFFFFF] * LANES))
    return builder.bitcast(cleared, _REGISTER)


@_vector_function(_V, (_V,))
def power_of_two(builder: Any, n: Any) -> Any:
    """2^n for whole n from -126 to 127, made from the bits of the exponent."""
    exponent = builder.add(builder.fptosi(n, _INTEGERS), ir.Constant(_INTEGERS, [127] * LANES))
    return builder.bitcast(builder.shl(exponent, ir.Constant(_INTEGERS, [23] * LANES)), _REGISTER)


def _reduce(builder: Any, value: Any, combine: Callable[[Any, Any], Any]) -> Any:
    """Fold halves onto each other until one lane is left: a fixed order, whatever the CPU."""
    lanes = LANES
    while lanes > 1:
        lanes //= 2
        halves = [
            builder.shuffle_vector(
                value, value, ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(range(first, first + lanes)))
            )
            for first in (0, lanes)
        ]
        value = combine(*halves)
    return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))


@_vector_function(types.float32, (_V,))
def sum_lanes(builder: Any, x: Any) -> Any:
    """The sum of all lanes."""
    return _reduce(builder, x, builder.fadd)


@_vector_function(types.float32, (_V,))
def max_lanes(builder: Any, x: Any) -> Any:
    """The greatest of all lanes; NaN lanes may be passed over."""
    return _reduce(builder, x, lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))


def _define_operator(symbol: Callable[..., Any], instruction: str) -> None:
    """Give kernels `symbol` among vectors, and between a vector and a float32 scalar."""

    @_vector_function(_V, (_V, _V))
    def emit(builder: Any, x: Any, y: Any) -> Any:
        return getattr(builder, instruction)(x, y)

    @overload(symbol, strict=False)  # type: ignore[untyped-decorator]
    def typed(x: Any, y: Any) -> Any:
        if x is _V and y is _V:
            return lambda x, y: emit(x, y)
        if x is _V and y == types.float32:
            return lambda x, y: emit(x, splat(y))
        if x == types.float32 and y is _V:
            return lambda x, y: emit(splat(x), y)
        return None


for _symbol, _instruction in (
    (operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv"),
):  # fmt: skip
    _define_operator(_symbol, _instruction)
