"""A register as a value of kernels: the Numba type, its operators, and functions of vectors.

Scalar loops left to the vectoriser keep no tile of accumulators in registers; explicit vectors do.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, models, register_model

from fastsedd_kernels.runtime.cpu import isa
from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.runtime.scalar import index
from fastsedd_kernels.simd.emit import (
    ELEMENTS,
    broadcast,
    element_bytes,
    integers_like,
    lanes_of,
    load,
    multiply_add,
    prefetch,
    store,
    type_suffix,
    vector_type,
)


class Vector(types.Type):  # type: ignore[misc]
    """A register of float32 or float64 values inside a kernel, with +, -, *, / among vectors and with such scalars."""

    def __init__(self, element: Any) -> None:
        self.element = element
        self.register = vector_type(element, lanes_of(element))
        super().__init__(name=f"Vector({element})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, frontend_type: Any) -> None:
        super().__init__(manager, frontend_type, frontend_type.register)


LANES = isa().lanes  # of float32
_VECTORS = {element: Vector(element) for element in ELEMENTS}


# In the signatures below: a vector, a pointer to its elements, one element.
VECTOR, POINTER, SCALAR = "vector", "pointer", "scalar"


def _typed(kind: Any, element: Any) -> Any:
    return {VECTOR: _VECTORS[element], POINTER: types.CPointer(element), SCALAR: element}.get(kind, kind)


def _element_of(given: Any) -> Any:
    """The element type that an argument's type implies, or None."""
    if isinstance(given, Vector):
        return given.element
    element = given.dtype if isinstance(given, types.CPointer) else given
    return element if element in ELEMENTS else None


def vector_function(result: Any, arguments: tuple[Any, ...]) -> Callable[[Callable[..., Any]], Any]:
    """Make `emit(builder, register, *values)` a function of kernels; the first argument tells the element type."""

    def decorate(emit: Callable[..., Any]) -> Any:
        parameters = ", ".join("abcd"[: len(arguments)])

        def typed(typing_context: Any, *given: Any) -> Any:
            element = _element_of(given[0])
            if element is None:
                return None
            register = _VECTORS[element].register

            def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                made = emit(builder, register, *values)
                return context.get_dummy_value() if made is None else made

            return _typed(result, element)(*(_typed(kind, element) for kind in arguments)), codegen

        namespace: dict[str, Any] = {"typed": typed}
        exec(
            f"def {emit.__name__}(typing_context, {parameters}): return typed(typing_context, {parameters})", namespace
        )
        named = namespace[emit.__name__]
        named.__doc__ = emit.__doc__
        return intrinsic(named)

    return decorate


@intrinsic  # type: ignore[untyped-decorator]
def lanes_at(typing_context: Any, pointer: Any) -> Any:
    """The number of the pointer's elements that fill a register: a constant."""
    if not isinstance(pointer, types.CPointer):
        return None

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return index(lanes_of(pointer.dtype))

    return types.intp(pointer), codegen


@vector_function(VECTOR, (POINTER,))
def load_vector(builder: Any, register: Any, source: Any) -> Any:
    """The values from a pointer on that fill a register."""
    return load(builder, source, register)


@vector_function(types.void, (POINTER, VECTOR))
def store_vector(builder: Any, register: Any, target: Any, value: Any) -> None:
    """Write a register's values from a pointer on."""
    store(builder, value, target, register)


@vector_function(types.void, (POINTER, VECTOR))
def stream_vector(builder: Any, register: Any, target: Any, value: Any) -> None:
    """Write a register's values past the caches: memory that is not read soon need not be read to be written.

    target : a multiple of the register's bytes. What another thread reads of it must be behind an atomic operation.
    """
    written = builder.store(value, builder.bitcast(target, register.as_pointer()))
    written.align = element_bytes(register) * register.count
    written.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))


@vector_function(types.void, (POINTER,))
def prefetch_l2(builder: Any, register: Any, source: Any) -> None:
    """Prefetch a cache line into L2."""
    prefetch(builder, source)


def _mask(register: ir.VectorType) -> ir.VectorType:
    return ir.VectorType(ir.IntType(1), register.count)


def _alignment(register: ir.VectorType) -> ir.Constant:
    return ir.Constant(ir.IntType(32), element_bytes(register))


def _first_lanes(builder: Any, register: Any, count: Any) -> Any:
    integers = ir.VectorType(ir.IntType(32), register.count)
    numbers, all_lanes = ir.Constant(integers, list(range(register.count))), index(register.count)
    few = builder.select(builder.icmp_signed("<", count, all_lanes), count, all_lanes)  # which fits 32 bits
    limit = broadcast(builder, builder.trunc(few, ir.IntType(32)), integers)
    return builder.icmp_signed("<", numbers, limit)


@vector_function(VECTOR, (POINTER, types.intp, SCALAR))
def load_first(builder: Any, register: Any, source: Any, count: Any, otherwise: Any) -> Any:
    """The first `count` values from a pointer on; the lanes after them hold `otherwise`, and nothing is read there."""
    where = register.as_pointer()
    signature = ir.FunctionType(register, [where, ir.IntType(32), _mask(register), register])
    name = f"llvm.masked.load.{type_suffix(register)}.p0"
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    mask, rest = _first_lanes(builder, register, count), broadcast(builder, otherwise, register)
    return builder.call(function, [builder.bitcast(source, where), _alignment(register), mask, rest])


@vector_function(types.void, (POINTER, VECTOR, types.intp))
def store_first(builder: Any, register: Any, target: Any, value: Any, count: Any) -> None:
    """Write the first `count` lanes from a pointer on, and nothing after them."""
    where = register.as_pointer()
    signature = ir.FunctionType(ir.VoidType(), [register, where, ir.IntType(32), _mask(register)])
    name = f"llvm.masked.store.{type_suffix(register)}.p0"
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    builder.call(
        function, [value, builder.bitcast(target, where), _alignment(register), _first_lanes(builder, register, count)]
    )


@jit
def load_some(source: Any, count: int, otherwise: Any) -> Any:
    """A register from `source`, of which only the first `count` values exist."""
    return load_vector(source) if count >= LANES else load_first(source, count, otherwise)


@jit
def store_some(target: Any, value: Any, count: int) -> None:
    if count >= LANES:
        store_vector(target, value)
    else:
        store_first(target, value, count)


@jit
def copy_padded(source: Any, step: int, rows: int, columns: int, target: Any, width: int) -> None:
    """target[0:rows, 0:width] = the first `columns` of rows that are `step` elements apart, and zeros beside them."""
    for r in range(rows):
        for j in range(width):
            target[r * width + j] = source[r * step + j] if j < columns else 0


@vector_function(types.void, (POINTER, types.intp, POINTER, types.intp))
def transpose_square(builder: Any, register: Any, source: Any, source_step: Any, target: Any, target_step: Any) -> None:
    """target[j * target_step + i] = source[i * source_step + j] for i and j below a register's lanes."""
    lanes = register.count
    rows = [load(builder, builder.gep(source, [builder.mul(source_step, index(i))]), register) for i in range(lanes)]
    half = 1
    while half < lanes:  # exchange off-diagonal blocks of half x half among rows that are half apart
        for i in (i for i in range(lanes) if not i & half):
            upper, lower = rows[i], rows[i + half]
            first = [lane if not lane & half else lanes + lane - half for lane in range(lanes)]
            second = [lane + half if not lane & half else lanes + lane for lane in range(lanes)]
            rows[i] = shuffle(builder, upper, lower, first)
            rows[i + half] = shuffle(builder, upper, lower, second)
        half *= 2
    for j, row in enumerate(rows):
        store(builder, row, builder.gep(target, [builder.mul(target_step, index(j))]), register)


def shuffle(builder: Any, x: Any, y: Any, lanes: list[int]) -> Any:
    """The chosen lanes of x and y, numbered one after the other."""
    return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


@vector_function(VECTOR, (VECTOR, VECTOR))
def even_lanes(builder: Any, register: Any, x: Any, y: Any) -> Any:
    """Lanes 0, 2, 4, … of x, then those of y."""
    return shuffle(builder, x, y, list(range(0, 2 * register.count, 2)))


@vector_function(VECTOR, (VECTOR, VECTOR))
def odd_lanes(builder: Any, register: Any, x: Any, y: Any) -> Any:
    """Lanes 1, 3, 5, … of x, then those of y."""
    return shuffle(builder, x, y, list(range(1, 2 * register.count, 2)))


def _alternating(lanes: int) -> list[int]:
    return [place for lane in range(lanes) for place in (lane, lanes + lane)]


@vector_function(VECTOR, (VECTOR, VECTOR))
def interleaved_below(builder: Any, register: Any, x: Any, y: Any) -> Any:
    """x_0, y_0, x_1, y_1, … of the lower half of their lanes; `even_lanes` and `odd_lanes` undone."""
    return shuffle(builder, x, y, _alternating(register.count)[: register.count])


@vector_function(VECTOR, (VECTOR, VECTOR))
def interleaved_above(builder: Any, register: Any, x: Any, y: Any) -> Any:
    """`interleaved_below` of the upper half."""
    return shuffle(builder, x, y, _alternating(register.count)[register.count :])


@vector_function(VECTOR, (SCALAR,))
def splat(builder: Any, register: Any, scalar: Any) -> Any:
    """All lanes equal to a scalar."""
    return broadcast(builder, scalar, register)


@vector_function(VECTOR, (VECTOR, VECTOR, VECTOR))
def fma(builder: Any, register: Any, x: Any, y: Any, z: Any) -> Any:
    """x * y + z in one rounding where the CPU can."""
    return multiply_add(builder, x, y, z, register)


def polynomial(*coefficients: float) -> Any:
    """A function of kernels: the polynomial of a vector by Horner's rule, coefficients from the constant one up."""

    def horner(builder: Any, register: Any, x: Any) -> Any:
        constants = [ir.Constant(register, [coefficient] * register.count) for coefficient in coefficients]
        return functools.reduce(lambda p, c: multiply_add(builder, p, x, c, register), reversed(constants))

    return vector_function(VECTOR, (VECTOR,))(horner)


@vector_function(VECTOR, (VECTOR,))
def square_root(builder: Any, register: Any, x: Any) -> Any:
    """The square root of each lane, correctly rounded; NaN below 0."""
    name = f"llvm.sqrt.{type_suffix(register)}"
    signature = ir.FunctionType(register, [register])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), [x])


@vector_function(VECTOR, (VECTOR, VECTOR))
def maximum(builder: Any, register: Any, x: Any, y: Any) -> Any:
    """The greater of each lane; y where x is NaN."""
    return builder.select(builder.fcmp_ordered(">", x, y), x, y)


@vector_function(VECTOR, (VECTOR, VECTOR))
def minimum(builder: Any, register: Any, x: Any, y: Any) -> Any:
    """The lesser of each lane; y where x is NaN."""
    return builder.select(builder.fcmp_ordered("<", x, y), x, y)


@vector_function(VECTOR, (VECTOR, VECTOR, VECTOR, VECTOR))
def where_less(builder: Any, register: Any, x: Any, y: Any, then: Any, otherwise: Any) -> Any:
    """`then` in the lanes where x < y, else `otherwise`, also where either is NaN."""
    return builder.select(builder.fcmp_ordered("<", x, y), then, otherwise)


@vector_function(VECTOR, (VECTOR,))
def absolute(builder: Any, register: Any, x: Any) -> Any:
    """|x|: the sign bit cleared."""
    integers = integers_like(register)
    all_but_sign = 2 ** (integers.element.width - 1) - 1
    cleared = builder.and_(builder.bitcast(x, integers), ir.Constant(integers, [all_but_sign] * integers.count))
    return builder.bitcast(cleared, register)


@vector_function(VECTOR, (VECTOR,))
def power_of_two(builder: Any, register: Any, n: Any) -> Any:
    """2^n for whole n from -126 to 127 (float64: -1022 to 1023), made from the bits of the exponent."""
    integers = integers_like(register)
    bias, shift = (127, 23) if integers.element.width == 32 else (1023, 52)
    exponent = builder.add(builder.fptosi(n, integers), ir.Constant(integers, [bias] * integers.count))
    return builder.bitcast(builder.shl(exponent, ir.Constant(integers, [shift] * integers.count)), register)


@vector_function(VECTOR, (VECTOR,))
def power_of_two_of_sum(builder: Any, register: Any, shifted: Any) -> Any:
    """2^n in float32 for whole n from -126 to 127, where shifted is n + 1.5 * 2^23 + 127: its lowest bits are 2^n's
    exponent. Of a NaN, anything."""
    integers = integers_like(register)
    bits = builder.shl(builder.bitcast(shifted, integers), ir.Constant(integers, [23] * integers.count))
    return builder.bitcast(bits, register)


def _reduce(builder: Any, lanes: int, value: Any, combine: Callable[[Any, Any], Any]) -> Any:
    """Fold halves onto each other until one lane is left: a fixed order, whatever the CPU."""
    while lanes > 1:
        lanes //= 2
        halves = [shuffle(builder, value, value, list(range(first, first + lanes))) for first in (0, lanes)]
        value = combine(*halves)
    return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))


@vector_function(SCALAR, (VECTOR,))
def sum_lanes(builder: Any, register: Any, x: Any) -> Any:
    """The sum of all lanes."""
    return _reduce(builder, register.count, x, builder.fadd)


@vector_function(SCALAR, (VECTOR,))
def max_lanes(builder: Any, register: Any, x: Any) -> Any:
    """The greatest of all lanes; NaN lanes may be passed over."""
    return _reduce(builder, register.count, x, lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))


def _define_operator(symbol: Callable[..., Any], instruction: str) -> None:
    """Give kernels `symbol` among vectors, and between a vector and a scalar of its elements."""

    @infer_global(symbol)
    class _Typing(AbstractTemplate):  # type: ignore[misc]
        def generic(self, given: Any, _keywords: Any) -> Any:
            vector = next((each for each in given if isinstance(each, Vector)), None)
            if vector is None or any(each not in (vector, vector.element) for each in given):
                return None
            return vector(*given)

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        register = signature.return_type.register
        vectors = (
            value if isinstance(given, Vector) else broadcast(builder, value, register)
            for given, value in zip(signature.args, values, strict=True)
        )
        return getattr(builder, instruction)(*vectors)

    for kinds in ((Vector, Vector), (Vector, types.Float), (types.Float, Vector)):
        lower_builtin(symbol, *kinds)(lower)


for _symbol, _instruction in (
    (operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv"),
):  # fmt: skip
    _define_operator(_symbol, _instruction)
